"""A model that finds something although nobody trained it."""

import paddle

from ppsolo import build_model
from ppsolo.config import Config
from ppsolo.models.solov2 import SOLOv2


def busy_model(config: Config, *, seed: int = 1) -> SOLOv2:
    """A model whose wide class and kernel weights make some cells pass the threshold."""
    paddle.seed(seed)
    model = build_model(config)
    for layer in (model.head.category, model.head.kernel):
        paddle.nn.initializer.Normal(0.0, 0.6)(layer.weight)
    return model
