"""A tiny model worth exporting, and what was written of it."""

from typing import NamedTuple

import numpy as np
import paddle
from paddle import nn

from ppsolo import build_model
from ppsolo.config import Config
from ppsolo.deploy.export import Export
from ppsolo.models.solov2 import SOLOv2


class Exported(NamedTuple):
    """A model and what was written of it."""

    config: Config
    model: SOLOv2
    export: Export


def lively_model(config: Config) -> SOLOv2:
    """One whose norms and offsets do something, and some of whose cells pass the threshold."""
    paddle.seed(1)
    model = build_model(config)
    random = np.random.default_rng(1)
    for name, buffer in model.named_buffers():
        if name.endswith(("_mean", "_variance")):
            low, high = (0.5, 1.5) if name.endswith("_variance") else (-0.1, 0.1)
            buffer.set_value(random.uniform(low, high, buffer.shape).astype("float32"))
    for name, parameter in model.named_parameters():
        if ".offset." in name:
            parameter.set_value(random.normal(0, 0.05, parameter.shape).astype("float32"))
    for layer in (model.head.category, model.head.kernel):
        nn.initializer.Normal(0.0, 0.6)(layer.weight)
    model.eval()
    return model
