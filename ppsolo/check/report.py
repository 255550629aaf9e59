"""The report on a data set: its problems with their remedies, its grid collisions, and settings that fit it."""

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
IdOf = Literal["entry", "image", "annotation", "category"]

SIZE_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
TOLERATED_SHARE = 0.01  # of the instances, in the matters of degree
SHOWN_IDS, SHOWN_DETAILS = 10, 3

_MATTERS_OF_DEGREE = ("tiny", "out-of-range", "collision")

# Kind of problem, in the order of the report: (severity, what its ids are, the problem; the remedy).
_KINDS: dict[str, tuple[Severity, IdOf, str]] = {
    "bad-id": ("error", "entry", "an id must be a whole number that occurs once; renumber the entry"),
    "image-entry": ("error", "image", "no file name or no usable size; complete the entry or remove it"),
    "missing-image": ("error", "image", "no such file; correct 'file_name' or the image folder"),
    "unreadable-image": ("error", "image", "the file cannot be read; replace it or remove the entry"),
    "image-size": ("error", "image", "the file has another size; correct the entry or the image's rotation"),
    "unknown-image": ("error", "annotation", "the image is not listed; add it to 'images' or remove the annotation"),
    "unknown-category": ("error", "annotation", "not a listed category; add it to 'categories' or correct the id"),
    "bad-number": ("error", "annotation", "area or bbox holds no usable numbers; correct or remove it"),
    "no-outline": ("error", "annotation", "there is no segmentation; add the outline or remove the annotation"),
    "broken-polygon": ("error", "annotation", "a polygon cannot be drawn; draw the outline anew"),
    "broken-run-lengths": ("error", "annotation", "the run lengths are no mask of the image; encode the mask anew"),
    "num-classes": ("error", "category", "the configuration does not fit; set num_classes"),
    "nothing-to-train": ("error", "annotation", "no image has an instance to train on; annotate some"),
    "zero-area": ("warning", "annotation", "area or box of zero, left out of training; correct or remove it"),
    "empty-mask": ("warning", "annotation", "the outline holds no pixel, never learned; draw it anew or remove it"),
    "box-mismatch": ("warning", "annotation", "bbox and outline differ; write bbox as [x, y, width, height]"),
    "tiny": ("warning", "annotation", "less than one pixel at stride 4, not learned; train at a larger scale"),
    "out-of-range": ("warning", "annotation", "size in no level's range, never learned; widen scale_ranges"),
    "collision": ("warning", "annotation", "all cells go to other instances, not learned; take larger num_grids"),
    "unused-category": ("warning", "category", "without an instance, never learned; annotate some or remove it"),
    "crowd": ("note", "annotation", "crowd or ignored region: not trained on, forgiven in evaluation"),
    "empty-image": ("note", "image", "without an instance to train on: left out of training"),
}


@dataclass(frozen=True)
class DataProblem:
    """One kind of problem, and everything it was found at.

    Attributes:
        kind: a short name that programs can rely on.
        severity: "error": training or evaluation would stop; "warning": something is not learned, or wrong; "note":
            to be known. Of "tiny", "out-of-range" and "collision", up to TOLERATED_SHARE of the instances are a note.
        id_of: what the ids belong to; "entry": positions, from 0, in the list that the detail names.
        ids: as in the annotation file.
        line: the problem and its remedy.
        details: where and why, in the order of the ids; empty where the line says all.
    """

    kind: str
    severity: Severity
    id_of: IdOf
    ids: tuple[int, ...]
    line: str
    details: tuple[str, ...]


@dataclass(frozen=True)
class LevelReport:
    """One level: the instances in its range at the training scale, and how many of them lose all their cells."""

    num_grid: int
    scale_range: tuple[float, float]
    instances: int
    lost: int


@dataclass(frozen=True)
class SettingsReport:
    """What grids and scale ranges do to a data set.

    lost: the instances that lose all their cells on all their levels.
    """

    levels: tuple[LevelReport, ...]
    lost: int


@dataclass(frozen=True)
class DataReport:
    """What was found in a data set.

    Attributes:
        annotations, image_dir: what was checked.
        training_scale: (short side, long side) in pixels.
        images, instances, crowds: how many there are without a fault of their own.
        categories: (id, name, instances), in the order of the file; their number is the `num_classes` to set.
        sizes: quantiles SIZE_QUANTILES of sqrt(width * height) at the training scale, in pixels.
        given: the settings that were asked about.
        suggested: settings by the rules of `suggest_scale_ranges` and `suggest_num_grids`.
        problems: errors, then warnings, then notes.

    Without an instance, `sizes` is empty and `given` and `suggested` are None.
    """

    annotations: str
    image_dir: str
    training_scale: tuple[int, int]
    images: int
    instances: int
    crowds: int
    categories: tuple[tuple[int, str, int], ...]
    sizes: tuple[float, ...]
    given: SettingsReport | None
    suggested: SettingsReport | None
    problems: tuple[DataProblem, ...]

    @property
    def ok(self) -> bool:
        """Whether there are no problems, or notes only."""
        return all(problem.severity == "note" for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        """The whole report, all ids included, as dicts, lists and scalars."""
        return {"ok": self.ok, "num_classes": len(self.categories), **json.loads(json.dumps(asdict(self)))}


class Findings:
    """Collects problems while a data set is read."""

    def __init__(self) -> None:
        self._ids: dict[str, list[int]] = defaultdict(list)
        self._details: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, identity: int | None = None, detail: str = "") -> None:
        """One more of a kind; `identity` None where the whole data set is concerned. KeyError: no such kind."""
        if kind not in _KINDS:
            raise KeyError(kind)
        self._ids[kind] += [] if identity is None else [int(identity)]
        self._details[kind] += [detail] if detail else []

    def problems(self, *, instances: int) -> tuple[DataProblem, ...]:
        """One problem per kind that was found, sorted by severity; `instances`: of the data set."""
        found = []
        for kind, (severity, id_of, line) in _KINDS.items():
            if kind in self._ids:
                ids = tuple(self._ids[kind])
                if kind in _MATTERS_OF_DEGREE and len(ids) <= TOLERATED_SHARE * instances:
                    severity = "note"
                found.append(DataProblem(kind, severity, id_of, ids, line, tuple(self._details[kind])))
        return tuple(sorted(found, key=lambda problem: ("error", "warning", "note").index(problem.severity)))


def format_data_report(report: DataReport) -> str:
    """The report as lines of text; of many ids and details only the first are shown."""
    lines = [
        f"{report.annotations} with images in {report.image_dir}",
        f"images: {report.images}, instances: {report.instances}, crowds: {report.crowds}, "
        f"categories: {len(report.categories)}",
    ]
    if report.sizes:
        quantiles = ", ".join(
            f"{100 * share:.0f} %: {size:.0f}" for share, size in zip(SIZE_QUANTILES, report.sizes, strict=True)
        )
        short, long = report.training_scale
        lines.append(f"object size sqrt(width * height) in pixels at {short} / {long}, quantiles {quantiles}")
    if report.given is not None and report.suggested is not None:
        lines += ["", "settings as given:", *_settings_lines(report.given, report.instances)]
        lines += ["", "settings suggested:", f"  num_classes: {len(report.categories)}"]
        lines += [
            f"  num_grids: {[level.num_grid for level in report.suggested.levels]}",
            f"  scale_ranges: [{', '.join(f'[{_range(level)}]' for level in report.suggested.levels)}]",
            *_settings_lines(report.suggested, report.instances),
        ]
    for severity in ("error", "warning", "note"):
        problems = [problem for problem in report.problems if problem.severity == severity]
        if problems:
            lines += ["", f"{severity}s:"]
        for problem in problems:
            lines += _problem_lines(problem)
    return "\n".join([*lines, "", "nothing is wrong" if report.ok else "there are problems"])


def _settings_lines(settings: SettingsReport, instances: int) -> list[str]:
    lines = [f"  {'level':>5} {'grid':>5} {'sizes':>12} {'instances':>10} {'lost to collisions':>19}"]
    for number, level in enumerate(settings.levels):
        lines.append(
            f"  {number:>5} {level.num_grid:>5} {_range(level):>12} {level.instances:>10} "
            f"{_share(level.lost, level.instances):>19}"
        )
    return [*lines, f"  lost on all levels: {_share(settings.lost, instances)}"]


def _problem_lines(problem: DataProblem) -> list[str]:
    shown = ", ".join(map(str, problem.ids[:SHOWN_IDS])) + (", ..." if len(problem.ids) > SHOWN_IDS else "")
    several = {"entry": "entries", "category": "categories"}.get(problem.id_of, f"{problem.id_of}s")
    count = len(problem.ids)
    where = f" ({count} {several if count > 1 else problem.id_of}: {shown})" if count else ""
    lines = [f"  {problem.kind}: {problem.line}{where}"]
    lines += [f"    {detail}" for detail in problem.details[:SHOWN_DETAILS]]
    if len(problem.details) > SHOWN_DETAILS:
        lines.append(f"    ... {len(problem.details) - SHOWN_DETAILS} more")
    return lines


def _range(level: LevelReport) -> str:
    low, high = level.scale_range
    return f"{low:g}, {high:g}"


def _share(part: int, whole: int) -> str:
    return f"{part} ({100 * part / max(whole, 1):.1f} %)"
