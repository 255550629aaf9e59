"""Measurements of each instance: area, box, centroid, perimeter, equivalent diameter, mean intensity."""

import math
from typing import Any

import cv2
import numpy as np

from ppsolo.results.files.image_results import ImageResults
from ppsolo.results.rle import decode_window, mask_areas, mask_boxes_xywh
from ppsolo.text import storable

# In table order. Names end with the unit. Micrometres need a known pixel size.
COLUMNS = (
    "file_name",
    "image_id",
    "instance",
    "category",
    "category_id",
    "score",
    "area_px",
    "left_px",
    "top_px",
    "width_px",
    "height_px",
    "centroid_x_px",
    "centroid_y_px",
    "perimeter_px",
    "equivalent_diameter_px",
    "mean_intensity",
    "pixel_size_um",
    "area_um2",
    "left_um",
    "top_um",
    "width_um",
    "height_um",
    "centroid_x_um",
    "centroid_y_um",
    "perimeter_um",
    "equivalent_diameter_um",
)
# Weights of the pixels around a border pixel, and the length for each sum of weights (Benkrid and Crookes, "Design and
# FPGA implementation of a perimeter estimator", 2000).
_NEIGHBOURS = np.array([[10, 2, 10], [2, 1, 2], [10, 2, 10]], np.uint8)
_LENGTH_OF = np.zeros(50)
_LENGTH_OF[[5, 7, 15, 17, 25, 27]] = 1
_LENGTH_OF[[21, 33]] = math.sqrt(2)
_LENGTH_OF[[13, 23]] = (1 + math.sqrt(2)) / 2


def measures(found: ImageResults) -> dict[str, np.ndarray]:
    """Return every measurement as a column: name -> array [n], in the order of COLUMNS, then those of `found.extra`,
    and track_id if the objects have numbers.

    area: pixels of the mask. left, top, width, height: its tight box. centroid: mean of its pixels' centres; the first
    pixel's centre is 0.5. perimeter: estimated as in `skimage.measure.perimeter`. equivalent_diameter: of the circle
    with this area. mean_intensity: mean over the mask of (red + green + blue) / 3, 0 .. 255; NaN without the image.
    Values in micrometres are NaN without a pixel size.
    """
    n = len(found.rles)
    boxes = mask_boxes_xywh(found.rles)
    areas = mask_areas(found.rles)
    centroids, perimeters, intensities = np.full((n, 2), np.nan), np.zeros(n), np.full(n, np.nan)
    for i, (rle, (x, y, width, height)) in enumerate(zip(found.rles, boxes.astype(int).tolist(), strict=True)):
        if width == 0:
            continue
        mask = decode_window(rle, (x, y, x + width, y + height))
        rows, columns = np.nonzero(mask)
        centroids[i] = x + columns.mean() + 0.5, y + rows.mean() + 0.5
        perimeters[i] = perimeter(mask)
        if found.image is not None:
            intensities[i] = found.image[y : y + height, x : x + width][mask].mean()
    pixels: dict[str, np.ndarray] = {
        **dict(zip(("left", "top", "width", "height"), boxes.astype(np.int64).T, strict=True)),
        **dict(zip(("centroid_x", "centroid_y"), centroids.T, strict=True)),
        "perimeter": perimeters,
        "equivalent_diameter": np.sqrt(4 * areas / math.pi),
    }
    scale = math.nan if found.pixel_size is None else float(found.pixel_size)
    table: dict[str, np.ndarray] = {
        "file_name": np.full(n, storable(found.image_name), object),
        "image_id": np.full(n, found.image_id, object if isinstance(found.image_id, str) else np.int64),
        "instance": np.arange(1, n + 1),
        "category": np.array(found.names, object),
        "category_id": np.array([found.category_ids[label] for label in found.labels], np.int64),
        "score": np.round(found.scores.astype(np.float64), 6),
        "area_px": areas,
        **{f"{name}_px": values for name, values in pixels.items()},
        "mean_intensity": intensities,
        "pixel_size_um": np.full(n, scale),
        "area_um2": areas * scale**2,
        **{f"{name}_um": values * scale for name, values in pixels.items()},
    }
    extra: dict[str, Any] = dict(found.extra or {})
    if found.track_ids is not None:
        extra["track_id"] = found.track_ids
    return {name: table[name] for name in COLUMNS} | {name: np.full(n, value) for name, value in extra.items()}


def perimeter(mask: np.ndarray) -> float:
    """Return the length of the border of a mask, bool [h, w], in pixels; holes have a border too."""
    padded = np.pad(mask.view(np.uint8), 1)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    border = padded - cv2.erode(padded, cross, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    sums = cv2.filter2D(border, cv2.CV_8U, _NEIGHBOURS, borderType=cv2.BORDER_CONSTANT)
    return float(np.bincount(sums.ravel(), minlength=50)[:50] @ _LENGTH_OF)
