"""Reads Label Studio's JSON export: a list of tasks, each with a picture and annotation results."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

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
    mask_segmentation,
    rectangle_ring,
    sorted_names,
    usable_rings,
)
from ppsolo.formats.folder import Folder, objects_in, picture_sizes, read_json

NAME = "label_studio"
_KINDS = ("polygonlabels", "brushlabels", "ellipselabels", "rectanglelabels")


def evidence(folder: Folder) -> str:
    """Return the sign that the folder has this format, or ""."""
    files = _files(folder)
    return f"Label Studio's JSON ({', '.join(map(folder.name, files))})" if files else ""


def read(folder: Folder) -> AnnotatedSet:
    """Read polygons, brush masks, ellipses and rectangles of the latest annotation of each task.

    Raises DatasetError that names the task if a result cannot be read; or if no picture is found.
    """
    notes = Notes()
    images = []
    for file in _files(folder):
        for number, task in enumerate(objects_in(read_json(file), folder.name(file))):
            where = f"{folder.name(file)}, task {task.get('id', number)}"
            picture = _picture(folder, file, task)
            if picture is None:
                notes.add("task without its picture left out", where)
                continue
            results = _results(task, notes, where)
            size = _stated_size(results, where) or picture_sizes([picture])[picture]
            objects = tuple(_objects(results, size, notes, where))
            images.append(AnnotatedImage(picture, size, objects, folder.split_of(picture)))
    if not images:
        raise DatasetError(
            f"{folder.path}: it has no picture of Label Studio's tasks; put the pictures into this folder"
        )
    return AnnotatedSet(NAME, sorted_names(images), tuple(images), notes.lines())


def _files(folder: Folder) -> list[Path]:
    return [
        file
        for file, keys in folder.json_kinds.items()
        if "[]data" in keys and ("[]annotations" in keys or "[]completions" in keys)
    ]


def _picture(folder: Folder, file: Path, task: dict[str, Any]) -> Path | None:
    """Find the picture of a task by its path, or by its name without the code that an upload adds."""
    data = task.get("data")
    for value in data.values() if isinstance(data, dict) else ():
        if not isinstance(value, str):
            continue
        try:
            address = urlsplit(value)
            path = unquote(parse_qs(address.query).get("d", [address.path])[0])
        except ValueError:  # no address, or one with far too many fields
            continue
        name = PurePosixPath(path.replace("\\", "/")).name
        for candidate in (path.lstrip("/"), name, name.partition("-")[2]):
            found = folder.find_picture(candidate, [file.parent, file.parent / "images"]) if candidate else None
            if found is not None:
                return found
    return None


def _results(task: dict[str, Any], notes: Notes, where: str) -> list[dict[str, Any]]:
    """Return the results of the latest annotation that was not cancelled."""
    annotations = task.get("annotations", task.get("completions"))
    kept = [one for one in objects_in(annotations or [], f"{where}: 'annotations'") if not one.get("was_cancelled")]
    if not kept:
        return []
    if len(kept) > 1:
        notes.add("task with several annotations: the latest is used", where)
    latest = max(kept, key=lambda one: str(one.get("updated_at", "")))
    return objects_in(latest.get("result"), f"{where}: 'result'")


def _stated_size(results: list[dict[str, Any]], where: str) -> tuple[int, int] | None:
    sizes = (checked_size(one.get("original_height"), one.get("original_width"), where) for one in results)
    return next((size for size in sizes if size is not None), None)


def _objects(
    results: list[dict[str, Any]], size: tuple[int, int], notes: Notes, where: str
) -> Iterable[AnnotatedObject]:
    for result in results:
        kind, value = result.get("type"), result.get("value", {})
        if kind not in _KINDS:
            notes.add(f"result of type '{kind}' left out: it is not an outline", where)
            continue
        try:
            outline = _segmentation(kind, value, size, notes, where)
            names = value[kind]
            if not isinstance(names, list):
                raise TypeError("its labels are not a list")
        except (IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise DatasetError(f"{where}: a result of {kind} cannot be read ({error})") from None
        if not names:
            notes.add("outline without a label left out", where)
        elif outline is not None:
            yield AnnotatedObject(str(names[0]), outline)


def _segmentation(
    kind: str, value: dict[str, Any], size: tuple[int, int], notes: Notes, where: str
) -> Segmentation | None:
    """Convert a result; its coordinates are percentages of width and height."""
    across, down = size[1] / 100, size[0] / 100
    if kind == "brushlabels":
        return mask_segmentation(decode_brush(value["rle"], size) >= 128)
    if kind == "polygonlabels":
        ring = [v * scale for point in value["points"] for v, scale in zip(point, (across, down), strict=True)]
        return usable_rings([ring], notes, where) or None
    x, y, turn = value["x"] * across, value["y"] * down, np.deg2rad(value.get("rotation", 0))
    if kind == "ellipselabels":
        return [ellipse_ring((x, y), (value["radiusX"] * across, value["radiusY"] * down), turn)]
    ring = np.reshape(rectangle_ring(0, 0, value["width"] * across, value["height"] * down), (-1, 2))
    turned = ring @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + [x, y]
    return [turned.round(3).ravel().tolist()]


def decode_brush(data: list[int], size: tuple[int, int]) -> np.ndarray:
    """Decode a brush mask: uint8 [h, w], the opacity of each pixel.

    The bytes are a stream of bits, highest first. It starts with a header: the number of values (32 bits), the width
    of a value (5 bits), and four widths of lengths (4 bits each). All widths are in bits, minus one. Then runs follow.
    A run has one bit that says whether a value is repeated, two bits that choose the width of the length, the length
    minus one, and then the repeated value, or as many values as the length says. The values are red, green, blue and
    opacity, pixel by pixel.

    Raises ValueError if it is not a brush mask, or has another size.
    """
    bits = np.unpackbits(np.array(data, np.uint8))
    weights = 1 << np.arange(32)[::-1]
    at = 0

    def number(width: int) -> int:
        nonlocal at
        if at + width > len(bits):
            raise ValueError("the brush mask is cut short")
        at += width
        return int(bits[at - width : at] @ weights[-width:])

    total, width = number(32), number(5) + 1
    lengths = [number(4) + 1 for _ in range(4)]
    if total != 4 * size[0] * size[1] or width != 8:
        raise ValueError(f"the brush mask has {total} values, not 4 for each of {size[0]} x {size[1]} pixels")
    values = np.empty(total, np.uint8)
    done = 0
    while done < total:
        repeated = number(1)
        length = number(lengths[number(2)]) + 1
        if done + length > total:
            raise ValueError("the brush mask is longer than stated")
        if repeated:
            values[done : done + length] = number(8)
        else:
            if at + 8 * length > len(bits):
                raise ValueError("the brush mask is cut short")
            values[done : done + length] = np.packbits(bits[at : at + 8 * length])
            at += 8 * length
        done += length
    return values.reshape(*size, 4)[:, :, 3]
