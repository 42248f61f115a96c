"""The viewer's computations without a browser: a point, what is alike to it in slice and scan, and what is shown."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from dinox_hf.data.sources.phantom import phantom_volume
from dinox_hf.evaluation.backbones.features import random_twin
from dinox_hf.serving.networks import QUICKSTART, load_networks
from dinox_hf.serving.pictures import heat_picture, slice_picture
from dinox_hf.serving.scene import Display, position_text, scene
from dinox_hf.serving.viewer import APART_MM, Viewer, coarse_to_fine
from tests.serving.conftest import tiny_backbone

CENTRE = (32, 32)  # of the phantom below: the mediastinum


@pytest.fixture(scope="module")
def volume():
    return phantom_volume(seed=1, size=64, num_slices=12)[0]


@pytest.fixture(scope="module")
def backbones():
    return [("first", tiny_backbone()), ("second", random_twin(tiny_backbone(), seed=1))]


@pytest.fixture
def viewer(volume, backbones):
    return Viewer(volume, "phantom", backbones, pixel_mm=1.5)


@pytest.fixture(scope="module")
def compared(volume, backbones):
    """A viewer that has seen every slice, with a point in the middle."""
    viewer = Viewer(volume, "phantom", backbones, pixel_mm=1.5)
    viewer.click(*CENTRE)
    assert list(viewer.encode_all(60))[-1] == 12
    return viewer


def picture(url):
    return np.array(Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))))


def test_a_slice_is_shown_through_its_window_with_its_fill_black():
    pixels = picture(slice_picture(np.array([[-1350, -600, 150, 3000, 9]]), -600, 1500, padding_hu=9))
    assert pixels.tolist() == [[0, 128, 255, 255, 0]]


def test_heat_is_clear_at_the_low_end_of_its_scale_and_full_at_the_high_end():
    pixels = picture(heat_picture(np.array([[0.1, 0.5, 0.625, 2.0]]), 0.5, 1.0))
    assert pixels[0, :, 3].tolist() == [0, 0, 128, 255]
    assert pixels[0, 3, :3].astype(int).sum() > pixels[0, 1, :3].astype(int).sum()


def test_the_patch_of_the_point_is_as_like_it_as_can_be(viewer):
    viewer.click(*CENTRE)
    for look in viewer.looks:
        found = look.features[viewer.slice]
        similarity = look.similarity(viewer.slice)
        assert similarity[found.grid.patch_of(*CENTRE)] == pytest.approx(1, abs=1e-3)
        assert similarity.argmax() == np.ravel_multi_index(found.grid.patch_of(*CENTRE), similarity.shape)


def test_another_point_gives_another_map(viewer):
    viewer.click(*CENTRE)
    before = viewer.looks[0].similarity(viewer.slice)
    viewer.click(30, 16)
    assert np.abs(viewer.looks[0].similarity(viewer.slice) - before).max() > 0.1


def test_air_outside_the_body_is_not_compared_unless_the_point_lies_in_it(viewer):
    viewer.click(*CENTRE)
    assert viewer.looks[0].similarity(viewer.slice)[0, 0] == -1
    viewer.click(0, 0)
    assert viewer.looks[0].similarity(viewer.slice)[0, 0] == pytest.approx(1, abs=1e-3)


def test_a_click_beyond_the_slice_takes_its_nearest_voxel(viewer):
    viewer.click(-3, 99)
    assert (viewer.point.row, viewer.point.column) == (0, 63)


def test_the_strip_knows_the_best_patch_of_every_slice(compared):
    look = compared.looks[0]
    profile = compared.profile(look)
    assert profile == [pytest.approx(look.similarity(index).max(), abs=1e-6) for index in range(12)]
    assert max(profile) == profile[compared.point.slice]


def test_slices_to_jump_to_lie_apart_and_come_best_first(compared):
    look = compared.looks[0]
    best = compared.best_slices(look)
    values = [look.matches[index].value for index in best]
    places = compared.volume.z_mm[[compared.point.slice, *best]]
    assert len(best) > 1 and values == sorted(values, reverse=True)
    assert np.diff(np.sort(places)).min() >= APART_MM


def test_before_all_slices_are_seen_the_strip_has_gaps(viewer):
    viewer.click(*CENTRE)
    known = [value is not None for value in viewer.profile(viewer.looks[0])]
    assert sum(known) == viewer.num_encoded == 1


def test_comparing_stops_when_told_and_when_time_is_up_and_goes_on_later(viewer):
    steps = viewer.encode_all(60)
    assert next(steps) == 1
    assert list(viewer.encode_all(60)) == []  # one at a time
    viewer.stop()
    assert list(steps) == []
    assert list(viewer.encode_all(-1)) == []
    assert list(viewer.encode_all(60)) == list(range(2, 13))


def test_coarse_steps_come_first_and_every_slice_once():
    order = coarse_to_fine(40)
    assert order[:2] == [8, 24] and sorted(order) == list(range(40))


def test_a_backbone_of_neighbours_is_given_neighbours(volume):
    networks = [(channels, tiny_backbone(channels=channels)) for channels in ("windows", "neighbours")]
    viewer = Viewer(volume, "phantom", networks, pixel_mm=1.5)
    viewer.encode(0)
    first, second = (look.features[0].tokens for look in viewer.looks)
    assert first.shape == second.shape and not np.array_equal(first, second)


def test_the_scene_is_plain_json_with_the_place_of_the_point(compared):
    shown = json.loads(json.dumps(scene(compared, Display())))
    x, y, z = compared.position_mm(compared.point)
    assert shown["point"]["position"] == position_text((x, y, z))
    assert z == pytest.approx(compared.volume.z_mm[compared.point.slice])
    assert shown["point"]["hu"].replace("−", "-") == str(compared.volume.voxels[compared.slice][CENTRE])
    assert [panel["name"] for panel in shown["panels"]] == ["first", "second"]
    assert shown["panels"][0]["scale"]["high"] == "1.00" and not shown["isPending"]


def test_a_place_reads_as_radiologists_say_it():
    assert position_text((-34.25, 12.0, -115.0)) == "R 34.2   P 12.0   z −115.0 mm"
    assert position_text((3.0, -12.0, 5.0)) == "L 3.0   A 12.0   z 5.0 mm"


@pytest.mark.parametrize("overlay", ["colours", "attention"])
def test_an_overlay_waits_until_the_networks_have_looked(viewer, overlay):
    display = Display(overlay=overlay)
    waiting = scene(viewer, display)
    assert waiting["isPending"] and waiting["panels"][0]["picture"] is None
    viewer.encode(viewer.slice, with_attention=overlay == "attention")
    ready = scene(viewer, display)
    assert not ready["isPending"]
    pixels = picture(ready["panels"][0]["picture"])
    assert pixels.shape[:2] == viewer.looks[0].features[viewer.slice].grid.shape and pixels[..., 3].max() > 0


def test_one_network_alone_and_no_overlay(compared):
    shown = scene(compared, Display(overlay="none", is_side_by_side=False))
    assert len(shown["panels"]) == 1 and shown["panels"][0]["picture"] is None and not shown["isPending"]


def test_a_window_without_width_is_refused():
    with pytest.raises(ValueError, match="width above 0 HU; found level 40 and width 0"):
        Display("Custom", 40, 0)


def test_without_a_backbone_the_weights_are_random_and_it_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    networks = load_networks()
    assert [name for name, _ in networks.named] == ["random weights"] and "has learned nothing" in networks.warning
    with pytest.raises(ValueError, match="Name both"):
        load_networks(other="elsewhere")


def test_beside_a_backbone_stands_its_random_twin_and_no_folder_above_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    backbone = tiny_backbone()
    backbone.model.save_pretrained(tmp_path / QUICKSTART)
    backbone.processor.save_pretrained(tmp_path / QUICKSTART)
    networks = load_networks()
    (name, subject), (control, twin) = networks.named
    assert (name, control) == ("quickstart/hub", "random weights (control)") and "machinery" in networks.warning
    weights = backbone.model.state_dict()
    assert all((tensor == weights[key]).all() for key, tensor in subject.model.state_dict().items())
    assert subject.digest != twin.digest
