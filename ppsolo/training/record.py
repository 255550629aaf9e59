"""The record of a training state: the types of its values, checked before training uses them."""

import math
from collections.abc import Callable, Mapping
from typing import Any


def wrong_value(record: Any) -> str | None:
    """Return the first key of a record whose value training cannot have written; None if all values are possible.

    A correct checksum does not say who wrote the record. A missing key raises an error later, where it is read.

    >>> wrong_value({"step": 7, "best_ap": 0.3}), wrong_value({"step": "7"})
    (None, 'step')
    """
    if not isinstance(record, dict):
        return "record"
    return next((key for key, value in record.items() if key in _CHECKS and not _CHECKS[key](value)), None)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_table_of_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _are_losses(value: Any) -> bool:
    if not isinstance(value, list) or not all(isinstance(losses, list) for losses in value):
        return False
    return all(_is_number(loss) for losses in value for loss in losses) and len(set(map(len, value))) <= 1


def _is_average(value: Any) -> bool:
    """Whether it is None or the result of `ExponentialMovingAverage.state_dict` without the averages."""
    return value is None or (
        isinstance(value, dict)
        and value.keys() == {"steps", "zero_share", "correction"}
        and _is_count(value["steps"])
        and _is_number(value["zero_share"])
        and isinstance(value["correction"], str)
    )


_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("epoch", "step_in_epoch", "step", "without_gain", "skipped", "world_size"), _is_count),
    "best_ap": _is_number,
    "recent_losses": _are_losses,
    "precision": _is_table_of_numbers,
    "ema": _is_average,
    "config": lambda value: isinstance(value, dict),
}
