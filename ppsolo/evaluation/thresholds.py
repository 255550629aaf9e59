"""Score thresholds for each class: the one with the best F1, or the lowest one with a required precision."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ppsolo.build.pipeline import category_ids, class_names
from ppsolo.config import Config
from ppsolo.errors import ConfigError
from ppsolo.evaluation.matching import unpack
from ppsolo.evaluation.report import write_report

MAX_FILE_BYTES = 16 << 20
_IOU_THRESHOLDS = 10  # packed in a match: 0.50 to 0.95
_NEVER = 1.0  # the threshold of a class that never reaches the precision


class ClassThreshold(NamedTuple):
    """The threshold of a class, and its quality on the data where it was found.

    threshold: least score, in [0, 1]. precision, recall, f1: of all instances with this score or more; None if the
    class has neither ground truths nor results. ground_truths: their number in the data.
    """

    category_id: int
    name: str
    threshold: float
    precision: float | None
    recall: float | None
    f1: float | None
    ground_truths: int


def find_thresholds(
    matches: np.ndarray,
    classes: Sequence[Mapping[str, Any]],
    *,
    precision: float | None = None,
) -> list[ClassThreshold]:
    """Return the best threshold of each class.

    An instance is true if COCO's matching gives it a ground truth at an IoU of 0.5. The threshold lies halfway between
    the lowest score kept and the highest score dropped.

    Args:
        matches: MATCH [m] of masks, see `ppsolo.evaluation.matching`.
        classes: "per_class" of an evaluation: "id", "name" and "ground_truths" of each category; `matches` holds
            indices into it.
        precision: find the lowest threshold with at least this precision; None: the threshold with the best F1.

    A class without ground truths gets the threshold 0.5. Raises ConfigError if `precision` is not in (0, 1].
    """
    if precision is not None and not 0 < precision <= 1:
        raise ConfigError(f"the required precision is {precision}: give a number above 0 and at most 1")
    matched = unpack(matches["matched"], _IOU_THRESHOLDS)[0, 0]
    counted = ~unpack(matches["ignored"], _IOU_THRESHOLDS)[0, 0]
    found = []
    for index, entry in enumerate(classes):
        rows = np.flatnonzero((matches["category"] == index) & counted)
        number = int(entry["ground_truths"])
        common = {"category_id": int(entry["id"]), "name": str(entry["name"]), "ground_truths": number}
        if number == 0:
            found.append(ClassThreshold(threshold=0.5, precision=None, recall=None, f1=None, **common))
            continue
        values = best_threshold(matches["score"][rows], matched[rows], number, precision=precision)
        found.append(ClassThreshold(**values, **common))
    return found


def best_threshold(
    scores: np.ndarray, true: np.ndarray, ground_truths: int, *, precision: float | None = None
) -> dict[str, float]:
    """Return "threshold", "precision", "recall" and "f1" of a class. scores: float [n]; true: bool [n].

    The threshold is 1, and nothing is found, if no threshold reaches the precision. Equal scores stay together.

    >>> best_threshold(np.array([0.9, 0.8, 0.3]), np.array([True, True, False]), 2)["threshold"]
    0.55
    """
    order = np.argsort(-scores, kind="stable")
    scores, true = scores[order].astype(np.float64), true[order]
    cuts = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(scores) else np.zeros(0, int)
    hits = np.cumsum(true)[cuts]
    precisions, recalls = hits / (cuts + 1), hits / ground_truths
    f1 = 2 * hits / (cuts + 1 + ground_truths)
    allowed = np.flatnonzero(precisions >= precision) if precision is not None else np.arange(len(cuts))
    if not len(allowed) or not hits.any():
        return {"threshold": _NEVER, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    best = int(allowed[-1]) if precision is not None else int(np.argmax(f1))
    last = cuts[best]
    below = float(scores[last + 1]) if last + 1 < len(scores) else 0.0
    threshold = _between(below, float(scores[last]))
    return {
        "threshold": threshold,
        "precision": float(precisions[best]),
        "recall": float(recalls[best]),
        "f1": float(f1[best]),
    }


def _between(below: float, above: float) -> float:
    """Return the middle of two numbers, with as few digits as possible."""
    middle = (below + above) / 2
    for digits in range(2, 9):
        short = round(middle, digits)
        if below < short <= above:
            return short
    return float(above)


def write_thresholds(
    found: Sequence[ClassThreshold], path: str | os.PathLike[str], *, source: Mapping[str, Any]
) -> None:
    """Write a JSON file for `with_thresholds`, whole or not at all. Raises PpsoloError.

    source: a note for people: which data the thresholds come from.
    """
    content = {"class_thresholds": [one._asdict() for one in found], "found_on": dict(source)}
    write_report(content, Path(path))


def read_thresholds(path: str | os.PathLike[str]) -> dict[int, float]:
    """Read a file of `write_thresholds`: {category id: threshold}. Raises ConfigError."""
    return {number: value for number, (value, _) in _read(path).items()}


def _read(path: str | os.PathLike[str]) -> dict[int, tuple[float, str | None]]:
    """Return the threshold of each category, and its name if the file has one. Raises ConfigError."""
    try:
        with Path(path).open("rb") as stream:  # a device states no size
            text = stream.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise ConfigError(f"{path} is too large for a file of thresholds")
        content = json.loads(text)
        found = {
            int(entry["category_id"]): (float(entry["threshold"]), entry.get("name"))
            for entry in content["class_thresholds"]
        }
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"{path} holds no thresholds ({error}): make such a file with `ppsolo eval --find_thresholds`"
        ) from None
    for category_id, (value, _) in found.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"{path}: the threshold of category {category_id} is {value}: give a number from 0 to 1")
    return found


def with_thresholds(
    config: Config, path: str | os.PathLike[str], *, note: Callable[[str], None] = lambda line: None
) -> Config:
    """Put the thresholds of a file of `write_thresholds` into a configuration; classes match by category id.

    note: called with a line if a class has another name in the file than in the configuration.
    Raises ConfigError if the file lacks a class of the configuration.
    """
    found = _read(path)
    values = {number: value for number, (value, _) in found.items()}
    names = dict(zip(category_ids(config), class_names(config), strict=True))
    missing = [f"{name} (category {i})" for i, name in names.items() if i not in values]
    if missing:
        raise ConfigError(f"{path} has no threshold for {missing[0]}: the file belongs to another data set")
    for number, name in zip(names, config.class_names, strict=False):  # none: the configuration leaves them open
        if (theirs := found[number][1]) not in (None, name):
            note(
                f"{path}: category {number} is {theirs!r} there and {name!r} in the model; if these are different "
                "classes, find thresholds for this model"
            )
            break
    postprocess = dataclasses.replace(config.postprocess, class_thresholds=tuple(values[i] for i in names))
    return dataclasses.replace(config, postprocess=postprocess)


def format_thresholds(found: Sequence[ClassThreshold]) -> str:
    """Format a table with one line per class."""
    lines = [f"{'class':<32}{'threshold':>11}{'precision':>11}{'recall':>9}{'F1':>9}{'truths':>8}"]
    for one in found:
        numbers = [one.precision, one.recall, one.f1]
        shown = ["-" if number is None else f"{number:.3f}" for number in numbers]
        lines.append(
            f"{one.name[:31]:<32}{one.threshold:>11.4g}{shown[0]:>11}{shown[1]:>9}{shown[2]:>9}{one.ground_truths:>8}"
        )
    return "\n".join(lines)
