"""Automatic mixed precision: half-precision forward passes, and losses scaled so that gradients survive it."""

import re
from contextlib import AbstractContextManager
from typing import Any, Literal, cast

import numpy as np
import paddle

from ppsolo.errors import ConfigError, TrainingError

Level = Literal["none", "O1", "O2"]


class Precision:
    """Mixed precision. Level "O1": convolutions and products in float16. "O2": nearly all operations.

    Parameters stay float32. Deformable convolutions compute in float32 with Paddle 2.6, which has no float16 kernel.
    The loss is scaled. A step whose gradients are not finite is skipped and halves the scale; a long row of good steps
    doubles it. With "none" nothing happens to the loss or the gradients.
    Raises ConfigError for another level than "none" where there is no GPU.
    """

    def __init__(self, level: Level):
        if level != "none" and not paddle.device.get_device().startswith("gpu"):
            raise ConfigError(f"train.amp is {level}, which takes a GPU: set train.amp=none")
        self.level = level
        self._scaler = None if level == "none" else paddle.amp.GradScaler()

    def forward(self) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        return paddle.amp.auto_cast(enable=self._scaler is not None, level="O2" if self.level == "O2" else "O1")

    def backward(self, loss: paddle.Tensor) -> None:
        """Add the gradients of `loss`, scaled. Raises TrainingError for an exception in a PyLayer."""
        try:
            (loss if self._scaler is None else self._scaler.scale(loss)).backward()
        except OSError as error:
            if error.errno is not None or "CUDA error" in str(error):
                raise
            raise TrainingError(f"the gradients cannot be computed: {_python_reason(str(error))}") from error

    def unscale(self, optimizer: paddle.optimizer.Optimizer) -> None:
        """Give the gradients their true size, once a step and after they were averaged over processes."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: paddle.optimizer.Optimizer) -> bool:
        """One step of the optimizer -> whether it was taken: not where a scaled gradient is not finite."""
        if self._scaler is None:
            optimizer.step()
            return True
        before = self.loss_scale
        self._scaler.step(optimizer)
        self._scaler.update()
        state: dict[str, Any] = dict(self._scaler.state_dict())
        # A step that is taken counts towards the next doubling of the scale, or has just doubled it.
        return state["incr_count"] > 0 or self.loss_scale > before

    @property
    def loss_scale(self) -> float:
        """What losses are multiplied by: 1 for "none"."""
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
        """Take over what `state` gave. Raises ValueError if it is for another kind of precision."""
        if set(state) != set(self.state()):
            raise ValueError("the state is for another kind of mixed precision (train.amp)")
        if self._scaler is not None:
            scaler: dict[str, Any] = dict(self._scaler.state_dict())
            for name, value in state.items():
                scaler[name] = np.array([value], np.float32) if name == "scale" else type(scaler[name])(value)
            self._scaler.load_state_dict(cast(Any, scaler))


def _python_reason(text: str) -> str:
    """The Python exception in Paddle's text: Paddle turns one inside a PyLayer's backward pass into an OSError."""
    lines = text.partition("At:")[0].splitlines()
    own = [line.strip() for line in lines if not re.match(r"\s*(\(External\)\s*$|[{}]|=+)", line)]
    return " ".join(own).removeprefix("(External) ").strip() or "Paddle gives no reason"
