"""How one value of a COCO file is understood: ids, sizes, flags, boxes and outlines, as people's tools write them."""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from ppsolo.results import rle

Identity = int | str
_WHOLE = re.compile(r"(-?(?:0|[1-9]\d{0,17}))(?:\.0+)?")


def read_identity(value: Any) -> Identity | None:
    """An id: a whole number, 1.0 and "1" as 1, any other text as itself; None for everything else.

    >>> [read_identity(value) for value in (3, 3.0, "3", "3.0", "007", "a.png", None, True, 1.5)]
    [3, 3, 3, 3, '007', 'a.png', None, None, None]
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str):
        whole = _WHOLE.fullmatch(value.strip())
        return int(whole[1]) if whole else value
    return None


def read_side(value: Any) -> int | None:
    """A side of an image in pixels: a whole number above zero, also as 480.0 or "480"; None for everything else."""
    side = read_identity(value)
    return side if isinstance(side, int) and 0 < side < 2**31 else None


def read_number(value: Any) -> float | None:
    """A finite number, also written as text; None for everything else."""
    try:
        number = None if isinstance(value, bool) or not isinstance(value, (int, float, str)) else float(value)
    except (ValueError, OverflowError):
        return None
    return number if number is not None and math.isfinite(number) else None


def read_flag(value: Any) -> bool | None:
    """`iscrowd` or `ignore`: 0, 1, true, false, also as text or fraction; null and "" are false; None else.

    >>> [read_flag(value) for value in (0, 1, True, None, "1", "false", 0.0, 2)]
    [False, True, True, False, True, False, False, None]
    """
    if value is None or value == "":
        return False
    if isinstance(value, str):
        value = {"true": 1, "false": 0}.get(value.strip().lower(), read_identity(value))
    return bool(value) if isinstance(value, (bool, int, float)) and value in (0, 1) else None


def read_box(value: Any) -> list[float] | None:
    """[x, y, width, height] of four numbers, also as texts or one text; None for everything else."""
    if isinstance(value, str):
        value = [part for part in re.split(r"[\s,;]+", value.strip(" []()")) if part]
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        return None
    numbers = [read_number(number) for number in value]
    return None if any(number is None for number in numbers) else [number for number in numbers if number is not None]


def read_rings(segmentation: Sequence[Any]) -> tuple[list[list[float]], set[str], int]:
    """The rings of a polygon outline, the kinds of findings it gives, and how many rings were too short.

    Each ring is [x, y, x, y, ...] of three points or more. Taken too: one flat ring, points as [x, y], numbers as
    text. Raises ValueError: says what cannot be understood.
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
    """Run lengths of an image of `size`; without one, of the size they state. Raises ValueError."""
    stated = segmentation.get("size")
    if isinstance(stated, (list, tuple)) and len(stated) == 2:
        sides = [read_side(side) for side in stated]
        if None not in sides:
            segmentation = {**segmentation, "size": sides}
            size = size or (sides[0] or 0, sides[1] or 0)
    return rle.read_segmentation(segmentation, size or (0, 0))


def unwrap_segmentation(segmentation: Any) -> Any:
    """A segmentation that was stored as JSON text, or alone in a list, as what it stands for."""
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
