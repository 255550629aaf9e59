"""Reads labelme: one JSON file of shapes per picture.

supervision reads such files too, but makes an object of every shape; here, the shapes of one group are one object.
"""

import base64
import binascii
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ppsolo.errors import DatasetError
from ppsolo.formats.annotated import (
    AnnotatedImage,
    AnnotatedObject,
    AnnotatedSet,
    Notes,
    Segmentation,
    ellipse_ring,
    mask_segmentation,
    rectangle_ring,
    sorted_names,
    united,
    usable_rings,
)
from ppsolo.formats.folder import Folder, picture_sizes, read_json

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
    for file in _label_files(folder):
        content = read_json(file)
        picture = folder.find_picture(str(content.get("imagePath") or ""), [file.parent])
        if picture is None:
            same = [p for p in folder.by_stem.get(file.stem, []) if p.parent == file.parent]
            picture = same[0] if len(same) == 1 else None
        if picture is None:
            notes.add("file without its picture left out ('imagePath')", folder.name(file))
            continue
        described.add(picture)
        size = _stated_size(content) or picture_sizes([picture])[picture]
        objects = _objects(content["shapes"], size, notes, folder.name(file))
        images.append(AnnotatedImage(picture, size, objects, folder.split_of(picture)))
    if not images:
        raise DatasetError(f"{folder.path}: it has no picture of a labelme file; put the pictures next to these files")
    for _ in range(len(folder.pictures) - len(described)):
        notes.add("picture without a labelme file left out", "not annotated")
    return AnnotatedSet(NAME, sorted_names(images), tuple(images), notes.lines())


def _label_files(folder: Folder) -> list[Path]:
    return [file for file, keys in folder.json_kinds.items() if {"shapes", "imagePath"} <= keys]


def _stated_size(content: dict[str, Any]) -> tuple[int, int] | None:
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        return height, width
    return None


def _objects(
    shapes: list[dict[str, Any]], size: tuple[int, int], notes: Notes, where: str
) -> tuple[AnnotatedObject, ...]:
    groups: dict[object, list[Segmentation]] = defaultdict(list)
    names = {}
    for number, shape in enumerate(shapes):
        outline = _segmentation(shape, size, notes, where)
        if outline is not None:
            name, group = str(shape.get("label")), shape.get("group_id")
            key = (number,) if group is None else (name, group)
            names[key] = name
            groups[key].append(outline)
    return tuple(AnnotatedObject(names[key], united(parts, size)) for key, parts in groups.items())


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
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise DatasetError(f"{where}: a shape {kind!r} cannot be read ({error}); draw it again") from None
    if kind not in ("polygon", "rectangle", "oriented_rectangle"):
        notes.add(f"shape of type '{kind}' left out: it has no area", where)
        return None
    return usable_rings([[v for point in points for v in point]], notes, where) or None


def _mask(points: list[tuple[float, float]], data: str, size: tuple[int, int]) -> dict[str, Any]:
    """Decode a shape's mask: a PNG in base64 for the box of two points, both of which belong to the box."""
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise ValueError("its mask is not a PNG")
    inside = np.asarray(picture if picture.ndim == 2 else picture.max(axis=2)) > 0
    left, top = (round(v) for v in points[0])
    whole = np.zeros(size, bool)
    place = whole[max(top, 0) : top + inside.shape[0], max(left, 0) : left + inside.shape[1]]
    place |= inside[max(-top, 0) :, max(-left, 0) :][: place.shape[0], : place.shape[1]]
    return mask_segmentation(whole)
