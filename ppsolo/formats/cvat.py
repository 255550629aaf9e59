"""Reads CVAT for images 1.1: one XML file of shapes for all pictures."""

import re
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

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
    usable_rings,
)
from ppsolo.formats.folder import Folder, split_in_name
from ppsolo.formats.mask_runs import box_segmentation

NAME = "cvat"


def evidence(folder: Folder) -> str:
    """Return the sign that the folder has this format, or ""."""
    files = _files(folder)
    return f"CVAT's XML ({', '.join(map(folder.name, files))})" if files else ""


def read(folder: Folder) -> AnnotatedSet:
    """Read polygons, masks, ellipses and boxes; shapes with the same label and group are one object.

    Raises DatasetError that names the picture if a shape cannot be read; or if no picture is found.
    """
    notes = Notes()
    images, names = [], []
    for file in _files(folder):
        root = _parsed(file)
        names += [str(label.findtext("name")) for label in root.iterfind("meta//labels/label")]
        for element in root.iterfind("image"):
            name = element.get("name", "")
            picture = folder.find_picture(name, [file.parent, file.parent / "images"])
            if picture is None:
                notes.add("missing picture of the XML left out", name)
                continue
            size = _size(element, name)
            split = folder.split_of(picture) or split_in_name(element.get("subset", ""))
            images.append(AnnotatedImage(picture, size, _objects(element, size, notes, name), split))
    if not images:
        raise DatasetError(f"{folder.path}: it has no picture of CVAT's XML; export with 'Save images'")
    used = {one.name for image in images for one in image.objects}
    ordered = dict.fromkeys([*(name for name in names if name in used), *sorted(used)])
    return AnnotatedSet(NAME, tuple(ordered), tuple(images), notes.lines())


def _size(element: ElementTree.Element, where: str) -> tuple[int, int]:
    height, width = (element.get(side, "") for side in ("height", "width"))
    size = checked_size(_whole(height), _whole(width), where)
    if size is None:
        raise DatasetError(f"{where}: its size is {height!r} x {width!r} pixels in the XML; export it anew")
    return size


def _whole(text: str) -> int:
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else 0


def _files(folder: Folder) -> list[Path]:
    found = []
    for file in folder.with_suffix(".xml"):
        with file.open("rb") as stream:
            head = stream.read(4096)
        if b"<annotations" in head and (b"<image" in head or b"<meta>" in head or b"<version>" in head):
            found.append(file)
    return found


def _parsed(file: Path) -> ElementTree.Element:
    try:
        data = file.read_bytes()
        if b"<!ENTITY" in data or b"<!DOCTYPE" in data:  # CVAT writes none; an attacker could fill the memory with them
            raise DatasetError(f"{file}: XML with a document type is not supported")
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the latter of unknown encodings
        raise DatasetError(f"{file}: not an XML file ({error})") from None


def _objects(
    element: ElementTree.Element, size: tuple[int, int], notes: Notes, where: str
) -> tuple[AnnotatedObject, ...]:
    groups: dict[object, list[Segmentation]] = defaultdict(list)
    names = {}
    for number, shape in enumerate(element):
        if shape.get("label") is None:
            continue
        try:
            outline = _segmentation(shape, size, notes, where)
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise DatasetError(f"{where}: a {shape.tag} cannot be read ({error}); draw it again") from None
        if outline is not None:
            name, group = str(shape.get("label")), shape.get("group_id", "0")
            key = (number,) if group == "0" else (name, group)
            names[key] = name
            groups[key].append(outline)
    return joined_objects(names, groups, size, where)


def _segmentation(shape: ElementTree.Element, size: tuple[int, int], notes: Notes, where: str) -> Segmentation | None:
    values = shape.attrib
    if shape.tag == "polygon":
        ring = [float(v) for point in values["points"].split(";") for v in point.split(",")]
        return usable_rings([ring], notes, where) or None
    if shape.tag == "mask":
        return _mask(values, size)
    if shape.tag == "box":
        return [rectangle_ring(*(float(values[side]) for side in ("xtl", "ytl", "xbr", "ybr")))]
    if shape.tag == "ellipse":
        cx, cy, rx, ry, turn = (float(values.get(key, 0)) for key in ("cx", "cy", "rx", "ry", "rotation"))
        return [ellipse_ring((cx, cy), (rx, ry), np.deg2rad(turn))]
    notes.add(f"{shape.tag} left out: it has no area", where)
    return None


def _mask(values: dict[str, str], size: tuple[int, int]) -> Segmentation:
    """Decode run lengths along the rows of a box, starting outside."""
    left, top, width, height = (int(float(values[key])) for key in ("left", "top", "width", "height"))
    runs = [int(run) for run in values["rle"].split(",")]
    if sum(runs) != width * height or min(left, top, *runs) < 0 or left + width > size[1] or top + height > size[0]:
        raise ValueError("its run lengths do not fill its box in the picture")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return box_segmentation(inside, top, left, size)
