import numpy as np
import pytest

from dinox_hf.data.sources.phantom import make_patient, phantom_volume
from dinox_hf.data.sources.phantom_anatomy import draw_anatomy, ellipse, frame_of, thorax_slice
from dinox_hf.data.sources.phantom_scanner import KERNELS, STORAGES, Grid, Scan, acquire
from dinox_hf.data.sources.phantom_vessels import grow_tree, vessel_coverage


@pytest.fixture(scope="module")
def patient():
    return make_patient(seed=5, number=1, size=96, num_slices=12)


def test_a_seed_gives_one_volume_and_another_seed_another_patient():
    first, nodules = phantom_volume(3, size=48, num_slices=6)
    again, same_nodules = phantom_volume(3, size=48, num_slices=6)
    other, _ = phantom_volume(4, size=48, num_slices=6)
    assert (first.voxels == again.voxels).all() and nodules == same_nodules and first.slice_uids == again.slice_uids
    assert (first.voxels != other.voxels).any() and first.patient_id != other.patient_id
    assert not set(first.slice_uids) & set(other.slice_uids)


def test_the_volume_in_memory_says_where_its_nodules_lie():
    volume, nodules = phantom_volume(0)
    assert volume.voxels.shape == (12, 64, 64) and volume.voxels.dtype == np.int16
    assert volume.spacing_mm[0] == pytest.approx(np.diff(volume.z_mm).mean())
    to_index = np.linalg.inv(volume.affine_lps)
    for nodule in nodules:
        z, y, x = nodule.centre_mm
        column, row, slice_ = (to_index @ [x, y, z, 1])[:3].round().astype(int)
        # Lung is near -850 HU: what lies at the centre is tissue.
        assert volume.voxels[slice_, row, column] > -600


def test_a_chest_holds_air_lung_fat_muscle_and_bone():
    anatomy = draw_anatomy(np.random.default_rng(0), width_mm=300)
    axis = np.arange(-159, 160, 2.0)
    hu, lung_share = thorax_slice(anatomy, frame_of(anatomy, axis, axis), z_mm=-40)
    assert hu[0, 0] == -1000
    assert (hu[lung_share == 1] < -700).mean() > 0.99
    assert 0.15 < lung_share.mean() < 0.45
    for low, high in ((-120, -70), (35, 70), (400, 800)):
        assert ((hu > low) & (hu < high)).mean() > 0.005


def test_the_heart_lies_to_the_left_and_the_spine_behind():
    anatomy = draw_anatomy(np.random.default_rng(0), width_mm=300)
    axis = np.arange(-159, 160, 2.0)
    hu, lung_share = thorax_slice(anatomy, frame_of(anatomy, axis, axis), z_mm=-45)
    left, right = lung_share[:, axis > 0].sum(), lung_share[:, axis < 0].sum()
    assert left < 0.95 * right
    middle = hu[:, np.abs(axis) < 20]
    assert (middle[axis > 45] > 400).sum() > 2 * (middle[axis < 0] > 400).sum()


def test_distance_to_a_circle_is_exact():
    distance = ellipse(np.array([3.0, 6.0]), np.array([4.0, 8.0]), 7.0, 7.0)
    np.testing.assert_allclose(distance, [-2.0, 3.0], atol=2e-2)


def test_vessels_taper_from_the_root_and_reach_every_target():
    rng = np.random.default_rng(0)
    targets = rng.uniform(-40, 40, (60, 3))
    branches = grow_tree(rng, np.zeros(3), targets.copy(), tip_radius_mm=0.5)
    assert (branches[:, 6] >= branches[:, 7]).all()
    assert branches[:, 6].max() > 1.5 * branches[:, 7].min() == pytest.approx(0.75)
    ends = branches[60:, 3:6]
    gaps = np.linalg.norm(targets[:, None] - ends[None], axis=2).min(axis=1)
    assert gaps.max() < 1e-4


def test_a_straight_vessel_has_its_volume_whatever_the_voxel():
    branch = np.array([[0, 0, 0, 20, 0, 0, 3, 3]], np.float32)
    for spacing in (0.5, 1.5):
        count = round(30 / spacing)
        grid = Grid((count,) * 3, (spacing,) * 3, (-5.0, -15.0, -15.0))
        volume_mm3 = vessel_coverage(grid, branch).sum() * spacing**3
        # A cylinder with a round cap at either end.
        assert volume_mm3 == pytest.approx(np.pi * 9 * 20 + 4 / 3 * np.pi * 27, rel=0.06)


def test_sharp_kernels_are_noisier_and_finer_than_soft_ones():
    grid = Grid((4, 96, 96), (2.0, 1.2, 1.2), (0.0, -57.0, -57.0))
    spread, likeness = [], []
    for kernel in KERNELS:
        scan = Scan(grid, kernel, STORAGES[3], dose=1.0)
        noise = acquire(np.random.default_rng(0), scan, np.zeros(grid.shape, np.float32)).astype(float)
        spread.append(noise.std())
        likeness.append((noise[:, :, 1:] * noise[:, :, :-1]).mean() / noise.var())
    assert spread == sorted(spread) and likeness == sorted(likeness, reverse=True)


@pytest.mark.parametrize("storage", STORAGES, ids=lambda storage: storage.vendor)
def test_the_fill_lies_outside_the_round_field_of_view_only(storage):
    grid = Grid((2, 64, 64), (2.0, 1.2, 1.2), (0.0, -37.8, -37.8))
    ideal_hu = np.full(grid.shape, 40, np.float32)
    voxels_hu = acquire(np.random.default_rng(0), Scan(grid, KERNELS[0], storage, 1.0), ideal_hu)
    corner, centre = voxels_hu[0, 0, 0], voxels_hu[0, 32, 32]
    assert -100 < centre < 200
    assert corner == storage.fill_hu if storage.fill_hu is not None else corner > -200


def test_nodules_of_a_patient_do_not_touch(patient):
    nodules = [image.nodule for image in patient.images + patient.small_images]
    for number, first in enumerate(nodules):
        for second in nodules[:number]:
            gap = np.linalg.norm(np.subtract(first.centre_mm, second.centre_mm))
            assert gap > (first.diameter_mm + second.diameter_mm) / 2
