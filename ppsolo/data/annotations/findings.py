"""Faults and unusual entries of a data set, counted by kind, with a remedy for each kind."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ppsolo.text import first_few

Severity = Literal["error", "warning", "note"]
IdOf = Literal["entry", "image", "annotation", "category"]
Identity = int | str

TOLERATED_SHARE = 0.01  # share of the instances, for problems that are a matter of degree
SHOWN_IDS = 10
MANY_CROWDS = 0.1  # share of the annotations; beyond it, training warns of crowds

_MATTERS_OF_DEGREE = ("tiny", "out-of-range", "collision")

# Kind of problem, in the order of the report: (severity, kind of its ids, problem; remedy).
KINDS: dict[str, tuple[Severity, IdOf, str]] = {
    "bad-id": ("error", "entry", "every entry needs an id that occurs once; renumber the entry"),
    "image-entry": ("error", "image", "no file name or no usable size; complete the entry or remove it"),
    "missing-image": ("error", "image", "no such file; correct 'file_name' or the image folder"),
    "unreadable-image": ("error", "image", "the file cannot be read; replace it or remove the entry"),
    "image-size": ("error", "image", "the file has another size; correct the entry or the image's rotation"),
    "unknown-image": ("error", "annotation", "the image is not listed; add it to 'images' or remove the annotation"),
    "unknown-category": ("error", "annotation", "not a listed category; add it to 'categories' or correct the id"),
    "bad-number": ("error", "annotation", "area, bbox or iscrowd is not usable; correct or remove it"),
    "broken-polygon": ("error", "annotation", "a polygon cannot be drawn; draw the outline again"),
    "broken-run-lengths": ("error", "annotation", "the run lengths are not a mask of the image; encode the mask again"),
    "num-classes": ("error", "category", "the configuration does not fit; set num_classes"),
    "nothing-to-train": ("error", "annotation", "no image has an instance to train on: annotate some"),
    "no-outline": ("warning", "annotation", "no outline, left out of training and of mask AP; add one or remove it"),
    "zero-area": ("warning", "annotation", "area or box of zero, left out of training; correct or remove it"),
    "short-ring": ("warning", "annotation", "a part with fewer than three points is left out; redraw or remove it"),
    "empty-mask": ("warning", "annotation", "the outline contains no pixel, never learned; draw it again or remove it"),
    "box-mismatch": ("warning", "annotation", "bbox and outline differ; write bbox as [x, y, width, height]"),
    "tiny": ("warning", "annotation", "less than one pixel at stride 4, not learned; train at a larger scale"),
    "out-of-range": ("warning", "annotation", "size in no level's range, never learned; widen scale_ranges"),
    "collision": ("warning", "annotation", "all cells go to other instances, not learned; take larger num_grids"),
    "unused-category": ("warning", "category", "without an instance, never learned; annotate some or remove it"),
    "flat-polygon": ("note", "annotation", "one ring without its own list, read as one; write [[x, y, ...]]"),
    "negative-box": ("note", "annotation", "a bbox side below zero, read as its opposite; write [x, y, width, height]"),
    "number-as-text": ("note", "annotation", "ids or numbers are text, read as numbers; write them without quotes"),
    "unusual-entry": ("note", "image", "id or size is text or a fraction, read as a number; write whole numbers"),
    "by-name": ("note", "annotation", "an image or category is named where its id belongs, matched by name"),
    "file-name": ("note", "image", "found under another spelling of 'file_name'; correct the file names"),
    "crowd": ("note", "annotation", "crowd or ignored region: not trained on; 'iscrowd': 0 makes an instance of it"),
    "tiles": ("note", "annotation", "objects become too small where large images are scaled down; predict in tiles"),
    "empty-image": ("note", "image", "without an instance to train on: left out of training"),
}


@dataclass(frozen=True)
class DataProblem:
    """One kind of problem with all its occurrences.

    Attributes:
        kind: a short name that programs can rely on.
        severity: "error": training or evaluation would stop; "warning": something is wrong or not learned; "note":
            for information. "tiny", "out-of-range" and "collision" are a note up to TOLERATED_SHARE of the
            instances.
        id_of: the kind of the ids; "entry": positions, from 0, in the list that the detail names.
        ids: as in the annotation file.
        line: the problem and its remedy.
        details: places and reasons, in the order of the ids; empty if the line is enough.
    """

    kind: str
    severity: Severity
    id_of: IdOf
    ids: tuple[Identity, ...]
    line: str
    details: tuple[str, ...]

    def where(self) -> str:
        """Return the number and the first ids: "3 annotations: 4, 5, 6"; empty without ids."""
        count = len(self.ids)
        if not count:
            return ""
        several = {"entry": "entries", "category": "categories"}.get(self.id_of, f"{self.id_of}s")
        return f"{count} {several if count > 1 else self.id_of}: {first_few(self.ids, SHOWN_IDS)}"


class Findings:
    """Collects problems while a data set is read.

    >>> findings = Findings()
    >>> findings.add("short-ring", 7, "annotation 7 of image 1: a ring of 1 point")
    >>> [problem.where() for problem in findings.problems(instances=1)]
    ['1 annotation: 7']
    """

    def __init__(self) -> None:
        self._ids: dict[str, list[Identity]] = defaultdict(list)
        self._details: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, identity: Identity | None = None, detail: str = "") -> None:
        """Add one occurrence; `identity`: None for the whole data set. KeyError: no such kind."""
        if kind not in KINDS:
            raise KeyError(kind)
        self._ids[kind] += [] if identity is None else [identity]
        self._details[kind] += [detail] if detail else []

    def ids(self, kind: str) -> tuple[Identity, ...]:
        """Return the ids of a kind, in the order of finding."""
        return tuple(self._ids.get(kind, ()))

    def copy(self) -> "Findings":
        """Return a copy to add further findings to."""
        return Findings.from_json(self.to_json())

    def problems(self, *, instances: int) -> tuple[DataProblem, ...]:
        """Return one problem per kind found, sorted by severity. instances: number in the data set."""
        found = []
        for kind, (severity, id_of, line) in KINDS.items():
            if kind in self._ids:
                ids = tuple(self._ids[kind])
                if kind in _MATTERS_OF_DEGREE and len(ids) <= TOLERATED_SHARE * instances:
                    severity = "note"
                found.append(DataProblem(kind, severity, id_of, ids, line, tuple(self._details[kind])))
        return tuple(sorted(found, key=lambda problem: ("error", "warning", "note").index(problem.severity)))

    def first_error(self, passed_over: Iterable[str] = ()) -> str | None:
        """Return the message of the first problem that stops training, None without one."""
        skipped = set(passed_over)
        for kind, (severity, _, line) in KINDS.items():
            if severity == "error" and kind in self._ids and kind not in skipped:
                return self._details[kind][0] if self._details[kind] else line
        return None

    def to_json(self) -> dict[str, Any]:
        """Return all findings as lists of scalars."""
        return {kind: [list(ids), list(self._details[kind])] for kind, ids in self._ids.items()}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> "Findings":
        """Undo `to_json`."""
        findings = Findings()
        for kind, (ids, details) in content.items():
            findings._ids[kind], findings._details[kind] = list(ids), list(details)
        return findings
