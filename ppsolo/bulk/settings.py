"""The settings that decide the results of a bulk run: a run is resumed with the same ones."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppsolo.config import config_to_dict
from ppsolo.deploy.directory import file_sha256
from ppsolo.pipeline import Pipeline

_SECTIONS = ("model", "preprocess", "postprocess")


def settings_of(predictor: Pipeline) -> dict[str, str]:
    """Return the settings by name: the tiles in words, all others as SHA-256; "" for weights that are no file here.

    Runtime and threads are left out: their results differ by rounding, and a run may go on on another machine.
    """
    config, tiling = config_to_dict(predictor.config), predictor.tiling
    found = {name: _digest(config[name]) for name in _SECTIONS}
    found["classes"] = _digest([list(predictor.class_names), list(predictor.category_ids)])
    found["tiles"] = "none" if tiling is None else f"{tiling.size} pixels, overlap {tiling.overlap}"
    weights = predictor.config.weights
    found["weights"] = predictor.identity or (file_sha256(Path(weights)) if weights and Path(weights).is_file() else "")
    return found


def difference(old: Mapping[str, str], new: Mapping[str, str]) -> str | None:
    """Return the first setting that differs, in words; None if all are equal or not recorded."""
    for name in sorted(old.keys() & new.keys()):
        if old[name] != new[name] and old[name] and new[name]:
            return f"{name} ({old[name]}, now {new[name]})" if name == "tiles" else name
    return None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()
