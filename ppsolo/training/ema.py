"""Exponential moving average of a model's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import nn

CORRECTIONS = ("exact", "published")
BUFFER_ELEMENTS = 1_000_000  # a buffer of so many elements, 4 MB, is full; larger ones do not fit a CPU's cache


class _Buffer(NamedTuple):
    """The averages of some entries, one after another. shapes: by name. values: float32 [elements of all]."""

    shapes: Mapping[str, list[int]]
    values: paddle.Tensor

    def arrays(self) -> dict[str, np.ndarray]:
        """Copy the averages to numpy arrays by name."""
        ends = np.cumsum([prod(shape) for shape in self.shapes.values()])
        parts = np.split(self.values.numpy(), ends[:-1])
        return {name: part.reshape(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def tensors(self) -> dict[str, paddle.Tensor]:
        """Copy the averages to tensors by name."""
        parts = paddle.split(self.values, [prod(shape) for shape in self.shapes.values()])
        return {name: part.reshape(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}


class ExponentialMovingAverage:
    """The average of every entry of a model's state_dict, frozen weights and running statistics included.

    The entries are float32. Their averages lie one after another in a few buffers, because a GPU starts a kernel for
    each operation: 124 in an update of SOLOv2 with ResNet-50, where averages entry by entry take 999.

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
        self._buffers = _zero_buffers(model)

    @paddle.no_grad()
    def update(self) -> None:
        """Add the model's current weights to the average; call it once after every optimizer step."""
        decay = self._decay_at(self.steps)
        self._zero_share *= decay
        self.steps += 1
        share = (1.0 - decay) / (1.0 - self._zero_share)
        state = self._model.state_dict()
        for shapes, average in self._buffers:
            change = paddle.concat([state[name].flatten() for name in shapes])
            if self.correction == "exact":
                change.subtract_(average)
                change.scale_(share)
            else:
                average.scale_(decay)
                change.scale_(1.0 - decay)
            average.add_(change)

    def weights(self) -> dict[str, np.ndarray]:
        """Return averaged weights by the names of `model.state_dict()`. Raises ValueError before the first update."""
        return {name: value for buffer in self._corrected() for name, value in buffer.arrays().items()}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights inside the `with` block, and exactly its own weights again after it.

        Changes to the model's weights inside the block, such as batch statistics, are lost.
        """
        averages = {name: value for buffer in self._corrected() for name, value in buffer.tensors().items()}
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
            "averages": {name: value for buffer in self._buffers for name, value in buffer.arrays().items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state of the same model and correction. Otherwise raise ValueError and change nothing."""
        averages = state["averages"]
        if state["correction"] != self.correction:
            raise ValueError(f"the state's correction is {state['correction']!r}, this average's {self.correction!r}")
        shapes = {name: shape for buffer in self._buffers for name, shape in buffer.shapes.items()}
        faults = list(shapes.keys() ^ averages.keys())
        faults += [name for name in shapes if name in averages and list(averages[name].shape) != shapes[name]]
        if faults:
            raise ValueError(f"averaged weights do not fit the model: {', '.join(sorted(faults)[:3])}")
        for buffer in self._buffers:
            arrays = [np.ravel(averages[name]) for name in buffer.shapes]
            buffer.values.set_value(np.concatenate(arrays, dtype=np.float32))
        self.steps = int(state["steps"])
        self._zero_share = float(state["zero_share"])

    def _decay_at(self, step: int) -> float:
        return min(self.decay, (1 + step) / (10 + step))

    def _corrected(self) -> list[_Buffer]:
        if self.steps == 0:
            raise ValueError("there is nothing to average before the first update")
        if self.correction == "exact":
            return self._buffers
        divisor = 1.0 - self._decay_at(self.steps - 1) ** self.steps
        return [buffer._replace(values=buffer.values / divisor) for buffer in self._buffers]

    def _fill_model(self, values: Mapping[str, paddle.Tensor]) -> None:
        for name, parameter in self._model.state_dict().items():
            parameter.set_value(values[name])


def _zero_buffers(model: nn.Layer) -> list[_Buffer]:
    """Return buffers of zeros for the entries of a model's state_dict, in their order."""
    groups: list[dict[str, list[int]]] = [{}]
    size = 0
    for name, value in model.state_dict().items():
        if size >= BUFFER_ELEMENTS:
            groups.append({})
            size = 0
        groups[-1][name] = list(value.shape)
        size += value.size
    return [_Buffer(shapes, paddle.zeros([sum(map(prod, shapes.values()))])) for shapes in groups]
