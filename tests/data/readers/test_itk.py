import numpy as np
import SimpleITK as sitk

from dinox_hf.data.readers.series import read_series
from dinox_hf.data.volume import Rejection
from tests.data.scans import sphere_hu, write_series


def write_image(path, voxels):
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-7, -9, -30))
    sitk.WriteImage(image, str(path))


def test_every_volume_format_gives_the_voxels_of_the_dicom_series(tmp_path):
    for name in ("a.nii.gz", "b.nrrd", "c.mhd", "d.mha"):
        write_image(tmp_path / name, sphere_hu())
    write_series(tmp_path / "dicom")
    volumes = list(read_series(tmp_path))
    assert [volume.patient_id for volume in volumes] == ["a", "b", "c", "d", "P1"]
    for volume in volumes:
        np.testing.assert_array_equal(volume.voxels, sphere_hu())
        np.testing.assert_allclose(volume.affine_lps, volumes[-1].affine_lps, atol=1e-5)
        np.testing.assert_allclose(volume.z_mm, volumes[-1].z_mm, atol=1e-5)


def test_a_volume_stored_head_first_is_turned(tmp_path):
    image = sitk.GetImageFromArray(sphere_hu()[::-1, ::-1])
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, -1))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    (volume,) = read_series(tmp_path)
    np.testing.assert_array_equal(volume.voxels, sphere_hu())
    assert (np.diff(volume.z_mm) > 0).all()


def test_a_damaged_volume_becomes_a_reason(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"nothing")
    (rejection,) = read_series(tmp_path)
    assert isinstance(rejection, Rejection) and rejection.path == "a.nii.gz" and rejection.loses_scan
