"""Exponential moving average of a model's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
from paddle import nn

CORRECTIONS = ("exact", "published")


class ExponentialMovingAverage:
    """The average of every entry of a model's state_dict, frozen weights and running statistics included.

    It starts at 0. After step t = 0, 1, ...: average = d_t average + (1 - d_t) value, d_t = min(decay, (1 + t) / (10 +
    t)). `weights` divides it by a correction, because the zero start still has a share in it.

    correction: "exact" divides by 1 - d_0 d_1 ... d_(n-1). The quotient itself is stored and updated, so a constant
        value stays exactly the same. "published" divides by 1 - d_(n-1)^n, as PaddleDetection does. That is right for
        a constant decay only: a constant comes out 1.1 % too large after 3 steps, 0.013 % after 500.
    """

    def __init__(self, model: nn.Layer, *, decay: float = 0.9998, correction: str = "exact"):
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay is {decay}: give 0 <= decay < 1")
        if correction not in CORRECTIONS:
            raise ValueError(f"correction is {correction!r}: choose one of {', '.join(CORRECTIONS)}")
        self.decay = decay
        self.correction = correction
        self.steps = 0
        self._zero_share = 1.0  # d_0 d_1 ... d_(steps - 1)
        self._model = model
        self._averages = {name: paddle.zeros_like(value) for name, value in model.state_dict().items()}

    @paddle.no_grad()
    def update(self) -> None:
        """Add the model's current weights to the average; call it once after every optimizer step."""
        decay = self._decay_at(self.steps)
        self._zero_share *= decay
        self.steps += 1
        share = (1.0 - decay) / (1.0 - self._zero_share)
        for name, value in self._model.state_dict().items():
            average = self._averages[name]
            if self.correction == "exact":
                self._averages[name] = average + (value - average) * share
            else:
                self._averages[name] = average * decay + value * (1.0 - decay)

    def weights(self) -> dict[str, np.ndarray]:
        """Return averaged weights by the names of `model.state_dict()`. Raises ValueError before the first update."""
        return {name: value.numpy() for name, value in self._corrected().items()}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights inside the `with` block, and exactly its own weights again after it.

        Changes to the model's weights inside the block, such as batch statistics, are lost.
        """
        averages = self._corrected()
        own = {name: value.detach().clone() for name, value in self._model.state_dict().items()}
        try:
            self._fill_model(averages)
            yield
        finally:
            self._fill_model(own)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `load_state_dict` needs to continue exactly."""
        return {
            "steps": self.steps,
            "zero_share": self._zero_share,
            "correction": self.correction,
            "averages": {name: value.numpy() for name, value in self._averages.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state of the same model and correction. Otherwise raise ValueError and change nothing."""
        averages = state["averages"]
        if state["correction"] != self.correction:
            raise ValueError(f"the state's correction is {state['correction']!r}, this average's {self.correction!r}")
        faults = list(self._averages.keys() ^ averages.keys())
        faults += [
            name
            for name, value in self._averages.items()
            if name in averages and tuple(averages[name].shape) != tuple(value.shape)
        ]
        if faults:
            raise ValueError(f"averaged weights do not fit the model: {', '.join(sorted(faults)[:3])}")
        self._averages = {name: paddle.to_tensor(averages[name]) for name in self._averages}
        self.steps = int(state["steps"])
        self._zero_share = float(state["zero_share"])

    def _decay_at(self, step: int) -> float:
        return min(self.decay, (1 + step) / (10 + step))

    def _corrected(self) -> dict[str, paddle.Tensor]:
        if self.steps == 0:
            raise ValueError("there is nothing to average before the first update")
        if self.correction == "exact":
            return self._averages
        divisor = 1.0 - self._decay_at(self.steps - 1) ** self.steps
        return {name: average / divisor for name, average in self._averages.items()}

    def _fill_model(self, values: Mapping[str, paddle.Tensor]) -> None:
        for name, parameter in self._model.state_dict().items():
            parameter.set_value(values[name])
