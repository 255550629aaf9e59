"""Reads COCO's JSON in the variants that tools write: one or several files, with pictures anywhere in the folder."""

from collections import defaultdict
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from ppsolo.data.annotations.rules import short_identity
from ppsolo.errors import DatasetError
from ppsolo.formats.annotated import (
    AnnotatedImage,
    AnnotatedObject,
    AnnotatedSet,
    Notes,
    Segmentation,
    checked_size,
    json_rle,
    usable_rings,
)
from ppsolo.formats.folder import Folder, objects_in, picture_sizes, read_json, split_in_name
from ppsolo.results.rle import read_segmentation

NAME = "coco"


def evidence(folder: Folder) -> str:
    """Return the sign that the folder has this format, or ""."""
    files = _files(folder)
    shown = ", ".join(map(folder.name, files[:3])) + (", ..." if len(files) > 3 else "")
    return f"COCO's JSON ({shown})" if files else ""


def read(folder: Folder) -> AnnotatedSet:
    """Read all COCO files of the folder as one data set; categories with the same name are one class.

    Ids may be texts or integers. A ring may lack the list around it. Masks that CVAT marks `iscrowd` are objects. An
    annotation without an outline is left out, with a note.

    Raises DatasetError that names the annotation if an outline cannot be read.
    """
    notes = Notes()
    images: list[AnnotatedImage] = []
    names: dict[str, None] = {}
    for file in _files(folder):
        content = read_json(file)
        for key in ("images", "annotations", "categories"):
            objects_in(content[key], f"{file}: '{key}'")
        categories = {_id(one): str(one.get("name", one.get("id"))) for one in content["categories"]}
        used = {_plain(one.get("category_id")) for one in content["annotations"]}
        names |= dict.fromkeys(name for identity, name in categories.items() if identity in used)
        annotations = defaultdict(list)
        for one in content["annotations"]:
            annotations[_plain(one.get("image_id"))].append(one)
        from_cvat = _marked_by_cvat(content["annotations"])
        split = split_in_name(file.stem) or folder.split_of(file)
        for entry in content["images"]:
            found = _image(folder, file, entry, notes)
            if found is not None:
                path, size = found
                objects = _objects(annotations[_id(entry)], categories, size, notes, from_cvat)
                group = str(entry.get("group", ""))
                images.append(AnnotatedImage(path, size, objects, split or folder.split_of(path), group))
    if not images:
        raise DatasetError(f"{folder.path}: it has no picture of the COCO file; put the pictures into this folder")
    return AnnotatedSet(NAME, tuple(names), tuple(images), notes.lines())


def _files(folder: Folder) -> list[Path]:
    return [file for file, keys in folder.json_kinds.items() if {"images", "annotations", "categories"} <= keys]


def _plain(identity: object) -> object:
    """Convert an id so that 1, 1.0 and "1" are equal; a number of more than 64 bits becomes text."""
    if isinstance(identity, float) and identity.is_integer():
        identity = int(identity)
    if isinstance(identity, int):
        return short_identity(identity)
    if isinstance(identity, str) and identity.isdecimal() and len(identity) < 20:
        return int(identity)
    return identity if isinstance(identity, Hashable) else str(identity)


def _id(entry: dict[str, Any]) -> object:
    return _plain(entry.get("id"))


def _marked_by_cvat(annotations: list[dict[str, Any]]) -> bool:
    """Whether `iscrowd` means a brush mask: CVAT's annotations have `attributes` with `occluded`."""
    crowds = [one for one in annotations if one.get("iscrowd")]
    return bool(crowds) and all(
        isinstance(one.get("attributes"), dict) and "occluded" in one["attributes"] for one in crowds
    )


def _image(folder: Folder, file: Path, entry: dict[str, Any], notes: Notes) -> tuple[Path, tuple[int, int]] | None:
    name = str(entry.get("file_name") or "")
    near = [file.parent, file.parent / "images", folder.path, folder.path / "images"]
    # As in COCO, annotations/instances_val2017.json with the pictures of val2017.
    near += [place / file.stem.rpartition("_")[2] for place in (file.parent, file.parent.parent)]
    path = folder.find_picture(name, near)
    if path is None:
        notes.add("missing picture of the file left out", name)
        return None
    try:
        size = checked_size(int(float(entry["height"])), int(float(entry["width"])), name)
    except (KeyError, OverflowError, TypeError, ValueError):
        size = None
    return path, size or picture_sizes([path])[path]


def _objects(
    annotations: list[dict[str, Any]],
    categories: dict[object, str],
    size: tuple[int, int],
    notes: Notes,
    from_cvat: bool,
) -> tuple[AnnotatedObject, ...]:
    objects = []
    for one in annotations:
        where = f"annotation {one.get('id')}"
        name = categories.get(_plain(one.get("category_id")))
        if name is None:
            notes.add("annotation of an unlisted category left out", where)
            continue
        outline = _segmentation(one.get("segmentation"), size, notes, where)
        if outline is None:
            continue
        crowd = bool(one.get("iscrowd") or one.get("ignore"))
        if crowd and from_cvat:
            notes.add("mask marked iscrowd by CVAT: used as an object", where)
        objects.append(AnnotatedObject(name, outline, crowd and not from_cvat))
    return tuple(objects)


def _segmentation(value: Any, size: tuple[int, int], notes: Notes, where: str) -> Segmentation | None:
    if not value:
        notes.add("annotation without an outline left out", where)
        return None
    try:
        if isinstance(value, dict):
            return json_rle(read_segmentation(value, size))
        rings = [value] if not isinstance(value[0], list) else value
        usable = usable_rings([[float(v) for v in ring] for ring in rings], notes, where)
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise DatasetError(f"{where}: its outline cannot be read ({error}); draw it again") from None
    return usable or None
