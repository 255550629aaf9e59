"""The report on a data set: its problems with their remedies, its grid collisions, and settings that fit it."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from ppsolo.data.annotations.findings import DataProblem, Identity

SIZE_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
SHOWN_DETAILS = 3
# Warnings about the file itself; the others are about what the settings and the pictures let a model learn.
FAULTS_OF_THE_FILE = ("no-outline", "zero-area", "short-ring", "empty-mask", "box-mismatch")


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
        num_classes: of the configuration, None if it was not compared.

    Without an instance, `sizes` is empty and `given` and `suggested` are None.
    """

    annotations: str
    image_dir: str
    training_scale: tuple[int, int]
    images: int
    instances: int
    crowds: int
    categories: tuple[tuple[Identity, str, int], ...]
    sizes: tuple[float, ...]
    given: SettingsReport | None
    suggested: SettingsReport | None
    problems: tuple[DataProblem, ...]
    num_classes: int | None = None

    @property
    def ok(self) -> bool:
        """Whether there are no problems, or notes only."""
        return all(problem.severity == "note" for problem in self.problems)

    @property
    def faulty(self) -> bool:
        """Whether the file is to be mended: training would stop, or some of its annotations are of no use."""
        return any(
            problem.severity == "error" or (problem.severity == "warning" and problem.kind in FAULTS_OF_THE_FILE)
            for problem in self.problems
        )

    def settings_to_paste(self) -> str:
        """The suggested settings as YAML for a configuration file, empty where they improve nothing."""
        lines = [] if self.num_classes in (None, len(self.categories)) else [f"num_classes: {len(self.categories)}"]
        if self.given is not None and self.suggested is not None and self.suggested.lost < self.given.lost:
            levels = self.suggested.levels
            ranges = ", ".join(f"[{_range(level)}]" for level in levels)
            lines += ["model:", "  head:", f"    num_grids: {[level.num_grid for level in levels]}"]
            lines += ["train:", "  targets:", f"    scale_ranges: [{ranges}]"]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The whole report, all ids included, as dicts, lists and scalars."""
        content = json.loads(json.dumps(asdict(self)))
        return {"ok": self.ok, **content, "num_classes": len(self.categories)}


TO_PASTE = "settings suggested, to paste into the configuration file:"


def format_data_report(report: DataReport, *, suggestion: str = TO_PASTE) -> str:
    """The report as lines of text; of many ids and details only the first are shown.

    suggestion: the line above the suggested settings.
    """
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
    if report.given is not None:
        lines += ["", "settings as given:", *_settings_lines(report.given, report.instances)]
    if settings := report.settings_to_paste():
        lines += ["", suggestion, settings]
        if report.suggested is not None and "num_grids" in settings:
            lines += ["with these:", *_settings_lines(report.suggested, report.instances)]
    elif report.suggested is not None:
        lines += ["", "no other settings are suggested: none would lose fewer instances"]
    for severity in ("error", "warning", "note"):
        problems = [problem for problem in report.problems if problem.severity == severity]
        if problems:
            lines += ["", f"{severity}s:"]
        for problem in problems:
            lines += _problem_lines(problem)
    return "\n".join([*lines, "", _verdict(report)])


def _verdict(report: DataReport) -> str:
    if report.faulty:
        return "there are problems"
    if report.ok:
        return "nothing is wrong"
    return "nothing is wrong with the file; the warnings say what will not be learned"


def _settings_lines(settings: SettingsReport, instances: int) -> list[str]:
    lines = [f"  {'level':>5} {'grid':>5} {'sizes':>12} {'instances':>10} {'lost to collisions':>19}"]
    for number, level in enumerate(settings.levels):
        lines.append(
            f"  {number:>5} {level.num_grid:>5} {_range(level):>12} {level.instances:>10} "
            f"{_share(level.lost, level.instances):>19}"
        )
    return [*lines, f"  lost on all levels: {_share(settings.lost, instances)}"]


def _problem_lines(problem: DataProblem) -> list[str]:
    where = f" ({problem.where()})" if problem.ids else ""
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
