"""Reads labelme: one JSON file of shapes per picture.

supervision reads such files too, but makes an object of every shape; here, the shapes of one group are one object.
"""

import base64
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from ppsolo.errors import DatasetError
from ppsolo.formats.annotated import (
    AnnotatedImage,
    AnnotatedObject,
    AnnotatedSet,
    Notes,
    Segmentation,
    checked_size,
    ellipse_ring,
    joined_objects,
    rectangle_ring,
    sorted_names,
    usable_rings,
)
from ppsolo.formats.folder import Folder, objects_in, picture_sizes, read_json
from ppsolo.formats.mask_files import decode_mask_file
from ppsolo.formats.mask_runs import box_segmentation
from ppsolo.text import counted

NAME = "labelme"


def evidence(folder: Folder) -> str:
    """Return the sign that the folder has this format, or ""."""
    files = _label_files(folder)
    return f"{len(files)} JSON files with labelme's 'shapes'" if files else ""


def read(folder: Folder) -> AnnotatedSet:
    """Read polygons, rectangles, circles and masks; shapes with the same label and group_id are one object.

    Raises DatasetError that names the file if a shape cannot be read, or if no picture is found.
    """
    notes = Notes()
    images = []
    described: set[Path] = set()
    files = _label_files(folder)
    for file in files:
        content = read_json(file)
        picture = folder.find_picture(str(content.get("imagePath") or ""), [file.parent])
        if picture is None:
            same = [p for p in folder.by_stem.get(file.stem, []) if p.parent == file.parent]
            picture = same[0] if len(same) == 1 else None
        if picture is None:
            notes.add("file without its picture left out ('imagePath')", folder.name(file))
            continue
        described.add(picture)
        stated = checked_size(content.get("imageHeight"), content.get("imageWidth"), folder.name(file))
        size = stated or picture_sizes([picture])[picture]
        shapes = objects_in(content["shapes"], f"{folder.name(file)}: 'shapes'")
        objects = _objects(shapes, size, notes, folder.name(file))
        images.append(AnnotatedImage(picture, size, objects, folder.split_of(picture)))
    if not images:
        wanted = f"no picture is found for its {counted(len(files), 'labelme file')} (first: {folder.name(files[0])})"
        raise DatasetError(f"{folder.path}: {wanted}; put the pictures next to them")
    for _ in range(len(folder.pictures) - len(described)):
        notes.add("picture without a labelme file left out", "not annotated")
    return AnnotatedSet(NAME, sorted_names(images), tuple(images), notes.lines())


def _label_files(folder: Folder) -> list[Path]:
    return [file for file, keys in folder.json_kinds.items() if {"shapes", "imagePath"} <= keys]


def _objects(
    shapes: list[dict[str, Any]], size: tuple[int, int], notes: Notes, where: str
) -> tuple[AnnotatedObject, ...]:
    groups: dict[object, list[Segmentation]] = defaultdict(list)
    names = {}
    for number, shape in enumerate(shapes):
        outline = _segmentation(shape, size, notes, where)
        if outline is not None:
            name, group = str(shape.get("label")), shape.get("group_id")
            key = (number,) if group is None else (name, str(group))
            names[key] = name
            groups[key].append(outline)
    return joined_objects(names, groups, size, where)


def _segmentation(shape: dict[str, Any], size: tuple[int, int], notes: Notes, where: str) -> Segmentation | None:
    kind = shape.get("shape_type") or "polygon"
    try:
        points = [(float(x), float(y)) for x, y in shape["points"]]
        if kind == "mask":
            return _mask(points, shape["mask"], size)
        if kind == "rectangle" and len(points) == 2:
            return [rectangle_ring(*points[0], *points[1])]
        if kind == "circle":
            center, edge = points
            radius = math.dist(center, edge)
            return [ellipse_ring(center, (radius, radius))]
    except (LookupError, OverflowError, TypeError, ValueError) as error:
        raise DatasetError(f"{where}: a shape {kind!r} cannot be read ({error}); draw it again") from None
    if kind not in ("polygon", "rectangle", "oriented_rectangle"):
        notes.add(f"shape of type '{kind}' left out: it has no area", where)
        return None
    return usable_rings([[v for point in points for v in point]], notes, where) or None


def _mask(points: list[tuple[float, float]], data: str, size: tuple[int, int]) -> dict[str, Any]:
    """Decode a shape's mask: a PNG in base64 for the box of two points, both of which belong to the box."""
    picture = decode_mask_file(base64.b64decode(data))
    inside = np.asarray(picture if picture.ndim == 2 else picture.max(axis=2)) > 0
    left, top = (round(v) for v in points[0])
    return box_segmentation(inside, top, left, size)
