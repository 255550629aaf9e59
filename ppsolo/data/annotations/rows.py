"""Reads the annotations of a COCO file, entry by entry, into growing arrays."""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ppsolo.data.annotations.findings import Findings
from ppsolo.data.annotations.keys import Categories, Images, Keys
from ppsolo.data.annotations.rules import (
    Identity,
    read_box,
    read_flag,
    read_identity,
    read_number,
    read_rings,
    read_runs,
    unwrap_segmentation,
)
from ppsolo.data.annotations.table import Annotations, Identities, Texts, compact_points
from ppsolo.data.annotations.usual import UsualRows
from ppsolo.results.rle import MAX_COORDINATE, MAX_OUTLINE, fill_their_images

_NUMBERS = frozenset((int, float))
_NO_BOX = [float("nan")] * 4


class _Values(NamedTuple):
    """area: as stated. box: [x, y, width, height]. None: not stated."""

    area: float | None
    box: list[float] | None
    crowd: bool
    ignored: bool

    @property
    def empty(self) -> bool:
        """Whether area or box is zero; a crowd's box does not matter."""
        if self.area is not None and self.area <= 0:
            return True
        return self.box is not None and min(self.box[2:]) <= 0 and not self.crowd and not self.ignored


class Rows:
    """The annotations read so far, in the order of the file. images, categories: of the same file."""

    def __init__(self, images: Images, categories: Categories, findings: Findings):
        self.images = images
        self.categories = categories
        self._findings = findings
        self._seen: set[Identity] = set()
        self._ids: list[Identity] = []
        self._image, self._label = array("i"), array("i")
        self._crowd, self._ignored = array("b"), array("b")
        self._boxes, self._areas, self._points = array("d"), array("d"), array("d")
        self._rings, self._runs = array("q"), array("q")
        self._ring_offsets = array("q", [0])
        self._run_bytes = bytearray()
        self._unchecked: list[int] = []

    def add(self, position: int, entry: Any) -> None:
        """Read one annotation. If it has faults, list the first one and leave the annotation out."""
        identity = self._identity(position, entry)
        if identity is None:
            return
        image = self._found(self.images, entry.get("image_id"), identity)
        if image is None:
            problem = f"annotation {identity} is for image {entry.get('image_id')}, which is not among 'images'"
            self._findings.add("unknown-image", identity, f"{problem}; add it there or remove the annotation")
            return
        where = f"annotation {identity} of image {self.images.identities[image]}"
        label = self._found(self.categories, entry.get("category_id"), identity)
        if label is None:
            problem = f"{where}: category {entry.get('category_id')} is not among the file's categories"
            self._findings.add("unknown-category", identity, f"{problem}; add it there or remove the annotation")
            return
        values = self._values(entry, identity, where)
        if values is None:
            return
        rings, runs = len(self._ring_offsets) - 1, len(self._run_bytes)
        outlined = self._outline(entry.get("segmentation"), image, identity, where)
        if outlined is None:
            return
        if values.empty:
            self._findings.add("zero-area", identity)
        elif not outlined:
            remedy = "has no segmentation with at least three points; add its outline or remove the annotation"
            self._findings.add("no-outline", identity, f"{where}: {remedy}")
        if not outlined and (values.empty or values.box is None):
            return
        if values.crowd or values.ignored:
            self._findings.add("crowd", identity)
        self._ids.append(identity)
        self._image.append(image)
        self._label.append(label)
        self._crowd.append(values.crowd)
        self._ignored.append(values.ignored)
        self._areas.append(float("nan") if values.area is None else values.area)
        self._boxes.fromlist(values.box or _NO_BOX)
        self._rings.extend((rings, len(self._ring_offsets) - 1))
        self._runs.extend((runs, len(self._run_bytes)))

    def add_usual(self, more: UsualRows) -> bool:
        """Append annotations of the usual form, or nothing if an id occurs twice; return whether they were appended."""
        new = set(more.ids)
        if len(new) < len(more.ids) or not self._seen.isdisjoint(new):
            return False
        self._seen |= new
        for identity, crowd in zip(more.ids, more.crowd, strict=True):
            if crowd:
                self._findings.add("crowd", identity)
        first = len(self._ids)
        self._unchecked += [first + place for place, length in enumerate(more.run_lengths) if length]
        self._ids += more.ids
        self._image.fromlist(more.image)
        self._label.fromlist(more.label)
        self._crowd.fromlist(more.crowd)
        self._ignored.frombytes(bytes(len(more.ids)))
        self._areas.frombytes(more.areas.tobytes())
        self._boxes.frombytes(more.boxes.tobytes())
        self._rings.frombytes(_spans(len(self._ring_offsets) - 1, more.ring_counts))
        self._runs.frombytes(_spans(len(self._run_bytes), more.run_lengths))
        self._ring_offsets.extend(len(self._points) + end for end in more.ring_ends)
        self._points.extend(more.points)
        self._run_bytes += more.run_bytes
        return True

    def packed(self, source: str) -> Annotations:
        """Return the arrays, sorted by image."""
        images, categories = self.images, self.categories
        image = _column(self._image, np.int32)
        order = np.argsort(image, kind="stable")
        order = order[self._usable()[order]]
        offsets = np.zeros(len(images.identities) + 1, np.int64)
        np.cumsum(np.bincount(image[order], minlength=len(images.identities)), out=offsets[1:])
        return Annotations(
            source=source,
            image_ids=Identities.pack(images.identities),
            file_names=Texts.pack(images.file_names),
            sizes=np.array(images.sizes, np.int32).reshape(-1, 2),
            category_ids=tuple(categories.index),
            category_names=categories.names,
            offsets=offsets,
            ids=Identities.pack([self._ids[row] for row in order.tolist()]),
            image=image[order],
            label=_column(self._label, np.int32)[order],
            boxes=_column(self._boxes, np.float64).reshape(-1, 4)[order],
            areas=_column(self._areas, np.float64)[order],
            crowd=_column(self._crowd, np.int8)[order].astype(bool),
            ignored=_column(self._ignored, np.int8)[order].astype(bool),
            rings=_column(self._rings, np.int64).reshape(-1, 2)[order],
            ring_offsets=_column(self._ring_offsets, np.int64),
            points=compact_points(_column(self._points, np.float64)),
            runs=_column(self._runs, np.int64).reshape(-1, 2)[order],
            run_bytes=np.frombuffer(bytes(self._run_bytes), np.uint8),
            findings=self._findings,
        )

    def _usable(self) -> np.ndarray:
        """bool [rows]: False for rows whose run lengths, checked here, are not a mask of their image."""
        usable = np.ones(len(self._ids), bool)
        rows = np.array(self._unchecked, np.int64)
        spans = _column(self._runs, np.int64).reshape(-1, 2)[rows]
        sizes = np.array(self.images.sizes, np.int64).reshape(-1, 2)[_column(self._image, np.int32)[rows]]
        counts = [self._run_bytes[start:stop].decode("latin-1") for start, stop in spans.tolist()]
        for place in np.flatnonzero(~fill_their_images(counts, sizes)).tolist():
            row, (height, width) = self._unchecked[place], sizes[place].tolist()
            usable[row] = False
            where = f"annotation {self._ids[row]} of image {self.images.identities[self._image[row]]}"
            try:
                read_runs({"size": [height, width], "counts": counts[place]}, (height, width))
            except ValueError as error:
                self._findings.add("broken-run-lengths", self._ids[row], f"{where}: {error}; draw the outline again")
        return usable

    def _identity(self, position: int, entry: Any) -> Identity | None:
        """Return the id of an annotation, None after a fault."""
        identity = read_identity(entry.get("id")) if isinstance(entry, Mapping) else None
        if not isinstance(entry, Mapping):
            problem = f"'annotations' is not a list of objects: entry {position} is not one"
        elif identity is None:
            has = f"entry {position} of 'annotations' has {entry.get('id')!r:.50}"
            problem = f"every entry of 'annotations' needs an integer as 'id': {has}"
        elif identity in self._seen:
            problem = f"'annotations' has the id {identity} twice; give every entry its own"
        else:
            self._seen.add(identity)
            if isinstance(identity, int) and type(entry["id"]) is not int:
                self._findings.add("number-as-text", identity)
            return identity
        self._findings.add("bad-id", position, problem)
        return None

    def _found(self, keys: Keys, value: Any, identity: Identity) -> int | None:
        """Return the index of an image or category, None if it does not exist."""
        found = keys.find(value)
        if found is not None and found[1]:
            self._findings.add(found[1], identity)
        return None if found is None else found[0]

    def _values(self, entry: Mapping[str, Any], identity: Identity, where: str) -> _Values | None:
        """Return the area, box and flags of an annotation, None after a fault."""
        usual = _usual_values(entry)
        if usual is not None:
            return usual
        area, bbox = entry.get("area"), entry.get("bbox")
        stated = not (bbox is None or bbox == [] or bbox == "")
        number = read_number(area)
        box = read_box(bbox) if stated else None
        flags = {key: read_flag(entry.get(key, 0)) for key in ("iscrowd", "ignore")}
        problem = None
        if number is None and area is not None:
            problem = f"area {area!r:.80} is not a number; correct or remove it"
        elif None in flags.values():
            key = next(key for key, flag in flags.items() if flag is None)
            problem = f"'{key}' is {entry[key]!r:.80}, neither 0 nor 1; correct it"
        elif stated and box is None:
            problem = f"bbox {_shown(bbox)} is not [x, y, width, height] in finite numbers; correct or remove it"
        elif box is not None and not _is_near(box):
            problem = f"bbox {_shown(bbox)} is far outside the image; correct or remove it"
        if problem is not None:
            self._findings.add("bad-number", identity, f"{where}: {problem}")
            return None
        if isinstance(area, str) or (isinstance(bbox, (str, list)) and any(isinstance(value, str) for value in bbox)):
            self._findings.add("number-as-text", identity)
        if box is not None and min(box[2:]) < 0:
            self._findings.add("negative-box", identity, f"{where}: bbox {_shown(bbox)}")
            left, top, width, height = box
            box = [min(left, left + width), min(top, top + height), abs(width), abs(height)]
        return _Values(number, box, bool(flags["iscrowd"]), bool(flags["ignore"]))

    def _outline(self, segmentation: Any, image: int, identity: Identity, where: str) -> bool | None:
        """Append the outline; return whether there is one, None after a fault."""
        if not segmentation:
            return False
        size = self.images.sizes[image]
        if type(segmentation) is list and self._append_rings(segmentation):
            return True
        if (
            type(segmentation) is dict
            and type(segmentation.get("counts")) is str
            and segmentation["counts"].isascii()
            and segmentation.get("size") == [*size]
        ):
            self._run_bytes += segmentation["counts"].encode()
            self._unchecked.append(len(self._ids))  # checked together at the end, which is much faster
            return True
        segmentation = unwrap_segmentation(segmentation)
        try:
            if isinstance(segmentation, Mapping):
                self._run_bytes += read_runs(dict(segmentation), size if size[0] else None)["counts"]
                return True
            if not isinstance(segmentation, (list, tuple)):
                raise ValueError("the segmentation is neither a list of polygons nor run lengths")
            rings, kinds, short = read_rings(segmentation)
        except ValueError as error:
            kind = "broken-run-lengths" if isinstance(segmentation, Mapping) else "broken-polygon"
            self._findings.add(kind, identity, f"{where}: {error}; draw the outline again")
            return None
        if max(map(_length, rings), default=0) > MAX_OUTLINE:
            problem = f"{where}: a polygon's outline is longer than {MAX_OUTLINE:g} pixels; draw it again"
            self._findings.add("broken-polygon", identity, problem)
            return None
        for kind in sorted(kinds):
            self._findings.add(kind, identity)
        if short and rings:
            self._findings.add("short-ring", identity, f"{where}: {short} of {len(rings) + short} parts")
        for ring in rings:
            self._points.fromlist(ring)
            self._ring_offsets.append(len(self._points))
        return len(rings) > 0

    def _append_rings(self, rings: list[Any]) -> bool:
        """Append rings if all are regular, as in nearly all files; otherwise nothing. Return whether it did."""
        points, offsets = self._points, self._ring_offsets
        start, first = len(points), len(offsets)
        for ring in rings:
            if type(ring) is not list or len(ring) < 6 or len(ring) % 2:
                break
            try:
                points.fromlist(ring)
                highest, lowest = max(ring), min(ring)
                # The sum detects NaN, which comparisons cannot. The last bound exceeds every length of the outline.
                finite = highest <= MAX_COORDINATE and lowest >= -MAX_COORDINATE and sum(ring) < 1e300
            except (TypeError, OverflowError):
                break
            if not finite or len(ring) * (highest - lowest) > MAX_OUTLINE:
                break
            offsets.append(len(points))
        else:
            return True
        del points[start:], offsets[first:]
        return False


def _usual_values(entry: Mapping[str, Any]) -> _Values | None:
    """Return the result of `Rows._values` for a regular annotation, much faster; None for all others."""
    area, bbox, flag = entry.get("area"), entry.get("bbox"), entry.get("iscrowd", 0)
    if type(bbox) is not list or len(bbox) != 4 or type(flag) is not int or flag not in (0, 1) or "ignore" in entry:
        return None
    if not isinstance(area, (int, float)) or type(area) is bool or not 0 <= area < 1e300:
        return None
    x, y, width, height = bbox
    if not (type(x) in _NUMBERS and type(y) in _NUMBERS and type(width) in _NUMBERS and type(height) in _NUMBERS):
        return None
    if not (abs(x) < MAX_COORDINATE / 2 and abs(y) < MAX_COORDINATE / 2):
        return None
    if not (0 <= width < MAX_COORDINATE / 2 and 0 <= height < MAX_COORDINATE / 2):
        return None
    return _Values(area, bbox, flag == 1, False)


def _spans(start: int, lengths: Sequence[int]) -> bytes:
    """Return the begin and the end of each of several consecutive parts: the bytes of int64 [n, 2]."""
    ends = start + np.cumsum(lengths, dtype=np.int64)
    return np.stack([ends - lengths, ends], axis=1).tobytes()


def _column(values: array, kind: type) -> np.ndarray:
    return np.frombuffer(values, kind) if values else np.zeros(0, kind)


def _length(ring: Sequence[float]) -> float:
    """Sum of the horizontal and vertical steps around a ring, in pixels."""
    points = np.array(ring).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).sum())


def _is_near(box: Sequence[float]) -> bool:
    left, top, width, height = box
    return max(abs(left), abs(top), abs(left + width), abs(top + height)) <= MAX_COORDINATE


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
