"""The data set that every reader of annotations returns: pictures with the outlines of their objects."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ppsolo.errors import DatasetError
from ppsolo.results.rle import MAX_PIXELS, Rle, encode_mask, read_segmentation, union
from ppsolo.text import one_line

# Forms of COCO's JSON: rings [[x, y, x, y, ...], ...] in pixels, or {"size": [h, w], "counts": str}.
Segmentation = list[list[float]] | dict[str, Any]


@dataclass(frozen=True)
class AnnotatedObject:
    """One object with all its parts. crowd: a region of many objects, as in COCO."""

    name: str
    segmentation: Segmentation
    crowd: bool = False


@dataclass(frozen=True)
class AnnotatedImage:
    """One picture.

    Attributes:
        path: its file.
        size: (height, width) for the outlines.
        objects: may be empty.
        split: "train", "val" or "test" if the source states it, else "".
        group: pictures of one group stay together in a split; "": a group of its own.
    """

    path: Path
    size: tuple[int, int]
    objects: tuple[AnnotatedObject, ...]
    split: str = ""
    group: str = ""


@dataclass(frozen=True)
class AnnotatedSet:
    """The result of reading a folder.

    Attributes:
        format: the name of the format.
        class_names: in the order of the source, or else alphabetical.
        images: sorted by path.
        notes: a line with a count for each kind of thing that was left out or specially treated.
    """

    format: str
    class_names: tuple[str, ...]
    images: tuple[AnnotatedImage, ...]
    notes: tuple[str, ...]


@dataclass
class Notes:
    """Counts what a reader leaves out, by kind, with the first place of each kind."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, where: object) -> None:
        """Count one more of a kind."""
        self.counts[kind] += 1
        self.first.setdefault(kind, str(where))

    def lines(self) -> tuple[str, ...]:
        """Return a line per kind."""
        return tuple(f"{number} x {kind} (first: {self.first[kind]})" for kind, number in self.counts.items())


def checked_size(height: Any, width: Any, where: object) -> tuple[int, int] | None:
    """Return (height, width) as an annotation file states them, None unless they are whole numbers above zero.

    Raises DatasetError for more pixels than a picture may have.
    """
    if not all(isinstance(side, int) and side > 0 for side in (height, width)):
        return None
    if height * width > MAX_PIXELS:
        raise DatasetError(f"{where}: states {height} x {width} pixels, at most {MAX_PIXELS} can be; export it anew")
    return int(height), int(width)


def sorted_names(images: list[AnnotatedImage]) -> tuple[str, ...]:
    """Return the names of all classes in alphabetical order."""
    return tuple(sorted({one.name for image in images for one in image.objects}))


def with_printable_names(dataset: AnnotatedSet) -> AnnotatedSet:
    """Return the data set with every class name and note on one line of printable characters.

    Classes whose names become equal are merged. A name without a printable character becomes "?".
    """
    names = {name: one_line(name) or "?" for name in dataset.class_names}
    images = dataset.images
    if any(name != cleaned for name, cleaned in names.items()):
        images = tuple(
            dataclasses.replace(
                image, objects=tuple(dataclasses.replace(one, name=one_line(one.name) or "?") for one in image.objects)
            )
            for image in images
        )
    return dataclasses.replace(
        dataset,
        class_names=tuple(dict.fromkeys(names.values())),
        images=images,
        notes=tuple(one_line(note) for note in dataset.notes),
    )


def usable_rings(rings: list[list[float]], notes: Notes, where: object) -> list[list[float]]:
    """Return the rings with at least three points; count the others."""
    usable = [ring for ring in rings if len(ring) >= 6 and len(ring) % 2 == 0]
    for _ in range(len(rings) - len(usable)):
        notes.add("outline of fewer than three points left out", where)
    return usable


def json_rle(rle: Rle) -> dict[str, Any]:
    """Convert a compressed RLE for JSON."""
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def mask_segmentation(mask: np.ndarray) -> dict[str, Any]:
    """Encode a mask, bool [h, w], as a compressed RLE for JSON."""
    return json_rle(encode_mask(mask))


def united(parts: list[Segmentation], size: tuple[int, int]) -> Segmentation:
    """Join the parts of one object: all rings, or one mask if a part is a mask.

    Raises ValueError for parts that are not outlines in an image of (height, width).
    """
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, list) for part in parts):
        return [ring for part in parts if isinstance(part, list) for ring in part]
    return json_rle(union([read_segmentation(part, size) for part in parts]))


def joined_objects(
    names: Mapping[object, str], parts: Mapping[object, list[Segmentation]], size: tuple[int, int], where: object
) -> tuple[AnnotatedObject, ...]:
    """Join parts of the same key into objects. Raises DatasetError for parts that are no outline."""
    found = []
    for key, outlines in parts.items():
        try:
            found.append(AnnotatedObject(names[key], united(outlines, size)))
        except ValueError as error:
            raise DatasetError(
                f"{where}: the parts of {names[key]!r} cannot be joined ({error}); draw them anew"
            ) from None
    return tuple(found)


def ellipse_ring(center: tuple[float, float], radii: tuple[float, float], turn: float = 0.0) -> list[float]:
    """Return a ring of 64 points on an ellipse. center: x, y. radii: along both axes. turn: of the axes, in radians."""
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    along, across = radii[0] * np.cos(angles), radii[1] * np.sin(angles)
    x = center[0] + along * np.cos(turn) - across * np.sin(turn)
    y = center[1] + along * np.sin(turn) + across * np.cos(turn)
    return np.stack([x, y], axis=1).round(3).ravel().tolist()


def rectangle_ring(left: float, top: float, right: float, bottom: float) -> list[float]:
    """Return the ring of a rectangle."""
    left, right = sorted((left, right))
    top, bottom = sorted((top, bottom))
    return [left, top, right, top, right, bottom, left, bottom]
