"""The average of the weights: the published trace, the exact correction, resuming and evaluating."""

import json

import numpy as np
import paddle
import pytest
from paddle import nn

from ppsolo.training import ema
from ppsolo.training.ema import ExponentialMovingAverage


class Pair(nn.Layer):
    """Two numbers, one that stays and one that climbs."""

    def __init__(self):
        super().__init__()
        self.constant = self.create_parameter([1], default_initializer=nn.initializer.Constant(1.0))
        self.climbing = self.create_parameter([1], default_initializer=nn.initializer.Constant(0.0))


def normalised() -> nn.Layer:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1D(4))


def state_of(layer):
    return {name: value.numpy() for name, value in layer.state_dict().items()}


def train(model, steps, *averages, seed=0):
    """Random weights after random weights."""
    rng = np.random.default_rng(seed)
    history = []
    for _ in range(steps):
        for value in model.state_dict().values():
            value.set_value(rng.normal(size=value.shape).astype(np.float32))
        history.append(state_of(model))
        for average in averages:
            average.update()
    return history


@pytest.mark.parametrize(("last", "count"), [(1000, 9), pytest.param(60_000, 15, marks=pytest.mark.full_size)])
def test_published_trace(reference, last, count):
    trace = json.loads((reference / "golden" / "dygraph__ema_trace.json").read_text())["trace"]
    rows = {row["step"]: row for row in trace if row["step"] <= last}
    assert len(rows) == count
    model = Pair()
    average = ExponentialMovingAverage(model, correction="published")
    for step in range(1, max(rows) + 1):
        model.climbing.set_value(np.array([min(step, 1000)], np.float32))
        average.update()
        if step not in rows:
            continue
        row, raw, applied = rows[step], average.state_dict()["averages"], average.weights()
        ours = [raw["constant"], applied["constant"], raw["climbing"], applied["climbing"]]
        recorded = [row[key] for key in ("raw_const1", "applied_const1", "raw_ramp", "applied_ramp")]
        # Recorded by Paddle 3.3, which gives every number bit by bit; 2.6 multiplies and adds with other roundings.
        np.testing.assert_allclose(np.concatenate(ours), recorded, rtol=2.0**-22, atol=0)


def test_exact_average_is_the_weighted_mean():
    model = normalised()
    average = ExponentialMovingAverage(model, decay=0.9)
    history = train(model, 90, average)
    share, mean = 0.0, {name: np.zeros(value.shape) for name, value in history[0].items()}
    for t, values in enumerate(history):
        decay = min(0.9, (1 + t) / (10 + t))
        share = decay * share + 1 - decay
        mean = {name: decay * mean[name] + (1 - decay) * values[name].astype(np.float64) for name in mean}
    weights = average.weights()
    assert {"1._mean", "1._variance"} < weights.keys() == mean.keys()
    for name, value in weights.items():
        # float32 values of about 1, some ten of which weigh in: a few roundings.
        np.testing.assert_allclose(value, mean[name] / share, atol=1e-6)


@pytest.mark.parametrize("correction", ["exact", "published"])
@pytest.mark.parametrize("elements", [1, 13, 10**6])
def test_buffers_of_any_size_average_each_entry_alone_to_the_last_bit(monkeypatch, correction, elements):
    monkeypatch.setattr(ema, "BUFFER_ELEMENTS", elements)
    model = normalised()
    average = ExponentialMovingAverage(model, decay=0.9, correction=correction)
    expected = {name: paddle.zeros_like(value) for name, value in model.state_dict().items()}
    share, rng = 1.0, np.random.default_rng(1)
    for step in range(30):
        train(model, 1, average, seed=int(rng.integers(1000)))
        decay = min(0.9, (1 + step) / (10 + step))
        share *= decay
        for name, value in model.state_dict().items():
            before = expected[name]
            if correction == "exact":
                expected[name] = before + (value - before) * ((1.0 - decay) / (1.0 - share))
            else:
                expected[name] = before * decay + value * (1.0 - decay)
        state = average.state_dict()["averages"]
        assert list(state) == list(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(state[name], value.numpy())


def test_an_update_changes_no_weight(monkeypatch):
    """A buffer of one entry must be a copy of it, too."""
    monkeypatch.setattr(ema, "BUFFER_ELEMENTS", 1)
    model = normalised()
    average = ExponentialMovingAverage(model)
    before = train(model, 3, average)[-1]
    with average.applied():
        for name, value in state_of(model).items():
            np.testing.assert_array_equal(value, average.weights()[name])
    for name, value in state_of(model).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("steps", [1, 3, 50, 400])
def test_constants_stay_to_the_last_bit(steps):
    model = normalised()
    before = train(model, 1)[0]
    average = ExponentialMovingAverage(model)
    for _ in range(steps):
        average.update()
    for name, value in average.weights().items():
        np.testing.assert_array_equal(value, before[name])


def test_published_correction_is_too_large():
    model = Pair()
    average = ExponentialMovingAverage(model, correction="published")
    for _ in range(3):
        average.update()
    assert average.weights()["constant"][0] == pytest.approx(1.0113, abs=1e-4)


@pytest.mark.parametrize("correction", ["exact", "published"])
def test_resume_is_bit_exact(correction):
    model = normalised()
    through = ExponentialMovingAverage(model, correction=correction)
    first = ExponentialMovingAverage(model, correction=correction)
    train(model, 7, through, first)
    resumed = ExponentialMovingAverage(model, correction=correction)
    resumed.load_state_dict(first.state_dict())
    train(model, 7, through, resumed, seed=1)
    assert resumed.steps == through.steps == 14
    for name, value in through.weights().items():
        np.testing.assert_array_equal(resumed.weights()[name], value)


def test_state_is_a_copy():
    model = normalised()
    average = ExponentialMovingAverage(model)
    train(model, 2, average)
    state = average.state_dict()
    kept = {name: value.copy() for name, value in state["averages"].items()}
    train(model, 2, average, seed=1)
    assert state["steps"] == 2
    for name, value in kept.items():
        np.testing.assert_array_equal(state["averages"][name], value)


def test_states_that_do_not_fit():
    average = ExponentialMovingAverage(normalised())
    state = average.state_dict()
    partial = dict(state["averages"])
    del partial["1._mean"]
    cut = {**state["averages"], "0.weight": np.zeros((3, 3), np.float32)}
    extra = {**state["averages"], "2.weight": np.zeros(1, np.float32)}
    for averages, name in ((partial, "1._mean"), (cut, "0.weight"), (extra, "2.weight")):
        with pytest.raises(ValueError, match=name):
            average.load_state_dict({**state, "averages": averages, "steps": 5})
    with pytest.raises(ValueError, match="published"):
        average.load_state_dict({**state, "correction": "published"})
    assert average.steps == 0


def test_applied_restores_to_the_last_bit():
    model = normalised()
    average = ExponentialMovingAverage(model)
    before = train(model, 5, average)[-1]
    expected = average.weights()
    with pytest.raises(KeyError, match="evaluation failed"), average.applied():
        for name, value in state_of(model).items():
            np.testing.assert_array_equal(value, expected[name])
        model(paddle.randn([4, 3]))  # moves the batch statistics
        raise KeyError("evaluation failed")
    for name, value in state_of(model).items():
        np.testing.assert_array_equal(value, before[name])
    assert not model[0].weight.stop_gradient
    for name, value in average.weights().items():
        np.testing.assert_array_equal(value, expected[name])


def test_refusals():
    with pytest.raises(ValueError, match="first update"):
        ExponentialMovingAverage(normalised()).weights()
    with pytest.raises(ValueError, match="decay"):
        ExponentialMovingAverage(normalised(), decay=1.0)
    with pytest.raises(ValueError, match="exact, published"):
        ExponentialMovingAverage(normalised(), correction="none")
