"""A data set's annotations as flat arrays: small, shared by processes without copies, and mapped from a file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ppsolo.data.annotations.findings import Findings
from ppsolo.errors import DatasetError
from ppsolo.results import rle

# Polygons, each float64 [2 * points] as x, y, x, y, ...; or compressed run lengths.
Outline = tuple[np.ndarray, ...] | rle.Rle
Identity = int | str


PARTS = 100.0  # parts of a pixel: COCO's files have two decimals
_COMPARED_AT_ONCE = 2**20


def compact_points(points: np.ndarray) -> np.ndarray:
    """Return coordinates, float64 [n], in the smallest form that keeps every bit: hundredths as uint16 or int32.

    >>> compact_points(np.array([0.0, 12.34, 640.0])), compact_points(np.array([0.125]))
    (array([    0,  1234, 64000], dtype=uint16), array([0.125]))
    """
    for kind in (np.uint16, np.int32):
        limits = np.iinfo(kind)
        whole = np.empty(len(points), kind)
        for start in range(0, len(points), _COMPARED_AT_ONCE):
            part = points[start : start + _COMPARED_AT_ONCE]
            hundredths = np.rint(part * PARTS)
            if hundredths.min() < limits.min or hundredths.max() > limits.max:
                break
            found = whole[start : start + len(part)]
            found[:] = hundredths
            if not np.array_equal((found / PARTS).view(np.int64), part.view(np.int64)):  # also tells -0.0 from 0.0
                return points
        else:
            return whole
    return points


@dataclass(frozen=True)
class Texts:
    """n texts as one array of bytes. offsets: int64 [n + 1]. data: uint8, UTF-8."""

    offsets: np.ndarray
    data: np.ndarray

    @staticmethod
    def pack(texts: Sequence[str]) -> "Texts":
        parts = [text.encode("utf-8", "surrogatepass") for text in texts]
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        return Texts(offsets, np.frombuffer(b"".join(parts), np.uint8))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        return self.data[self.offsets[index] : self.offsets[index + 1]].tobytes().decode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Identities:
    """n ids: int64 [n], or texts in JSON's form if one is a text or too large. One of the two is None."""

    numbers: np.ndarray | None
    texts: Texts | None

    @staticmethod
    def pack(values: Sequence[Identity]) -> "Identities":
        if all(type(value) is int and -(2**63) <= value < 2**63 for value in values):
            return Identities(np.array(values, np.int64), None)
        return Identities(None, Texts.pack([json.dumps(value) for value in values]))

    def __len__(self) -> int:
        return len(self.numbers) if self.numbers is not None else len(self.texts or ())

    def __getitem__(self, index: int) -> Identity:
        if self.numbers is not None:
            return int(self.numbers[index])
        assert self.texts is not None
        return json.loads(self.texts[index])

    def __iter__(self) -> Iterator[Identity]:
        return map(self.__getitem__, range(len(self)))

    def some(self, rows: np.ndarray) -> tuple[Identity, ...]:
        """Return the ids at `rows`, int64 [k]."""
        if self.numbers is not None:
            return tuple(self.numbers[rows].tolist())
        return tuple(self[row] for row in rows.tolist())


@dataclass(frozen=True)
class Annotations:
    """N images and M annotations of a COCO file, checked; images sorted by id, rows sorted by image.

    Attributes:
        source: the file's name in errors.
        image_ids: N ids. file_names: N, as in the file, "" for none.
        sizes: int32 [N, 2], (height, width) in pixels; zeros if the file states no usable size.
        category_ids, category_names: in the order of the file.
        offsets: int64 [N + 1]; image i has the rows offsets[i] to offsets[i + 1], in the order of the file.
        ids: M ids. image: int32 [M], index of the image. label: int32 [M], position of the category.
        boxes: float64 [M, 4], left, top, width, height as stated; NaN without a bbox.
        areas: float64 [M] as stated, NaN without an area.
        crowd: bool [M], `iscrowd`. ignored: bool [M], `ignore`.
        rings: int64 [M, 2], first and last + 1 of an outline's rings in `ring_offsets`.
        ring_offsets: int64 [R + 1], position of a ring's numbers x, y, x, y, ... in `points`.
        points: float64 in pixels; or uint16 or int32 in hundredths of a pixel, see `compact_points`.
        runs: int64 [M, 2], position of an outline's compressed run lengths in `run_bytes`, uint8.
        findings: all faults of the file, and everything that was read by a special rule.
    """

    source: str
    image_ids: Identities
    file_names: Texts
    sizes: np.ndarray
    category_ids: tuple[Identity, ...]
    category_names: tuple[str, ...]
    offsets: np.ndarray
    ids: Identities
    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray
    rings: np.ndarray
    ring_offsets: np.ndarray
    points: np.ndarray
    runs: np.ndarray
    run_bytes: np.ndarray
    findings: Findings

    def __len__(self) -> int:
        return len(self.image)

    @property
    def outlined(self) -> np.ndarray:
        """bool [M]: the annotations that have an outline."""
        return (self.rings[:, 1] > self.rings[:, 0]) | (self.runs[:, 1] > self.runs[:, 0])

    def size(self, image: int) -> tuple[int, int]:
        """(height, width) of an image; raises DatasetError if the file does not state it."""
        height, width = self.sizes[image].tolist()
        if height == 0:
            raise DatasetError(f"{self.source}: image {self.image_ids[image]!r} has no height and width")
        return height, width

    def outline(self, row: int) -> Outline | None:
        """Return the outline of an annotation, None if it has none; do not write to the arrays."""
        first, last = self.rings[row].tolist()
        if last > first:
            ends = self.ring_offsets[first : last + 1].tolist()
            rings = (self.points[start:stop] for start, stop in pairwise(ends))
            return tuple(rings) if self.points.dtype == np.float64 else tuple(ring / PARTS for ring in rings)
        start, stop = self.runs[row].tolist()
        if stop == start:
            return None
        height, width = self.sizes[self.image[row]].tolist()
        return {"size": [height, width], "counts": self.run_bytes[start:stop].tobytes()}

    def bbox(self, row: int) -> list[float] | None:
        """Return [left, top, width, height] as stated, None if it is missing."""
        box = self.boxes[row].tolist()
        return None if box[0] != box[0] else box

    def refuse_errors(self, passed_over: Sequence[str] = ()) -> None:
        """Raise DatasetError for the first error among the findings, except for the kinds `passed_over`."""
        if (error := self.findings.first_error(passed_over)) is not None:
            raise DatasetError(f"{self.source}: {error}")

    def columns(self) -> dict[str, np.ndarray]:
        """Return all arrays by name, for `from_columns`."""
        found: dict[str, np.ndarray] = {}
        for name in _ARRAYS:
            found[name] = getattr(self, name)
        packed = {"file_names": self.file_names, "image_ids": self.image_ids.texts, "ids": self.ids.texts}
        for name, texts in packed.items():
            if texts is not None:
                found[f"{name}.offsets"], found[f"{name}.data"] = texts.offsets, texts.data
        for name, keys in (("image_ids", self.image_ids), ("ids", self.ids)):
            if keys.numbers is not None:
                found[name] = keys.numbers
        return found

    def facts(self) -> dict[str, Any]:
        """Return everything except arrays, ready for JSON."""
        return {
            "category_ids": list(self.category_ids),
            "category_names": list(self.category_names),
            "findings": self.findings.to_json(),
        }

    @staticmethod
    def from_columns(source: str | Path, facts: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> "Annotations":
        """Undo `facts` and `columns`. Raises KeyError if something is missing."""
        return Annotations(
            source=str(source),
            image_ids=_identities("image_ids", columns),
            file_names=_texts("file_names", columns),
            category_ids=tuple(facts["category_ids"]),
            category_names=tuple(facts["category_names"]),
            ids=_identities("ids", columns),
            findings=Findings.from_json(facts["findings"]),
            **{name: columns[name] for name in _ARRAYS},
        )


_ARRAYS = (
    "sizes",
    "offsets",
    "image",
    "label",
    "boxes",
    "areas",
    "crowd",
    "ignored",
    "rings",
    "ring_offsets",
    "points",
    "runs",
    "run_bytes",
)


def _texts(name: str, columns: Mapping[str, np.ndarray]) -> Texts:
    return Texts(columns[f"{name}.offsets"], columns[f"{name}.data"])


def _identities(name: str, columns: Mapping[str, np.ndarray]) -> Identities:
    return Identities(columns[name], None) if name in columns else Identities(None, _texts(name, columns))
