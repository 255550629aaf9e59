"""Automatic mixed precision: forward passes in half precision, and a loss scale that keeps small gradients."""

import re
from contextlib import AbstractContextManager
from typing import Any, Literal, cast

import numpy as np
import paddle

from ppsolo.errors import ConfigError, TrainingError

Level = Literal["none", "O1", "O2"]


class Precision:
    """Mixed precision. Level "O1": convolutions and products in float16. "O2": nearly all operations.

    Parameters stay float32. Deformable convolutions compute in float32 on Paddle 2.6, which has no float16 kernel. The
    loss is multiplied by a scale. If a gradient is not finite, the step is skipped and the scale halved. After many
    good steps the scale is doubled. "none" changes neither loss nor gradients.
    Raises ConfigError if there is no GPU and the level is not "none".
    """

    def __init__(self, level: Level):
        if level != "none" and not paddle.device.get_device().startswith("gpu"):
            raise ConfigError(f"train.amp={level} needs a GPU: set train.amp=none")
        self.level = level
        self._scaler = None if level == "none" else paddle.amp.GradScaler()

    def forward(self) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        return paddle.amp.auto_cast(enable=self._scaler is not None, level="O2" if self.level == "O2" else "O1")

    def backward(self, loss: paddle.Tensor) -> None:
        """Add the gradients of the scaled `loss`. Raises TrainingError for an exception in a PyLayer."""
        try:
            (loss if self._scaler is None else self._scaler.scale(loss)).backward()
        except OSError as error:
            if error.errno is not None or "CUDA error" in str(error):
                raise
            raise TrainingError(f"the gradients cannot be computed: {_python_reason(str(error))}") from error

    def unscale(self, optimizer: paddle.optimizer.Optimizer) -> None:
        """Divide the gradients by the scale; call it once per step, after they were averaged over processes."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: paddle.optimizer.Optimizer) -> bool:
        """Take an optimizer step; return False if it was skipped because a scaled gradient is not finite."""
        if self._scaler is None:
            optimizer.step()
            return True
        before = self.loss_scale
        self._scaler.step(optimizer)
        self._scaler.update()
        state: dict[str, Any] = dict(self._scaler.state_dict())
        # A step that was taken counts towards the next doubling, or has just caused one.
        return state["incr_count"] > 0 or self.loss_scale > before

    @property
    def loss_scale(self) -> float:
        """The factor of the loss: 1 for "none"."""
        if self._scaler is None:
            return 1.0
        state: dict[str, Any] = dict(self._scaler.state_dict())
        return float(np.asarray(state["scale"]).item())

    def state(self) -> dict[str, float]:
        """The scale and its counters, ready for JSON; empty for "none"."""
        if self._scaler is None:
            return {}
        state: dict[str, Any] = dict(self._scaler.state_dict())
        return {name: float(value) for name, value in state.items()}

    def load_state(self, state: dict[str, float]) -> None:
        """Load what `state` returned. Raises ValueError if it is for another kind of precision."""
        if set(state) != set(self.state()):
            raise ValueError("the state is for another kind of mixed precision (train.amp)")
        if self._scaler is not None:
            scaler: dict[str, Any] = dict(self._scaler.state_dict())
            for name, value in state.items():
                scaler[name] = np.array([value], np.float32) if name == "scale" else type(scaler[name])(value)
            self._scaler.load_state_dict(cast(Any, scaler))


def _python_reason(text: str) -> str:
    """Find the Python exception in Paddle's text: Paddle turns one in a PyLayer's backward pass into an OSError."""
    lines = text.partition("At:")[0].splitlines()
    own = [line.strip() for line in lines if not re.match(r"\s*(\(External\)\s*$|[{}]|=+)", line)]
    return " ".join(own).removeprefix("(External) ").strip() or "Paddle gives no reason"
