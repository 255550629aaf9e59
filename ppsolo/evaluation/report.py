"""An evaluation's report as a table for people and as a JSON file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ppsolo.atomic import atomic_writer, made_folder
from ppsolo.errors import PpsoloError
from ppsolo.evaluation.coco_evaluator import IOU_TYPES
from ppsolo.text import counted

_CLASS_COLUMNS = ("AP", "AP50", "AP75", "AR100")


def format_report(report: Mapping[str, Any], *, per_class: bool = False) -> str:
    """Format a report of `CocoEvaluator.summarize` as lines of at most 110 characters, with numbers from 0 to 100.

    Each IoU type has two lines: over all images, and over annotated images only. "-" means that there is nothing to
    find. With `per_class`, a table of the classes follows.
    """
    lines = [
        f"{counted(report['images'], 'image')} ({report['annotated_images']} annotated), "
        f"{report['ground_truths']} ground truths, {report['crowds']} crowds, "
        f"{report['detections']} detections",
        " " * 22 + "".join(f"{name:>7}" for name in report["stat_names"]),
    ]
    present = [name for name in IOU_TYPES if name in report]
    for name in present:
        for label, key in (("all images", "stats"), ("annotated", "stats_annotated")):
            numbers = "".join(f"{_percent(value):>7}" for value in report[name][key])
            lines.append(f"{name:<9} {label:<12}{numbers}")
    if report.get("beyond_max_detections"):
        lines.append(
            f"{report['beyond_max_detections']} detections do not count: only the best {report['max_detections']} of "
            "a picture and class do; see --max_detections"
        )
    lines += [f"{name:<9} not evaluated: {reason}" for name, reason in report["skipped"].items()]
    if per_class:
        for name in present:
            lines += ["", *_class_lines(name, report[name]["per_class"])]
    return "\n".join(lines)


def write_report(report: Mapping[str, Any] | Sequence[Any], path: str | Path) -> None:
    """Write a report as JSON, whole or not at all; create missing folders.

    Raises PpsoloError that names `path` if it cannot be written.
    """
    target = Path(path)
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    try:
        with made_folder(target.parent), atomic_writer(target, "w") as stream:
            stream.write(text)
    except OSError as error:
        raise PpsoloError(f"cannot write {path}: {error.strerror or error}") from None


def _class_lines(name: str, classes: list[Mapping[str, Any]]) -> list[str]:
    rows: list[tuple[Any, ...]] = [(f"{name} by class, all images", "truths", *_CLASS_COLUMNS)]
    for entry in classes:
        rows.append((entry["name"], entry["ground_truths"], *(_percent(entry[key]) for key in _CLASS_COLUMNS)))
    return [f"{row[0][:39]:<40}{row[1]:>8}" + "".join(f"{cell:>7}" for cell in row[2:]) for row in rows]


def _percent(value: float | None) -> str:
    return "-" if value is None or value < 0 else f"{100 * value:.1f}"
