"""Curves and contact sheets drawn with OpenCV."""

import numpy as np
import pytest

from ppsolo.plot import COLORS, Curve, Panel, contact_sheet, draw_panels, tick_step


@pytest.mark.parametrize(("extent", "step"), [(0.7, 0.1), (0.71, 0.2), (1.0, 0.2), (3.2, 0.5), (12.0, 2.0), (9e4, 2e4)])
def test_ticks_are_round_and_few(extent, step):
    assert tick_step(extent) == pytest.approx(step)


def drawn(canvas, color):
    """(rows, columns) of a colour in the plotting area, below the legend."""
    rows, columns = np.nonzero((canvas[80:] == color).all(axis=2))
    return rows + 80, columns


def test_a_curve_goes_where_its_points_are():
    panel = Panel("AP", "minutes", [Curve("rising", [0.0, 1.0, 2.0], [0.0, 0.25, 1.0]), Curve("flat", [0, 2], [1, 1])])
    picture = draw_panels([panel, panel], panel_size=(400, 600))
    assert picture.shape == (400, 1200, 3) and picture.dtype == np.uint8
    assert np.array_equal(picture[:, :600], picture[:, 600:])
    rows, columns = drawn(picture[:, :600], COLORS[0])
    assert rows[np.argmin(columns)] > 330 and rows[np.argmax(columns)] < 110  # 0 is at the bottom, 1 at the top
    middle = rows[np.abs(columns - (columns.min() + columns.max()) / 2) < 2].mean()
    assert middle == pytest.approx(rows.max() - 0.25 * (rows.max() - rows.min()), abs=6)
    rows, _ = drawn(picture[:, :600], COLORS[1])
    assert rows.max() - rows.min() <= 10


def test_empty_and_flat_curves_have_axes_too():
    for points in ([], [0.0]):
        picture = draw_panels([Panel("nothing", "minutes", [Curve("none", points, points)])])
        assert picture.std() > 5


def test_contact_sheet_keeps_every_pixel():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 20, 30, 3), np.uint8)
    sheet = contact_sheet(list(map(list, pictures)), captions=("a", "b", "c"), gap=5)
    assert sheet.shape == (44 + 2 * 25, 3 * 35 + 5, 3)
    for row in range(2):
        for column in range(3):
            top, left = 44 + row * 25, 5 + column * 35
            assert np.array_equal(sheet[top : top + 20, left : left + 30], pictures[row, column])
