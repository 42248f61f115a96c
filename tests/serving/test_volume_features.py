import dataclasses
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import yaml

import dinox_hf
import training.encode_volume as script
from dinox_hf.evaluation.backbones.features import load_backbone
from dinox_hf.serving import volume_features
from dinox_hf.serving.scan_slices import open_scan
from dinox_hf.serving.slice_features import encode_slice
from dinox_hf.serving.volume_features import VolumeFeatures, encode_volume, open_backbone
from dinox_hf.serving.volume_maps import similarity_from, write_colours, write_similarity
from dinox_hf.serving.volume_picture import draw_planes, through_point
from tests.data.scans import write_series
from tests.evaluation.conftest import write_run
from tests.serving.conftest import ball_hu, oblique_volume, tiny_backbone

BALL = (3, 20, 28)  # (z, y, x)


def test_features_of_a_slice_are_those_of_the_slice_alone(features, backbone, volume):
    assert features.shape == (6, 6, 5, 32)
    alone = encode_slice(backbone, volume.voxels[3], volume.spacing_mm[1:])
    np.testing.assert_allclose(features[3].tokens, alone.tokens, atol=2e-3)
    np.testing.assert_allclose(features[3].mean_hu, alone.mean_hu)


def test_a_point_in_the_patient_finds_its_patch(features, volume):
    point_mm = (volume.affine_lps @ [28, 20, 3, 1])[:3]
    assert features.voxel_at(point_mm) == pytest.approx(BALL)
    z, row, column = features.patch_at(BALL)
    assert (z, row, column) == (3, 2, 3)
    middle_mm = (features.affine_lps @ [column, row, z, 1])[:3]
    assert np.linalg.norm(middle_mm - point_mm) < 8 * 0.8
    with pytest.raises(ValueError, match=r"\(6, 48, 40\) voxels.*found voxel \(3\.0, 20\.0, 41\.0\).*RAS"):
        features.patch_at((3, 20, 41))


def test_similarity_lies_in_the_file_where_it_lies_in_the_patient(features, volume, tmp_path):
    point_mm = tuple((volume.affine_lps @ [28, 20, 3, 1])[:3])
    similarity = similarity_from(features, point_mm=point_mm)
    np.testing.assert_array_equal(similarity, similarity_from(features, voxel=BALL))
    write_similarity(features, similarity, tmp_path / "similarity.nii.gz")
    image = sitk.ReadImage(tmp_path / "similarity.nii.gz")
    assert image.GetSize() == (40, 48, 6)
    np.testing.assert_allclose(image.GetOrigin(), volume.affine_lps[:3, 3], atol=1e-4)
    axes = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    np.testing.assert_allclose(axes, volume.affine_lps[:3, :3], atol=1e-5)
    assert image.TransformPhysicalPointToIndex(point_mm) == (28, 20, 3)
    values = sitk.GetArrayFromImage(image)
    z, y, x = np.unravel_index(values.argmax(), values.shape)
    assert z == 3 and features.patch_at((z, y, x)) == features.patch_at(BALL)
    np.testing.assert_allclose(values[3], features.grid.on_slice(similarity[3]), atol=1e-4)


def test_colours_are_rgb_voxels_and_the_same_again(features, tmp_path):
    for name in ("a.nii.gz", "b.nii"):
        write_colours(features, tmp_path / name)
    first, second = (sitk.ReadImage(tmp_path / name) for name in ("a.nii.gz", "b.nii"))
    assert first.GetNumberOfComponentsPerPixel() == 3 and first.GetSize() == (40, 48, 6)
    colours = sitk.GetArrayFromImage(first)
    np.testing.assert_array_equal(colours, sitk.GetArrayFromImage(second))
    # The ball stands out of the lung around it.
    assert np.abs(colours[3, 20, 28].astype(int) - np.median(colours[0, :, 8:], axis=(0, 1))).max() > 60


def test_a_point_is_given_once(features):
    with pytest.raises(ValueError, match=r"either as point_mm .* or as voxel"):
        similarity_from(features)
    with pytest.raises(ValueError, match=r"Give one of them"):
        similarity_from(features, point_mm=(0, 0, 0), voxel=BALL)


def test_an_interrupted_encoding_goes_on_where_it_stopped(features, backbone, volume, tmp_path, monkeypatch):
    seen = []

    def stopped(*arguments):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(1)
        return encode_slice(*arguments)

    monkeypatch.setattr(volume_features, "encode_slice", stopped)
    with pytest.raises(KeyboardInterrupt):
        encode_volume(volume, backbone, tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"should hold the features of 6 slices; found 2"):
        VolumeFeatures(tmp_path)
    (tmp_path / "features.zarr" / "tokens" / "2.0.0.0.x.unfinished").write_text("half")
    monkeypatch.setattr(volume_features, "encode_slice", lambda *a: (seen.append(1), encode_slice(*a))[1])
    again = encode_volume(volume, backbone, tmp_path, progress=False)
    assert len(seen) == 6
    assert all(np.array_equal(again[z].tokens, features[z].tokens) for z in range(6))
    assert not list(tmp_path.rglob("*.unfinished"))


def test_other_features_are_not_mixed_with_these(features, backbone, volume):
    with pytest.raises(ValueError, match=r"found others: pixel_mm, shape, affine_lps differ"):
        encode_volume(volume, backbone, features.folder, pixel_mm=0.4)
    changed = volume.voxels.copy()
    changed[0, 0, 0] += 1
    with pytest.raises(ValueError, match=r"found others: scan_checksum differ"):
        encode_volume(dataclasses.replace(volume, voxels=changed), backbone, features.folder)


def test_a_dicom_series_gives_the_features_of_its_volume(backbone, tmp_path):
    voxels = ball_hu()
    write_series(tmp_path / "dicom", voxels, ImageOrientationPatient=[-1, 0, 0, 0, 1, 0])
    volume = next(found for found in dinox_hf.read_series(tmp_path / "dicom") if hasattr(found, "voxels"))
    assert not np.array_equal(volume.voxels, voxels)  # it was turned
    streamed = encode_volume(tmp_path / "dicom", backbone, tmp_path / "a", progress=False)
    whole = encode_volume(volume, backbone, tmp_path / "b", progress=False)
    assert streamed.record == whole.record
    assert all(np.array_equal(streamed[z].tokens, whole[z].tokens) for z in range(6))


def test_neighbours_are_those_of_the_run(volume, tmp_path):
    thin = dataclasses.replace(volume, z_mm=volume.z_mm / 5)  # slices 0.5 mm apart
    network = tiny_backbone(channels="neighbours")
    far = encode_volume(thin, network, tmp_path / "far", neighbour_mm=1.0, progress=False)
    alone = encode_slice(network, volume.voxels[[1, 3, 5]], volume.spacing_mm[1:])
    np.testing.assert_allclose(far[3].tokens, alone.tokens, atol=2e-3)
    assert far.record["neighbour_mm"] == 1.0


def test_a_run_is_opened_at_its_last_checkpoint_with_the_distance_of_its_neighbours(tmp_path):
    run = write_run(tmp_path / "run", tmp_path)
    earlier = run / "checkpoints" / "step_00000003"
    earlier.mkdir()
    (earlier / "state.json").write_text("{}")
    record = yaml.safe_load((run / "run.yaml").read_text())
    record["data"]["neighbour_mm"] = 2.5
    (run / "run.yaml").write_text(yaml.safe_dump(record))
    backbone, neighbour_mm = open_backbone(run)
    assert backbone.digest == load_backbone(run / "checkpoints" / "step_00000020" / "backbone").digest
    assert neighbour_mm == 2.5


@pytest.mark.parametrize("kind", ["empty", "two series", "label map", "no backbone"])
def test_what_cannot_be_encoded_is_refused_with_a_reason(kind, backbone, tmp_path):
    scan = tmp_path / "scan"
    scan.mkdir()
    if kind == "empty":
        expected = "Expected a CT scan at .*scan; found"
    elif kind == "two series":
        for number in (1, 2):
            write_series(scan / str(number), SeriesInstanceUID=f"1.2.{number}")
        expected = r"found 2: 1\.2\.1 \(6 slices\); 1\.2\.2 \(6 slices\)"
    elif kind == "label map":
        sitk.WriteImage(sitk.GetImageFromArray(np.ones((3, 8, 8), np.int16)), scan / "labels.nii.gz")
        expected = r"labels\.nii\.gz: should hold HU"
    else:
        scan, backbone = oblique_volume(), str(tmp_path / "nothing")
        expected = "found nothing that loads at"
    with pytest.raises(ValueError, match=expected):
        encode_volume(scan, backbone, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_named_series_is_taken(backbone, tmp_path):
    for number in (1, 2):
        write_series(tmp_path / "scan" / str(number), SeriesInstanceUID=f"1.2.{number}", first_z_mm=float(number))
    found = encode_volume(tmp_path / "scan", backbone, tmp_path / "out", series_id="1.2.2", progress=False)
    assert found.record["series_id"] == "1.2.2" and found.scan_affine_lps[2, 3] == 2.0
    with pytest.raises(ValueError, match=r"Expected series 9 at .*found 2"):
        encode_volume(tmp_path / "scan", backbone, tmp_path / "other", series_id="9", progress=False)


def test_planes_pass_through_the_point(features, volume, tmp_path):
    z, y, x = np.indices(volume.voxels.shape)
    axial, coronal, sagittal = through_point(10000 * z + 100 * y + x, BALL)
    assert (axial[5, 7], coronal[5, 7], sagittal[5, 7]) == (30507, 52007, 50728)
    similarity = similarity_from(features, voxel=BALL)
    draw_planes(tmp_path / "planes.png", open_scan(volume), features, similarity, BALL)
    assert (tmp_path / "planes.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_refuses_a_point_outside_before_it_encodes(tmp_path, monkeypatch):
    write_series(tmp_path / "scan")
    arguments = [str(tmp_path / "scan"), "backbone", str(tmp_path / "out"), "--point-mm", "0", "0", "500"]
    monkeypatch.setattr(sys, "argv", ["encode_volume.py", *arguments])
    with pytest.raises(ValueError, match=r"A point should lie in the scan of \(6, 24, 20\) voxels"):
        script.main()
    assert not (tmp_path / "out").exists()
