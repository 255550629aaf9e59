"""Exponential moving average of a model's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
from paddle import nn

CORRECTIONS = ("exact", "published")


class ExponentialMovingAverage:
    """An average over every entry of a model's state_dict, frozen ones and running statistics included.

    After step t = 0, 1, ...: average = d_t average + (1 - d_t) value, with d_t = min(decay, (1 + t) / (10 + t)),
    from 0. What `weights` answers is divided by the share of the zero start that is gone after n steps.

    correction: "exact" divides by 1 - d_0 d_1 ... d_(n-1). It is the quotient that is kept and moved towards each
        value, so that a constant stays what it is to the last bit. "published" divides by 1 - d_(n-1)^n as
        PaddleDetection does, which is right for a constant decay only: constants come out 1.1 % too large
        after 3 steps, 0.013 % after 500.
    """

    def __init__(self, model: nn.Layer, *, decay: float = 0.9998, correction: str = "exact"):
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay is {decay}, give 0 <= decay < 1")
        if correction not in CORRECTIONS:
            raise ValueError(f"correction is {correction!r}, choose one of {', '.join(CORRECTIONS)}")
        self.decay = decay
        self.correction = correction
        self.steps = 0
        self._zero_share = 1.0  # d_0 d_1 ... d_(steps - 1)
        self._model = model
        self._averages = {name: paddle.zeros_like(value) for name, value in model.state_dict().items()}

    @paddle.no_grad()
    def update(self) -> None:
        """Take in the model's weights as they are; call once after every optimizer step."""
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
        """The averaged weights under the names of `model.state_dict()`. Raises ValueError before the first update."""
        return {name: value.numpy() for name, value in self._corrected().items()}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside the `with` block, and after it exactly those from before.

        What is written to the model's weights inside, batch statistics for instance, is lost.
        """
        averages = self._corrected()
        own = {name: value.detach().clone() for name, value in self._model.state_dict().items()}
        try:
            self._fill_model(averages)
            yield
        finally:
            self._fill_model(own)

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on as if there had been no break."""
        return {
            "steps": self.steps,
            "zero_share": self._zero_share,
            "correction": self.correction,
            "averages": {name: value.numpy() for name, value in self._averages.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state of the same model and correction. Raises ValueError, and changes nothing, otherwise."""
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
