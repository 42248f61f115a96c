import xml.etree.ElementTree as ET

import numpy as np
import pytest
from scipy.ndimage import binary_closing, binary_fill_holes, gaussian_filter, label

from dinox_hf.data.sources.phantom import make_patient
from dinox_hf.data.sources.phantom_readers import NAMESPACE, READERS, lidc_xml, outside_contour, rate, read_images


def test_the_contour_of_one_pixel_is_its_four_neighbours_closed():
    mask = np.zeros((3, 3), bool)
    mask[1, 1] = True
    contour = outside_contour(mask)
    assert contour.tolist() == [[1, 0], [2, 1], [1, 2], [0, 1], [1, 0]]


def test_a_contour_is_closed_connected_and_lies_just_outside_the_largest_part():
    rng = np.random.default_rng(0)
    for _ in range(40):
        mask = gaussian_filter(rng.standard_normal((24, 24)), 2.5) > 0.05
        parts, _ = label(mask)
        largest = binary_fill_holes(parts == 1 + np.argmax(np.bincount(parts.ravel())[1:]))
        contour = outside_contour(mask)
        assert (contour[0] == contour[-1]).all()
        assert np.abs(np.diff(contour, axis=0)).max() == 1
        canvas = np.zeros((28, 28), bool)
        canvas[contour[:, 1] + 2, contour[:, 0] + 2] = True
        solid = np.pad(largest, 2)
        assert not (canvas & solid).any()
        # What the line encloses is the nodule; a bay with a mouth of one pixel is closed off with it.
        enclosed = binary_fill_holes(canvas) & ~canvas
        assert enclosed[solid].all()
        assert (enclosed & ~binary_closing(solid, np.ones((3, 3)), iterations=2)).sum() <= 0.05 * solid.sum()


def test_ratings_stay_on_the_scale_and_scatter_around_the_truth():
    rng = np.random.default_rng(0)
    truth = {"malignancy": 4.1, "calcification": 6.0, "internalStructure": 1.0, "margin": 2.1}
    ratings = [rate(rng, READERS[0], truth) for _ in range(500)]
    assert {rating["calcification"] for rating in ratings} == {6}
    values = np.array([rating["malignancy"] for rating in ratings])
    assert values.min() >= 1 and values.max() <= 5 and len(set(values.tolist())) >= 3
    assert values.mean() == pytest.approx(4.1, abs=0.1)


@pytest.fixture(scope="module")
def xml():
    patient = make_patient(seed=2, number=1, size=96, num_slices=16)
    uids = tuple(f"1.2.{z}" for z in range(16))
    readings = read_images(
        np.random.default_rng(0), patient.images, np.array([[3, 40, 50]]), np.array([[5, 40, 50]] * 6)
    )
    return ET.fromstring(lidc_xml(readings, "1.1", "1.2", uids, patient.scan.grid.axis(0)))


def test_the_xml_has_the_elements_of_lidc(xml):
    name = {"lidc": NAMESPACE}
    assert xml.tag == f"{{{NAMESPACE}}}LidcReadMessage"
    assert xml.findtext("lidc:ResponseHeader/lidc:SeriesInstanceUid", namespaces=name) == "1.2"
    sessions = xml.findall("lidc:readingSession", name)
    assert len(sessions) == 4
    nodules = xml.findall(".//lidc:unblindedReadNodule", name)
    outlined = [nodule for nodule in nodules if nodule.find("lidc:characteristics", name) is not None]
    assert len(outlined) >= 12 and len(nodules) > len(outlined)
    assert all(len(nodule.find("lidc:characteristics", name)) == 9 for nodule in outlined)
    assert xml.find(".//lidc:nonNodule/lidc:locus/lidc:xCoord", name) is not None
    for roi in xml.iterfind(".//lidc:roi", name):
        tags = [element.tag.split("}")[1] for element in roi]
        assert tags[:3] == ["imageZposition", "imageSOP_UID", "inclusion"] and set(tags[3:]) == {"edgeMap"}


def test_readers_differ_in_what_they_see_and_where_they_draw(xml):
    sessions = xml.findall(f"{{{NAMESPACE}}}readingSession")
    outlines = [{ET.tostring(roi) for roi in session.iter(f"{{{NAMESPACE}}}roi")} for session in sessions]
    for number, first in enumerate(outlines):
        for second in outlines[:number]:
            assert len(first & second) < 0.5 * len(first)
