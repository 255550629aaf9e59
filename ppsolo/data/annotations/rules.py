"""Interprets single values of a COCO file: ids, sizes, flags, boxes and outlines, in the forms that tools write."""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from ppsolo.results import rle

Identity = int | str
_WHOLE = re.compile(r"(-?(?:0|[1-9]\d{0,17}))(?:\.0+)?")


def short_identity(number: int) -> Identity:
    """Return a number of up to 64 bits unchanged, and others as text: those can be chosen to make a dict very slow."""
    return number if -(2**63) <= number < 2**63 else str(number)


def read_identity(value: Any) -> Identity | None:
    """Return an id: an integer, also from 1.0 and "1"; any other text unchanged; None for everything else.

    Large numbers: see `short_identity`.

    >>> [read_identity(value) for value in (3, 3.0, "3", "3.0", "007", "a.png", None, True, 1.5)]
    [3, 3, 3, 3, '007', 'a.png', None, None, None]
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        value = int(value) if value.is_integer() else None
    if isinstance(value, int):
        return short_identity(value)
    if isinstance(value, str):
        whole = _WHOLE.fullmatch(value.strip())
        return int(whole[1]) if whole else value
    return None


def read_side(value: Any) -> int | None:
    """Return the side of an image in pixels: an integer above zero, also from 480.0 or "480"; otherwise None."""
    side = read_identity(value)
    return side if isinstance(side, int) and 0 < side < 2**31 else None


def read_number(value: Any) -> float | None:
    """Return a finite number, also from text; None for everything else."""
    try:
        number = None if isinstance(value, bool) or not isinstance(value, (int, float, str)) else float(value)
    except (ValueError, OverflowError):
        return None
    return number if number is not None and math.isfinite(number) else None


def read_flag(value: Any) -> bool | None:
    """Return `iscrowd` or `ignore`: 0, 1, true, false, also as text or float; null and "" are False; None otherwise.

    >>> [read_flag(value) for value in (0, 1, True, None, "1", "false", 0.0, 2)]
    [False, True, True, False, True, False, False, None]
    """
    if value is None or value == "":
        return False
    if isinstance(value, str):
        value = {"true": 1, "false": 0}.get(value.strip().lower(), read_identity(value))
    return bool(value) if isinstance(value, (bool, int, float)) and value in (0, 1) else None


def read_box(value: Any) -> list[float] | None:
    """Return [x, y, width, height] of four numbers, also from texts or one text; None for everything else."""
    if isinstance(value, str):
        value = [part for part in re.split(r"[\s,;]+", value.strip(" []()")) if part]
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        return None
    numbers = [read_number(number) for number in value]
    return None if any(number is None for number in numbers) else [number for number in numbers if number is not None]


def read_rings(segmentation: Sequence[Any]) -> tuple[list[list[float]], set[str], int]:
    """Return the rings of a polygon outline, the kinds of findings, and the number of rings that were too short.

    A ring is [x, y, x, y, ...] with at least three points. Also accepted: one flat ring, points as [x, y], numbers as
    text. Raises ValueError that says what is wrong.
    """
    kinds: set[str] = set()
    rings: list[Any] = list(segmentation)
    if not any(isinstance(ring, (list, tuple)) for ring in rings):
        rings, kinds = [rings], {"flat-polygon"}
    elif len(rings) >= 3 and all(_is_point(ring) for ring in rings):
        rings, kinds = [[number for point in rings for number in point]], {"flat-polygon"}
    read, short = [], 0
    for ring in rings:
        if not isinstance(ring, (list, tuple)):
            raise ValueError("a polygon is not a list of numbers")
        if ring and all(_is_point(point) for point in ring):
            ring = [number for point in ring for number in point]
            kinds.add("flat-polygon")
        numbers = [read_number(number) if isinstance(number, str) else number for number in ring]
        if any(isinstance(number, str) for number in ring):
            kinds.add("number-as-text")
        if len(numbers) < 6:
            short += 1
            continue
        (points,) = rle.read_polygons([numbers])
        read.append(points.tolist())
    return read, kinds, short


def read_runs(segmentation: dict[str, Any], size: tuple[int, int] | None) -> rle.Rle:
    """Return run lengths for an image of `size`, or of their stated size if it is None. Raises ValueError."""
    stated = segmentation.get("size")
    if isinstance(stated, (list, tuple)) and len(stated) == 2:
        sides = [read_side(side) for side in stated]
        if None not in sides:
            segmentation = {**segmentation, "size": sides}
            size = size or (sides[0] or 0, sides[1] or 0)
    return rle.read_segmentation(segmentation, size or (0, 0))


def unwrap_segmentation(segmentation: Any) -> Any:
    """Unwrap a segmentation that is stored as JSON text, or alone in a list."""
    if isinstance(segmentation, str) and segmentation.strip()[:1] in ("[", "{"):
        try:
            segmentation = json.loads(segmentation)
        except (ValueError, RecursionError):
            return segmentation
    if isinstance(segmentation, (list, tuple)) and len(segmentation) == 1 and isinstance(segmentation[0], dict):
        return segmentation[0]
    return segmentation


def _is_point(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and None not in map(read_number, value)
