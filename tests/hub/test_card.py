import dataclasses
import json
import re

import pytest
from huggingface_hub import ModelCard

from dinox_hf.evaluation.backbones.learning import latest_checkpoint
from dinox_hf.evaluation.probes.probe_suite import questions
from dinox_hf.hub.card import render_card, validate_metadata
from dinox_hf.hub.card_facts import (
    CardFacts,
    dataset_metadata,
    metadata_of,
    read_card_facts,
    report_of,
    seconds_in_loop,
)

from .conftest import LINEAGE, make_report


@pytest.fixture(scope="module")
def facts(finished_run, published) -> CardFacts:
    checkpoint = latest_checkpoint(finished_run)
    return read_card_facts(finished_run, checkpoint, published[0], report_of(finished_run, checkpoint))


def section(card, title):
    return re.search(rf"## {title}\n\n(.*?)\n\n## ", card, re.DOTALL).group(1)


def test_metadata_says_how_the_hub_may_offer_the_model(facts):
    data = ModelCard(render_card(facts)).data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "gpl-3.0",
        "transformers",
        "image-feature-extraction",
    )


def test_a_model_of_phantoms_says_that_it_is_of_no_use_for_patients(facts):
    card = render_card(facts)
    assert "synthetic data" in card and "no use for patients" in card
    assert "synthetic-data" in ModelCard(card).data.tags


def test_a_model_of_real_scans_does_not(facts):
    card = render_card(dataclasses.replace(facts, dataset={"pretty_name": "LIDC-IDRI", "license": "cc-by-3.0"}))
    assert "synthetic" not in card and "under cc-by-3.0" in card


def with_origin(facts, **origin):
    return dataclasses.replace(facts, run=facts.run | {"lineage": facts.run["lineage"] | {"origin": origin}})


def test_released_weights_bring_their_licence_through_every_stage(facts):
    released = {"weights": "facebook/dinov3-vits16-pretrain-lvd1689m", "licence": "dinov3-license", "origin": None}
    card = render_card(
        with_origin(facts, from_run="outputs/gram", origin={"from_run": "outputs/a", "origin": released})
    )
    data = ModelCard(card).data
    assert (data.license, data.license_name, data.base_model) == ("other", "dinov3-license", released["weights"])
    assert "derived from them and stay under their licence `dinov3-license`" in section(card + "\n\n## ", "Licence")
    assert "outputs/gram" not in card


@pytest.mark.parametrize(
    ("name", "told"),
    [("LIDC-IDRI", "GE (670), Siemens (205)"), ("Lungs of our clinic", "records neither scanners nor")],
)
def test_the_card_tells_whom_the_training_images_show_as_far_as_is_known(facts, name, told):
    real = dataclasses.replace(facts, dataset={**(facts.dataset or {}), "pretty_name": name, "tags": []})
    assert told in section(render_card(real), "Training data")


STAGE_1 = {
    "from_run": "/scratch/jane/pretrain",
    "step": 100,
    "images_per_step": 16,
    "data_fingerprint": "cafe",
    "data_num_slices": 5000,
    "dinox_hf_commit": "abc",
    "origin": None,
}
STAGE_2 = {"from_run": "/scratch/jane/gram", "step": 30, "images_per_step": 8, "sha256": "5ha", "origin": STAGE_1}


def test_the_card_of_a_third_stage_counts_the_two_before_it(facts):
    card = render_card(with_origin(facts, **STAGE_2))
    rows = [line for line in section(card, "Training").splitlines() if line.startswith("|")]
    assert rows[2:6] == [
        "| 1: pretrain | 100 | 1,600 | 5,000 | cafe |",
        "| 2: gram | 30 | 240 | – | – |",
        "| 3: this run | 20 | 160 | 120 | f00dfeed |",
        "| total | 150 | 2,000 |  |  |",
    ]
    assert "| Updates in stage 3 | 20 of 20 planned |" in rows and "/scratch" not in card
    lineage = section(card, "Lineage")
    assert "| Stage 1 | pretrain after 100 updates, commit abc, data cafe |" in lineage
    assert "| Stage 2 | gram after 30 updates, backbone's SHA-256 5ha |" in lineage


def test_a_stage_that_recorded_no_images_leaves_their_total_open(facts):
    stage = {name: value for name, value in STAGE_1.items() if name != "images_per_step"}
    training = section(render_card(with_origin(facts, **STAGE_2 | {"origin": stage})), "Training")
    assert "| 1: pretrain | 100 | – |" in training and "| total | 150 | – |" in training
    assert "not recorded by that run" in training


def test_released_weights_beneath_the_stages_are_named(facts):
    released = {"weights": "facebook/dinov3-x", "revision": "0123", "licence": "dinov3-license", "sha256": "9f"}
    card = render_card(with_origin(facts, **STAGE_1 | {"origin": released}))
    assert "Before stage 1: the weights of facebook/dinov3-x, whose own" in section(card, "Training")
    assert "| First weights | facebook/dinov3-x, SHA-256 9f |" in section(card, "Lineage")
    assert ModelCard(card).data.base_model == "facebook/dinov3-x"


def test_a_backbone_of_an_earlier_run_is_a_stage_under_its_licence(facts):
    weights = {"weights": "/scratch/jane/pretrain/checkpoints/step_00000100/backbone", "licence": "gpl-3.0"}
    card = render_card(with_origin(facts, **STAGE_1 | weights))
    assert "| 1: pretrain | 100 | 1,600 |" in card and ModelCard(card).data.license == "gpl-3.0"
    # Recorded without its run: named by its path, but of unknown licence.
    card = render_card(with_origin(facts, **weights | {"licence": None, "origin": None}))
    assert "weights of pretrain after 100 steps." in card and ModelCard(card).data.license_name == "unknown"
    assert "/scratch" not in card


def test_a_run_that_goes_on_from_none_has_no_stages(facts):
    training = section(render_card(facts), "Training")
    assert "stage" not in training and "| Updates | 20 of 20 planned |" in training


def test_adapters_are_told(facts):
    assert "LoRA" not in section(render_card(facts), "Training")
    run = facts.run | {"lora": {"rank": 4}}
    card = render_card(dataclasses.replace(facts, run=run))
    assert "| Trained | LoRA of rank 4, merged into the weights it began with |" in card


def test_results_say_what_training_added_to_the_first_weights(facts):
    assert "Before and after" not in section(render_card(facts), "Results")
    gain = {"pooling": "cls", "gain": 0.02, "interval": [-0.01, 0.05], "attributes": ["margin"], "always_zero": False}
    record = {"name": "pretrain after 100 steps", "missing": None, "gains": [gain], "lora_rank": None}
    card = render_card(dataclasses.replace(facts, report=facts.report | {"before_after": record}))
    assert "starting weights (pretrain after 100 steps)" in card and "cls +0.020 (-0.010 to +0.050)" in card


def test_weights_from_a_folder_are_named_without_its_path_and_an_unknown_licence_says_so(facts):
    card = render_card(with_origin(facts, weights="/scratch/jane/dinov3-vits16", licence=None, origin=None))
    assert ModelCard(card).data.license_name == "unknown" and "/scratch" not in card
    assert "weights of dinov3-vits16." in card and "not known here" in card


def test_a_random_start_is_ours_to_license(facts):
    assert ModelCard(render_card(facts)).data.license == "gpl-3.0"
    earlier = with_origin(facts, from_run="outputs/a", origin=None)
    assert ModelCard(render_card(earlier)).data.license == "gpl-3.0"


def test_every_model_is_for_research_only(facts):
    assert "Research use only" in render_card(dataclasses.replace(facts, dataset={}))


def test_without_a_report_the_results_say_not_measured(facts):
    card = render_card(dataclasses.replace(facts, report=None))
    assert section(card, "Results") == "Not measured."
    assert "model-index" not in metadata_of(card)


def test_every_score_stands_beside_its_controls_and_names_its_pooling(facts):
    rows = [
        line for line in section(render_card(facts), "Results").splitlines() if line.startswith("| malignancy A |")
    ]
    assert [row.split(" | ")[2] for row in rows] == ["cls", "mean"]
    # backbone, random weights of the same pooling, size only, raw pixels
    assert re.findall(r"(0\.\d{3}) \(", rows[0]) == ["0.900", "0.786", "0.671", "0.557"]


def test_the_evaluations_figures_are_shown_where_they_lie(facts, published):
    path = re.search(r"!\[CLS attention.*?\]\((.*?)\)", render_card(facts)).group(1)
    assert (published[0] / path).is_file()


def test_a_probe_without_numbers_says_why(facts):
    assert "not measured, label 1 has 3 nodules of 2 patients" in section(render_card(facts), "Results")


def test_metadata_holds_malignancy_of_the_cls_token_with_interval_and_controls(facts):
    results = ModelCard(render_card(facts)).data.eval_results
    assert [result.metric_value for result in results] == [0.9]
    assert results[0].metric_name == (
        "AUC, cls pooling (95 % interval 0.860 to 0.940; random weights 0.786, size only 0.671, raw pixels 0.557)"
    )
    assert results[0].dataset_name == "Phantom chest CT"


def test_two_questions_keep_their_own_names_in_the_metadata(facts):
    """The Hub's format joins results of one task and data set: a question is told apart by its configuration."""
    names = [question.name for question in questions()[:2]]
    first = facts.report["probes"][0]
    report = facts.report | {"probes": [first | {"question": name} for name in (*names, "texture")]}
    results = ModelCard(render_card(dataclasses.replace(facts, report=report))).data.eval_results
    # The attributes stand in the card's table alone.
    assert [result.task_name for result in results] == [f"Linear probe: nodule {name}" for name in names]


def test_an_evaluation_of_another_checkpoint_is_refused(tmp_path):
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "report.json").write_text(json.dumps(make_report("step_00000010")))
    with pytest.raises(ValueError, match=r"step_00000020.*step_00000010.*evaluate\.py"):
        report_of(tmp_path, tmp_path / "checkpoints" / "step_00000020")


def test_the_lineage_names_code_data_and_amount_of_training(facts):
    card = render_card(facts)
    assert LINEAGE["dinox_hf_commit"] in section(card, "Lineage")
    assert LINEAGE["data_fingerprint"] in section(card, "Lineage")
    assert "| Images seen | 160 (8 an update) |" in card


def test_what_the_run_did_not_record_has_no_line(facts):
    run = {name: value for name, value in facts.run.items() if name != "lineage"}
    card = render_card(dataclasses.replace(facts, run=run, seconds=None))
    for absent in ("Images seen", "Time in the training loop", "commit", "| None |"):
        assert absent not in card


def test_gram_anchoring_is_claimed_only_once_it_has_begun(facts):
    def objective(first_step):
        run = facts.run | {"gram": {"first_step": first_step}}
        return section(render_card(dataclasses.replace(facts, run=run, step=20)), "Training")

    assert "Gram" not in objective(None) and "Gram" not in objective(20)
    assert "Gram anchoring from step 0" in objective(0)


def test_neighbouring_slices_make_the_snippets_take_three_slices(facts):
    card = render_card(dataclasses.replace(facts, processor=facts.processor | {"channels": "neighbours"}))
    assert "(3, 512, 512)" in card and "level, width = -600, 1500" in card


def test_a_name_on_the_hub_stands_in_the_snippets(facts):
    card = render_card(dataclasses.replace(facts, repo="dinox/tiny-ct"))
    assert card.count('from_pretrained("dinox/tiny-ct"') == 3 and 'model="dinox/tiny-ct"' in card


def test_the_data_sets_card_is_found_from_a_folder_above_the_run(tmp_path):
    (tmp_path / "out" / "data").mkdir(parents=True)
    (tmp_path / "out" / "data" / "README.md").write_text("---\npretty_name: Chest CT\n---\n")
    assert dataset_metadata(tmp_path / "out" / "run", ["out/data"]) == {"pretty_name": "Chest CT"}
    assert dataset_metadata(tmp_path / "out" / "run", ["out/gone"]) == {}


def test_a_mixture_has_the_licence_and_the_tags_that_its_sets_share(tmp_path):
    for name, licence, tags in (
        ("a", "cc-by-3.0", "[ct]"),
        ("b", "cc-by-3.0", "[ct, synthetic]"),
        ("c", "cc0-1.0", "[ct]"),
    ):
        (tmp_path / name).mkdir()
        card = f"---\npretty_name: Set {name}\nlicense: {licence}\ntags: {tags}\n---\n"
        (tmp_path / name / "README.md").write_text(card)
    alike = dataset_metadata(tmp_path / "run", ["a", "b"])
    assert alike == {"pretty_name": "Set a + Set b", "license": "cc-by-3.0", "tags": ["ct"]}
    assert dataset_metadata(tmp_path / "run", ["a", "c"])["license"] == "other"
    assert dataset_metadata(tmp_path / "run", ["a", "gone"]) == {}


def test_time_is_summed_over_the_logged_stretches():
    records = [{"step": 1, "images_per_second": 2.0}, {"step": 5, "images_per_second": 8.0}]
    # 8 images at 2 a second, then 4 updates of 8 at 8 a second.
    assert seconds_in_loop(records, images_per_step=8, step=5) == pytest.approx(4 + 4)
    # Step 4 was not logged: no guess.
    assert seconds_in_loop(records, images_per_step=8, step=4) is None


def test_a_card_without_a_licence_is_refused():
    with pytest.raises(ValueError, match=r"`license`.*None"):
        validate_metadata("---\nlibrary_name: transformers\n---\n\n# Model\n")


def test_a_result_without_a_number_is_refused():
    metric = "{task: {type: t}, dataset: {type: d, name: d}, metrics: [{type: auc, value: .nan}]}"
    head = "license: gpl-3.0\nlibrary_name: transformers\npipeline_tag: x\ntags: [ct]"
    with pytest.raises(ValueError, match="not measured"):
        validate_metadata(f"---\n{head}\nmodel-index: [{{name: m, results: [{metric}]}}]\n---\n")
