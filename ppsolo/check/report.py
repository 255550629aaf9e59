"""The report on a data set: problems with remedies, grid collisions, and settings that fit."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from ppsolo.data.annotations.findings import DataProblem, Identity

SIZE_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
SHOWN_DETAILS = 3
# Warnings about the file itself; the other ones are about settings and pictures.
FAULTS_OF_THE_FILE = ("no-outline", "zero-area", "short-ring", "empty-mask", "box-mismatch")


@dataclass(frozen=True)
class LevelReport:
    """One level: the number of instances in its range at the training scale, and how many of them lose all cells."""

    num_grid: int
    scale_range: tuple[float, float]
    instances: int
    lost: int


@dataclass(frozen=True)
class SettingsReport:
    """The effect of grids and scale ranges on a data set.

    lost: number of instances that lose all their cells on all their levels.
    """

    levels: tuple[LevelReport, ...]
    lost: int


@dataclass(frozen=True)
class DataReport:
    """The findings on a data set.

    Attributes:
        annotations, image_dir: the checked file and folder.
        training_scale: (short side, long side) in pixels.
        images, instances, crowds: their numbers, without faulty ones.
        categories: (id, name, instances), in the order of the file; set `num_classes` to their number.
        sizes: quantiles SIZE_QUANTILES of sqrt(width * height) at the training scale, in pixels.
        given: the effect of the given settings.
        suggested: settings by the rules of `suggest_scale_ranges` and `suggest_num_grids`, and their effect.
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
        """Whether to correct the file: training would stop, or some annotations cannot be used."""
        return any(
            problem.severity == "error" or (problem.severity == "warning" and problem.kind in FAULTS_OF_THE_FILE)
            for problem in self.problems
        )

    def settings_to_paste(self) -> str:
        """The suggested settings as YAML for a configuration file; empty if they improve nothing."""
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


GRIDS = "the grids of the configuration (an object without a cell of its own is not learned):"
TO_PASTE = "settings suggested, to paste into the configuration file:"


def format_data_report(report: DataReport, *, suggestion: str = TO_PASTE) -> str:
    """Format the report as lines of text, with only the first ids and details of each problem.

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
        lines.append(f"images are resized to a short side of {short} and a long side of at most {long} pixels")
        lines.append(f"object sizes there, sqrt(width * height) in pixels, quantiles {quantiles}")
    if report.given is not None:
        lines += [
            "",
            GRIDS,
            *_settings_lines(report.given, report.instances),
        ]
    if settings := report.settings_to_paste():
        lines += ["", suggestion, settings]
        if report.suggested is not None and "num_grids" in settings:
            lines += ["with these:", *_settings_lines(report.suggested, report.instances)]
    elif report.suggested is not None:
        lines += ["", "other grids would not lose fewer instances: none are suggested"]
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
    return "the file is correct; the warnings say what the model cannot learn"


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
