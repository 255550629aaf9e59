"""Reads YOLO segmentation labels: one text file per picture, one line "class x y x y ..." per object.

supervision reads such files too, but splits an object's ring at its cuts; here a line is one object.
"""

import re
from pathlib import Path
from typing import Any

from ppsolo.errors import ConfigError, DatasetError
from ppsolo.formats.annotated import AnnotatedImage, AnnotatedObject, AnnotatedSet, Notes
from ppsolo.formats.folder import Folder, picture_sizes, read_lines
from ppsolo.yaml_text import PlainLoader, load_text, read_text

NAME = "yolo"
_NAME_FILES = ("classes.txt", "obj.names", "labels.txt")
_NO_LABELS = (*_NAME_FILES, "readme.txt", "requirements.txt", "train.txt", "val.txt", "test.txt")
MOST_CLASSES = 100_000
_LOOKED_AT = 20  # label files examined


def evidence(folder: Folder) -> str:
    """Return the sign that the folder has this format, or ""."""
    labels = [file for file in _label_files(folder) if file.stem in folder.by_stem]
    looked_at = [line for file in labels[:_LOOKED_AT] for line in read_lines(file)]
    labels_among = sum(_values(line) is not None for line in looked_at)
    if 2 * labels_among <= len(looked_at):  # `read` names a wrong line among right ones
        return ""
    return f"{len(labels)} text files with YOLO's lines of a class and coordinates from 0 to 1"


def read(folder: Folder) -> AnnotatedSet:
    """Read every line with at least three points; a line with only a box has no outline and is left out.

    A picture without a label file, or with an empty one, has no objects. Names come from data.yaml or classes.txt.

    Raises DatasetError that names file and line if a line is not a label, or if no line has an outline.
    """
    notes = Notes()
    names = _class_names(folder)
    pictures = {picture: _label_file(folder, picture) for picture in folder.pictures}
    sizes = picture_sizes(pictures)
    used: set[int] = set()
    read_images: list[tuple[Path, list[tuple[int, list[float]]]]] = []
    for picture, file in pictures.items():
        if file is None:
            notes.add("picture without a label file: used as one without objects", folder.name(picture))
        lines = [] if file is None else _objects(file, sizes[picture], notes, folder)
        used |= {label for label, _ in lines}
        read_images.append((picture, lines))
    if not used:
        raise DatasetError(
            f"{folder.path}: the YOLO labels have boxes or nothing, but no outlines; draw outlines (YOLO segmentation)"
        )
    for label in sorted(used - names.keys()):
        notes.add("class named by its number; put the names into classes.txt, one per line", f"class {label}")
    class_names = tuple(names.get(label, f"class {label}") for label in range(max([*used, *names]) + 1))
    images = [
        AnnotatedImage(
            picture,
            sizes[picture],
            tuple(AnnotatedObject(class_names[label], [ring]) for label, ring in lines),
            folder.split_of(picture),
        )
        for picture, lines in read_images
    ]
    return AnnotatedSet(NAME, class_names, tuple(images), notes.lines())


def _label_files(folder: Folder) -> list[Path]:
    return [file for file in folder.with_suffix(".txt") if file.name.lower() not in _NO_LABELS]


def _label_file(folder: Folder, picture: Path) -> Path | None:
    """Find the label file of a picture: next to it, or with "labels" for "images" in its path."""
    parts = list(picture.relative_to(folder.path).with_suffix(".txt").parts)
    candidates = [picture.with_suffix(".txt")]
    for at in reversed(range(len(parts) - 1)):
        if parts[at].lower() == "images":
            candidates.append(folder.path.joinpath(*parts[:at], "labels", *parts[at + 1 :]))
    candidates.append(folder.path / "labels" / picture.with_suffix(".txt").name)
    return next((file for file in candidates if file.is_file()), None)


def _values(line: str) -> list[float] | None:
    """Return the numbers of a label line: the class, then coordinates from 0 to 1; None for other lines."""
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        return None
    plausible = len(values) >= 5 and 0 <= values[0] < MOST_CLASSES and values[0].is_integer()
    return values if plausible and all(-0.1 <= value <= 1.1 for value in values[1:]) else None


def _objects(file: Path, size: tuple[int, int], notes: Notes, folder: Folder) -> list[tuple[int, list[float]]]:
    """Return (class, ring in pixels) of each line."""
    height, width = size
    found = []
    for number, line in enumerate(read_lines(file), start=1):
        where = f"{folder.name(file)}, line {number}"
        values = _values(line)
        if values is None:
            raise DatasetError(
                f"{where}: not a YOLO label (class, then x y from 0 to 1, shares of width and height): {line[:60]!r}"
            )
        label, places = int(values[0]), values[1:]
        if len(places) % 2:  # predictions have a score at the end of the line
            places = places[:-1]
        if len(places) < 6:
            notes.add("line with only a box left out", where)
            continue
        ring = [round(v * (height if i % 2 else width), 4) for i, v in enumerate(places)]
        found.append((label, ring))
    return found


def _class_names(folder: Folder) -> dict[int, str]:
    for file in folder.with_suffix(".yaml", ".yml"):
        try:
            content: Any = load_text(read_text(file).removeprefix("\ufeff"), folder.name(file), PlainLoader)
        except ConfigError:  # another tool's matter
            continue
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, list):
            return {label: str(name) for label, name in enumerate(names)}
        if isinstance(names, dict) and all(re.fullmatch("[0-9]{1,9}", str(i)) and int(i) < MOST_CLASSES for i in names):
            return {int(label): str(name) for label, name in names.items()}
    for file in folder.files:
        if file.name.lower() in _NAME_FILES:
            return dict(enumerate(read_lines(file)))
    return {}
