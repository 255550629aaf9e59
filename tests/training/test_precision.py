"""Mixed precision. Switched off, it changes nothing. On a GPU, losses stay finite and training can be resumed."""

import numpy as np
import paddle
import pytest

from ppsolo.errors import ConfigError, TrainingError
from ppsolo.training.precision import Precision

GPU = paddle.device.get_device().startswith("gpu")


def layer_and_optimizer():
    paddle.seed(0)
    layer = paddle.nn.Linear(4, 2)
    return layer, paddle.optimizer.Momentum(0.1, parameters=layer.parameters())


def trained(precision: Precision, steps: int = 3) -> np.ndarray:
    layer, optimizer = layer_and_optimizer()
    for _ in range(steps):
        with precision.forward():
            output = layer(paddle.ones([3, 4]))
        precision.backward(output.astype("float32").square().mean())
        precision.unscale(optimizer)
        precision.step(optimizer)
        optimizer.clear_grad()
    return layer.weight.numpy()


def test_none_is_plain_training():
    layer, optimizer = layer_and_optimizer()
    for _ in range(3):
        layer(paddle.ones([3, 4])).square().mean().backward()
        optimizer.step()
        optimizer.clear_grad()
    precision = Precision("none")
    np.testing.assert_array_equal(trained(precision), layer.weight.numpy())
    assert precision.state() == {}
    precision.load_state({})
    with pytest.raises(ValueError, match=r"train\.amp"):
        precision.load_state({"scale": 1.0})


@pytest.mark.skipif(GPU, reason="there is a GPU")
def test_mixed_precision_takes_a_gpu():
    with pytest.raises(ConfigError, match=r"set train\.amp=none"):
        Precision("O1")


@pytest.mark.skipif(not GPU, reason="there is no GPU")
@pytest.mark.parametrize("level", ["O1", "O2"])
def test_mixed_precision_trains_nearly_the_same_and_its_state_goes_on(level):
    precision = Precision(level)
    # float16 has 11 bits of mantissa
    np.testing.assert_allclose(trained(precision), trained(Precision("none")), rtol=1e-2, atol=1e-3)
    state = precision.state()
    other = Precision(level)
    other.load_state(state)
    assert other.state() == state and state["incr_count"] == 3


class Failing(paddle.autograd.PyLayer):
    """Twice its input, without gradients."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        raise MemoryError("no room\nfor it")


def test_an_exception_in_a_backward_pass_keeps_its_words():
    x = paddle.ones([2])
    x.stop_gradient = False
    with pytest.raises(TrainingError) as caught:
        Precision("none").backward(Failing.apply(x).sum())
    assert str(caught.value) == "the gradients cannot be computed: MemoryError: no room for it"


class Scaler:
    """Paddle's scaler by its public face; `overflows` says which steps have gradients that are not finite."""

    def __init__(self, overflows: list[bool]):
        self.overflows, self.scale, self.good = overflows, 65536.0, 0

    def step(self, optimizer):
        self.overflow = self.overflows.pop(0)
        if not self.overflow:
            optimizer.step()

    def update(self):
        self.good = 0 if self.overflow else self.good + 1
        self.scale *= 0.5 if self.overflow else 1.0
        if self.good == 3:
            self.good, self.scale = 0, self.scale * 2

    def state_dict(self):
        return {"scale": np.array([self.scale], np.float32), "incr_count": self.good, "decr_count": 0}


def test_a_step_says_whether_it_was_taken(monkeypatch):
    overflows = [True, False, False, False, False, True]
    monkeypatch.setattr(paddle.amp, "GradScaler", lambda: Scaler(list(overflows)))
    monkeypatch.setattr(paddle.device, "get_device", lambda: "gpu:0")
    precision = Precision("O1")
    assert precision.loss_scale == 65536
    _, optimizer = layer_and_optimizer()
    assert [precision.step(optimizer) for _ in overflows] == [not overflow for overflow in overflows]
    assert precision.loss_scale == 32768  # halved, doubled, halved
    assert Precision("none").step(optimizer) and Precision("none").loss_scale == 1


def test_an_error_of_the_gpu_in_a_backward_pass_stays_as_it_is():
    class Lost:
        def backward(self):
            raise OSError("(External) CUDA error(700), an illegal memory access was encountered.")

    with pytest.raises(OSError, match="CUDA error"):
        Precision("none").backward(Lost())  # pyright: ignore[reportArgumentType]
