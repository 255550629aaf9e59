"""Measures against numpy, and the perimeter against scikit-image."""

import math

import numpy as np
import pytest
from blobs import noise
from found import SIZE, masks, three

from ppsolo.results.files.measures import COLUMNS, measures, perimeter


def test_measures_in_pixels():
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    table = measures(three().results(image=image, image_name="a.png", image_id=7))
    assert tuple(table) == COLUMNS
    assert table["instance"].tolist() == [1, 2, 3] and table["image_id"].tolist() == [7] * 3
    assert table["category"].tolist() == ["person", "Würstchen", "person"]
    assert table["category_id"].tolist() == [1, 90, 1]
    assert table["score"].tolist() == [0.9, 0.5, 0.25]
    assert table["area_px"].tolist() == [18, 25, 0]
    boxes = np.stack([table[f"{name}_px"] for name in ("left", "top", "width", "height")], axis=1)
    assert boxes.tolist() == [[3, 2, 6, 3], [1, 0, 19, 11], [0, 0, 0, 0]]
    assert table["centroid_x_px"][0] == 6 and table["centroid_y_px"][0] == 3.5
    assert math.isnan(table["centroid_x_px"][2]) and math.isnan(table["mean_intensity"][2])
    for i in range(2):
        assert table["mean_intensity"][i] == pytest.approx(image[masks()[i]].mean())
    assert table["equivalent_diameter_px"][0] == pytest.approx(2 * math.sqrt(18 / math.pi))
    assert np.isnan(table["area_um2"]).all() and np.isnan(table["pixel_size_um"]).all()


def test_measures_in_micrometres():
    table = measures(three().results(pixel_size=0.5))
    assert table["area_um2"].tolist() == [4.5, 6.25, 0]
    for name in ("left", "width", "centroid_y", "perimeter", "equivalent_diameter"):
        assert table[f"{name}_um"] == pytest.approx(table[f"{name}_px"] * 0.5, nan_ok=True)
    assert np.isnan(table["mean_intensity"]).all()  # no image


@pytest.mark.parametrize("spread", [0.0, 1.0, 5.0])
def test_the_perimeter_is_that_of_scikit_image(spread):
    measure = pytest.importorskip("skimage.measure")
    for mask in noise(20, (41, 33), seed=1, spread=spread) > 0.5:
        assert perimeter(mask) == pytest.approx(measure.perimeter(np.pad(mask, 1)))


def test_a_data_frame():
    pandas = pytest.importorskip("pandas")
    frame = three().to_pandas(pixel_size=2.0, image_name="a.png")
    assert isinstance(frame, pandas.DataFrame) and tuple(frame.columns) == COLUMNS and len(frame) == 3
    assert frame.groupby("category")["area_px"].sum().to_dict() == {"person": 18, "Würstchen": 25}
    assert len(three()[:0].to_pandas()) == 0
