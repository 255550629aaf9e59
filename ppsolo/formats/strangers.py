"""Annotations that ppsolo cannot read, and what to export instead."""

from pathlib import Path
from typing import Any

from ppsolo.errors import DatasetError
from ppsolo.formats.folder import Folder, read_json
from ppsolo.formats.mask_files import MASK_FOLDERS

_HEAD = 100_000  # bytes of an XML file that are searched
_LOSSY = (".jpg", ".jpeg")


def advice(folder: Folder) -> str:
    """Return what the folder holds and what to export instead; "" if it is nothing known."""
    for file in folder.with_suffix(".json")[:1]:
        if (found := _of_json(file, folder.json_kinds.get(file, frozenset()))) != "":
            return f"{folder.name(file)}, {found}"
    for file in folder.with_suffix(".xml")[:1]:
        if (found := _of_xml(file)) != "":
            return f"{folder.name(file)}, {found}"
    masks = [
        picture
        for picture in folder.with_suffix(*_LOSSY)
        if picture.parent.name.lower() in MASK_FOLDERS and len(folder.by_stem[picture.stem]) > 1
    ]
    if masks:
        return f"masks as JPEG ({folder.name(masks[0])}), which changes their values: save them as PNG"
    return ""


def _of_json(file: Path, keys: frozenset[str]) -> str:
    if "_via_img_metadata" in keys or _has_regions(file):
        return "a file of VGG's VIA: export the annotations there in COCO format"
    if {"[]annotation_id", "[]annotator"} & keys or {"[]id", "[]image"} <= keys:
        return "Label Studio's JSON-MIN: export JSON there"
    if {"size", "objects", "tags"} <= keys:
        return "a file of Supervisely: export COCO there"
    return ""


def _has_regions(file: Path) -> bool:
    try:
        content: Any = read_json(file)
    except DatasetError:
        return False
    first = next(iter(content.values()), None) if isinstance(content, dict) else None
    return isinstance(first, dict) and "regions" in first


def _of_xml(file: Path) -> str:
    with file.open("rb") as stream:
        head = stream.read(_HEAD)
    if b"<track" in head:
        return "a video of CVAT: export the task in COCO format, or as CVAT for images"
    if b"<bndbox>" in head:
        return "boxes of Pascal VOC without outlines: draw outlines, for example in labelme or CVAT"
    return ""
