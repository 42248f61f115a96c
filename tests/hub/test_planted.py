"""Every check against a planted offence: what must not leave is found, named, and stops the push."""

import json
import pickle
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dinox_hf.data.building.pseudonyms import Pseudonyms
from dinox_hf.data.schema import SLICE_FEATURES
from dinox_hf.data.sources.lidc_idri import collection_of
from dinox_hf.hub.card_checks import (
    refuse_invalid_card,
    refuse_invalid_dataset_card,
    refuse_unstated_head_licences,
    refuse_unstated_licences,
)
from dinox_hf.hub.checks import PUBLISHABLE, refuse_file_kinds, refuse_large_files, refuse_leaks
from dinox_hf.hub.identifiers import (
    is_public,
    is_salted,
    patients_of,
    refuse_identifiers_in_rows,
    refuse_identifiers_in_text,
)
from dinox_hf.hub.release import files_in, run_check
from dinox_hf.hub.shards import copy_weights
from tests.data.built_set import noisy_series, series_rows

SALTED = Pseudonyms(b"a secret of sixteen bytes")
UID = "1.3.12.2.1107.5.1.4.1234.30000015"


@pytest.fixture
def model(published, tmp_path):
    """A published model to plant something in."""
    shutil.copytree(published[0], tmp_path / "model")
    return tmp_path / "model"


def test_an_honest_folder_passes_every_check(model):
    files = files_in(model)
    for check in (
        run_check("kinds", lambda: refuse_file_kinds(files, PUBLISHABLE)),
        run_check("machine", lambda: refuse_leaks(files, {"/home/anna"})),
        run_check("identifiers", lambda: refuse_identifiers_in_text(files, {"P-4711"})),
        run_check("card", lambda: refuse_invalid_card((model / "README.md").read_text())),
        run_check("sizes", lambda: refuse_large_files(files)),
    ):
        assert check.is_passed, check


def test_a_pickle_is_found_under_any_name(model):
    with (model / "model.safetensors").open("wb") as file:
        pickle.dump({"weights": 1}, file)
    with pytest.raises(ValueError, match=r"found model\.safetensors"):
        refuse_file_kinds(files_in(model), PUBLISHABLE)


def test_a_path_of_the_machine_in_a_card_is_found(model):
    (model / "README.md").write_text((model / "README.md").read_text() + "\nTrained on /mnt/raid/ct.\n")
    with pytest.raises(ValueError, match=r"README\.md: /mnt/raid/ct"):
        refuse_leaks(files_in(model), set())


def test_an_access_token_is_found_and_not_repeated(model):
    (model / "config.json").write_text(json.dumps({"token": "hf_" + "aB3" * 11}))
    with pytest.raises(ValueError, match=r"config\.json: an access token") as failure:
        refuse_leaks(files_in(model), set())
    assert "aB3" not in str(failure.value)


def test_a_uid_in_a_card_or_inside_a_picture_is_found(model):
    (model / "README.md").write_text(f"Seen best in {UID}.")
    info = PngInfo()
    info.add_text("Series", UID)
    Image.new("L", (4, 4)).save(model / "figures" / "attention.png", pnginfo=info)
    with pytest.raises(ValueError, match=rf"README\.md: {UID}; figures/attention\.png: {UID}"):
        refuse_identifiers_in_text(files_in(model), set())


def test_a_patient_of_the_training_set_is_found_in_a_card(model):
    (model / "README.md").write_text("Patient P-4711 is hard to read.")
    with pytest.raises(ValueError, match=r"README\.md: P-4711.*--salt-file"):
        refuse_identifiers_in_text(files_in(model), {"P-4711", "P-4712"})


@pytest.mark.parametrize("name", ["license", "library_name", "pipeline_tag", "tags"])
def test_a_card_without_a_field_is_found(model, name):
    card = (model / "README.md").read_text().replace(f"\n{name}:", f"\nno_{name}:")
    with pytest.raises(ValueError, match=f"`{name}`"):
        refuse_invalid_card(card)


def test_metadata_that_is_no_yaml_is_found():
    with pytest.raises(ValueError, match=r"should be YAML; found.*mapping values are not allowed"):
        refuse_invalid_card("---\nlicense: gpl-3.0: x\n---\n")


def test_a_blank_left_in_a_card_is_found(model):
    with pytest.raises(ValueError, match=r"found '\$summary' left in it"):
        refuse_invalid_card((model / "README.md").read_text() + "\n$summary\n")


def test_a_file_that_is_too_large_is_found(model):
    with pytest.raises(ValueError, match=r"at most 1 MB; found model\.safetensors of 1\.\d+ MB"):
        refuse_large_files(files_in(model), limit=10**6)


def test_weights_above_the_limit_are_split_and_load_alike(published, tmp_path):
    from safetensors.torch import load_file

    copy_weights(published[0], tmp_path, limit=500_000)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 3 and all(path.stat().st_size <= 520_000 for path in shards)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    whole = load_file(published[0] / "model.safetensors")
    split = {name: tensor for path in shards for name, tensor in load_file(path).items()}
    assert whole.keys() == split.keys() and all(whole[name].equal(split[name]) for name in whole)


class Facts:
    dataset_name = "Chest CT"
    dataset = {"license": "cc-by-4.0"}  # noqa: RUF012
    first_weights = None


def test_weights_and_data_without_a_licence_are_found():
    class Unknown(Facts):
        dataset = {"license": "other"}  # noqa: RUF012

    class FromElsewhere(Facts):
        first_weights = ("somebody/weights", None)

    with pytest.raises(ValueError, match=r"licence of the training data; found none for Chest CT.*README\.md"):
        refuse_unstated_licences(Unknown())
    with pytest.raises(ValueError, match=r"found none for somebody/weights.*lineage: origin: licence"):
        refuse_unstated_licences(FromElsewhere())
    with pytest.raises(ValueError, match=r"base None, data 'cc0-1\.0'"):
        refuse_unstated_head_licences({"base": {"licence": None}, "data": {"licence": "cc0-1.0"}})


def test_metas_licence_is_told_where_training_began_with_their_weights():
    class FromMeta(Facts):
        first_weights = ("facebook/dinov3-vits16-pretrain-lvd1689m", "dinov3-license")

    assert refuse_unstated_licences(FromMeta()).startswith("weights dinov3-license, like facebook/dinov3-vits16")


# Data sets


def write_shard(folder, patient, series=None, uid="2.25.", schema_metadata=None, **columns):
    """One shard of a salted set, in which something may be planted."""
    salted = {"patient_id": SALTED.patient(patient), "series_id": series or SALTED.uid(f"{patient} 1")}
    rows = [
        row | salted | {"slice_uid": SALTED.uid(row["slice_uid"])} | columns
        for row in series_rows(noisy_series(0, (2, 4, 4)), patient)
    ]
    table = pa.Table.from_pylist(rows, schema=SLICE_FEATURES.arrow_schema)
    path = folder / "slices" / "train-00000-of-00001.parquet"
    path.parent.mkdir(exist_ok=True, parents=True)
    pq.write_table(table.replace_schema_metadata(schema_metadata), path)
    return {"slices/train-00000-of-00001.parquet": path}


def test_what_the_builder_writes_is_what_the_check_takes():
    assert is_salted(SALTED.patient("4711")) and is_salted(SALTED.uid(UID)) and not is_salted(UID)
    assert not is_salted("2.25.329800735698586629295641978511506172918")  # of a scanner: a version 4 UUID
    for patients in (["LIDC-IDRI-0001", "LIDC-IDRI-1012"], ["PHANTOM-0001"], ["4711"]):
        assert is_public(patients) == bool(collection_of(patients).get("is_public"))


def test_a_salted_set_passes(tmp_path):
    shards = write_shard(tmp_path, "4711")
    assert refuse_identifiers_in_rows(shards, {"/home/anna"}) == "1 patients by salted hashes"
    assert patients_of(shards.values()) == {SALTED.patient("4711")}


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ({"patient_id": "MUELLER-4711"}, r"patient_id: MUELLER-4711"),
        ({"series_id": UID}, rf"series_id: {UID}"),
        ({"slice_uid": "2.25.329800735698586629295641978511506172918"}, r"slice_uid: 2\.25\.3298"),
        ({"modality": f"ct of {UID}"}, rf"modality: {UID}"),
        ({"modality": "/data/scans/7"}, r"modality: /data/scans/7"),
    ],
)
def test_an_identifier_in_any_column_is_found(tmp_path, planted, found):
    shards = write_shard(tmp_path, "4711", **planted)
    with pytest.raises(ValueError, match=rf"slices/train-.*{found}.*--salt-file"):
        refuse_identifiers_in_rows(shards, set())


def test_an_identifier_in_the_metadata_of_a_shard_is_found(tmp_path):
    shards = write_shard(tmp_path, "4711", schema_metadata={"source": f"export of {UID}"})
    with pytest.raises(ValueError, match=rf"metadata: {UID}"):
        refuse_identifiers_in_rows(shards, set())


def dataset_card(num_rows=2, licence="cc-by-4.0", features=tuple(SLICE_FEATURES)):
    metadata = {
        "pretty_name": "Chest CT",
        "license": licence,
        "configs": [{"config_name": "slices"}],
        "dataset_info": [
            {
                "config_name": "slices",
                "features": [{"name": name} for name in features],
                "splits": [{"name": "train", "num_examples": num_rows}],
            }
        ],
    }
    return f"---\n{json.dumps(metadata)}\n---\n\n# Chest CT\n"


def test_a_dataset_card_has_to_tell_what_the_shards_hold(tmp_path):
    shards = write_shard(tmp_path, "4711")
    assert "licence cc-by-4.0; 1 splits" in refuse_invalid_dataset_card(dataset_card(), shards)
    with pytest.raises(ValueError, match=r"found 2 rows.*it says 3"):
        refuse_invalid_dataset_card(dataset_card(num_rows=3), shards)
    with pytest.raises(ValueError, match=r"one of them only: \['image'\]"):
        refuse_invalid_dataset_card(dataset_card(features=tuple(SLICE_FEATURES)[1:]), shards)
    with pytest.raises(ValueError, match=r"found slices/extra\.parquet"):
        refuse_invalid_dataset_card(dataset_card(), shards | {"slices/extra.parquet": tmp_path})
    with pytest.raises(ValueError, match=r"license: other.*license_name"):
        refuse_invalid_dataset_card(dataset_card(licence="other"), shards)
