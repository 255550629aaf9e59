"""Models of the published systems with the weights that the reference makes from a seed."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ppsolo import build_model, load_config
from ppsolo.checkpoint.zoo import ZOO
from ppsolo.legacy.names import published_names
from ppsolo.models.solov2 import SOLOv2


def seeded_model(fill: Callable[..., Mapping[str, np.ndarray]], reference: Path, name: str, seed: int) -> SOLOv2:
    """The system `name` with the weights of `fill`, the reference's generator."""
    manifest = json.loads((reference / "manifests" / f"{name}.manifest.json").read_text())
    weights = fill(manifest, seed, ZOO[name].generation)
    model = build_model(load_config(name))
    state = model.state_dict()
    for ours, published in published_names(state, ZOO[name].generation).items():
        state[ours].set_value(weights[published])
    return model
