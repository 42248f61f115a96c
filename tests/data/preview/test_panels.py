"""One view of a scan: the right way up, in true proportions, with outlines on their pixels."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb as rgb_of
from matplotlib.figure import Figure

from dinox_hf.data.preview.panels import CTPanel, Outline, draw_outline, draw_panel, to_rgb
from dinox_hf.data.preview.style import MARK_STYLES, ORANGE, PADDING

SIDE_PX = 400
AIR_HU = -1000


def panel(hu: np.ndarray, **options) -> CTPanel:
    return CTPanel(**{"hu": hu, "window": (40, 400), "spacing_mm": (1, 1), "letters": "ARPL", "title": ""} | options)


def render(draw) -> np.ndarray:
    """(400, 400, 3) in [0, 1]: what `draw` draws into an axis that fills the picture."""
    figure = Figure(figsize=(SIDE_PX / 100, SIDE_PX / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    draw(figure.add_axes((0, 0, 1, 1)))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255


def box_of(picture: np.ndarray, colour: str) -> tuple[float, float, float, float]:
    """Top, bottom, left, right of the pixels of a colour."""
    rows, columns = np.nonzero(np.abs(picture - rgb_of(colour)).max(axis=2) < 0.15)
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


@pytest.mark.parametrize(("shape", "spacing_mm"), [((20, 20), (1, 1)), ((10, 20), (2, 1)), ((20, 10), (0.5, 1))])
def test_an_outline_runs_around_the_pixels_of_its_mask(shape, spacing_mm):
    outline = Outline(np.ones((4, 3), dtype=bool), first_row=5, first_column=6)
    picture = render(
        lambda axis: draw_panel(axis, panel(np.full(shape, AIR_HU), spacing_mm=spacing_mm, outlines=[outline]))
    )
    row_px, column_px = SIDE_PX / shape[0], SIDE_PX / shape[1]
    expected = (5 * row_px, 9 * row_px, 6 * column_px, 9 * column_px)
    # The line is 1.5 pixels wide.
    np.testing.assert_allclose(box_of(picture, ORANGE), expected, atol=2)


def test_an_empty_mask_has_no_outline():
    picture = render(lambda axis: draw_outline(axis, Outline(np.zeros((2, 2), dtype=bool), 0, 0)))
    assert not (np.abs(picture - rgb_of(ORANGE)).max(axis=2) < 0.15).any()


def test_a_mark_lies_on_its_pixel():
    mark = {"kind": "small_nodule", "row": 12.0, "column": 4.0}
    picture = render(lambda axis: draw_panel(axis, panel(np.full((20, 20), AIR_HU), marks=[mark])))
    top, bottom, left, right = box_of(picture, MARK_STYLES["small_nodule"][0])
    assert (top + bottom) / 2 == pytest.approx(12.5 * 20, abs=1.5) and (left + right) / 2 == pytest.approx(90, abs=1.5)


def test_low_rows_are_on_top_and_low_columns_on_the_left():
    hu = np.full((20, 20), AIR_HU)
    hu[6, 3] = 3000
    picture = render(lambda axis: draw_panel(axis, panel(hu)))
    assert picture[130, 70].min() > 0.9 and picture[270, 330].max() < 0.1


def test_a_view_that_is_not_square_keeps_its_proportions_on_black():
    # 20 columns of 1 mm, 5 rows of 2 mm: the middle half of the height.
    picture = render(lambda axis: draw_panel(axis, panel(np.full((5, 20), 3000), spacing_mm=(2, 1))))
    is_bright = picture[:, 60].min(axis=1) > 0.5
    assert np.flatnonzero(is_bright)[[0, -1]] == pytest.approx([100, 299], abs=1)


def test_a_close_up_shows_its_surroundings_in_millimetres():
    hu = np.full((100, 100), AIR_HU)
    hu[40:60, 70:80] = 3000
    view = panel(hu, spacing_mm=(0.5, 1), centre=(49.5, 74.5), extent_mm=20)
    picture = render(lambda axis: draw_panel(axis, view))
    is_bright = picture.min(axis=2) > 0.5
    # 10 of 20 mm in both directions, around the centre; probed off the letters.
    assert np.flatnonzero(is_bright[160])[[0, -1]] == pytest.approx([100, 299], abs=2)
    assert np.flatnonzero(is_bright[:, 150])[[0, -1]] == pytest.approx([100, 299], abs=2)


def test_padding_is_coloured_and_air_is_black():
    rgb = to_rgb(panel(np.array([[-2048, -1000, 3000]]), padding_hu=-2048))
    np.testing.assert_allclose(rgb[0], [PADDING, (0, 0, 0), (1, 1, 1)], atol=1e-6)


def test_labels_cover_neither_outlines_nor_each_other():
    outlines = [Outline(np.ones((8, 8), dtype=bool), row, 40, f"{row}") for row in (20, 32, 44)]
    figure = Figure(figsize=(4, 4), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axis = figure.add_axes((0, 0, 1, 1))
    draw_panel(axis, panel(np.full((100, 100), AIR_HU), outlines=outlines, has_labels=True))
    canvas.draw()
    labels = [text for text in axis.texts if text.get_text() in {"20", "32", "44"}]
    boxes = [text.get_window_extent() for text in labels]
    drawn = [axis.transData.transform([(39.5, row + 7.5), (47.5, row - 0.5)]).ravel() for row in (20, 32, 44)]
    assert len(labels) >= 2
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])
        assert all(box.x0 > d[2] or box.x1 < d[0] or box.y0 > d[3] or box.y1 < d[1] for d in drawn)
