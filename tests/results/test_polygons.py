"""Polygons against the mask that they outline."""

from typing import Any

import numpy as np
import pytest
from blobs import noise
from pycocotools import mask as coco_mask

from ppsolo.results.polygons import close_polygons, mask_parts, mask_polygons, polygon_iou, single_ring
from ppsolo.results.rle import decode_mask, encode_mask


def rasterize(polygons: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    if not polygons:
        return np.zeros(size, bool)
    rings: Any = polygons
    parts: Any = coco_mask.frPyObjects(rings, *size)
    whole: Any = coco_mask.merge(parts)
    return decode_mask(whole)


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
def test_exact_polygons_give_the_mask_back(spread):
    generator = np.random.default_rng(8)
    for i in range(60):
        size = tuple(generator.integers(1, 40, 2).tolist())
        mask = noise(1, size, seed=i, spread=spread)[0] > generator.random()
        polygons = mask_polygons(encode_mask(mask), tolerance=0)
        assert np.array_equal(rasterize(polygons, size), mask)


def test_polygons_of_small_shapes():
    def polygons(rows: list[str], tolerance: float = 0.75) -> list[list[float]]:
        return mask_polygons(encode_mask(np.array([[c == "#" for c in row] for row in rows])), tolerance)

    def points(polygon: list[float]) -> set[tuple[float, float]]:
        return set(zip(polygon[0::2], polygon[1::2], strict=True))

    assert polygons(["..", ".."]) == []
    (pixel,) = polygons(["...", "..#"])
    assert len(pixel) == 8 and points(pixel) == {(2, 1), (3, 1), (3, 2), (2, 2)}
    (line,) = polygons(["####"])
    assert points(line) == {(0, 0), (4, 0), (4, 1), (0, 1)}
    (diagonal,) = polygons(["#.", ".#"], tolerance=0)
    assert (1, 1) in points(diagonal)
    assert len(polygons(["#.#"])) == 2
    (ring,) = polygons(["###", "#.#", "###"])
    assert {(1, 1), (2, 1), (2, 2), (1, 2)} < points(ring)
    assert np.array_equal(rasterize([ring], (3, 3)), [[1, 1, 1], [1, 0, 1], [1, 1, 1]])


@pytest.mark.parametrize(("side", "least"), [(20, 0.9), (60, 0.95), (200, 0.98)])
def test_simplified_polygons_stay_close(side, least):
    # within 0.75 pixel of an outline of about 4 sides: at most about 3 * side pixels of side * side, mostly far fewer
    for seed in range(6):
        mask = noise(1, (side, side), seed=seed, spread=side / 10)[0] > 0.5
        exact, simple = (mask_polygons(encode_mask(mask), tolerance) for tolerance in (0, 0.75))
        drawn = rasterize(simple, (side, side))
        assert (drawn & mask).sum() / (drawn | mask).sum() > least
        assert sum(map(len, simple)) < 0.7 * sum(map(len, exact))


def blobs(seed: int, size: tuple[int, int], spread: float) -> np.ndarray:
    return noise(1, size, seed=seed, spread=spread)[0] > 0.5


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
def test_one_ring_draws_all_parts_and_spares_all_holes(spread):
    for seed in range(30):
        size = tuple(np.random.default_rng(seed).integers(1, 50, 2).tolist())
        mask = blobs(seed, size, spread)
        rle = encode_mask(mask)
        ring = single_ring(rle)
        assert bool(ring) == mask.any()
        if ring:
            assert polygon_iou([ring], rle) >= 0.99
            assert polygon_iou(close_polygons(rle), rle) >= 0.99


def test_close_polygons_have_fewer_points_where_a_mask_is_large():
    rle = encode_mask(blobs(3, (300, 300), 25.0))
    exact, close = mask_polygons(rle, 0), close_polygons(rle)
    assert len(exact) == len(close) and sum(map(len, close)) < 0.5 * sum(map(len, exact))


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
def test_parts_are_valid_shapes_that_cover_the_mask(spread):
    shapely = pytest.importorskip("shapely")
    for seed in range(30):
        size = tuple(np.random.default_rng(seed).integers(1, 40, 2).tolist())
        mask = blobs(seed, size, spread)
        shapes = [shapely.Polygon(part.outer, part.holes) for part in mask_parts(encode_mask(mask))]
        whole = shapely.MultiPolygon(shapes)
        assert whole.is_valid, shapely.is_valid_reason(whole)
        assert whole.area == mask.sum()
        rows, columns = np.nonzero(mask)
        assert shapely.contains_xy(whole, columns + 0.5, rows + 0.5).all()


def test_parts_of_small_shapes():
    def parts(rows: list[str]) -> list[tuple[int, int]]:
        mask = np.array([[c == "#" for c in row] for row in rows])
        return [(len(part.outer), len(part.holes)) for part in mask_parts(encode_mask(mask))]

    assert parts(["..", ".."]) == []
    assert parts(["#.", ".#"]) == [(4, 0), (4, 0)]
    assert parts(["###", "#.#", "###"]) == [(4, 1)]
    assert parts([".#.", "#.#", ".#."]) == [(4, 0)] * 4
    assert parts(["####", "#.##", "##.#", "####"]) == [(4, 2)]
