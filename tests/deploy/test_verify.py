"""Verification of exports: rounding is excused, and nothing else."""

import numpy as np
import paddle
import pytest
from exports import lively_model

from ppsolo.build.network import build_postprocess
from ppsolo.deploy import verify as module
from ppsolo.deploy.verify import verify
from ppsolo.results.postprocess import DetectionArrays

# Of a head's scale: what onnxruntime's heads differ by from Paddle's, and those of its two graphs from each other.
ROUNDING, OF_GRAPHS = 3e-6, 1e-6


@pytest.fixture(scope="module")
def model(tiny_config):
    return lively_model(tiny_config)


def heads_of(model, batch) -> list[np.ndarray]:
    with paddle.no_grad():
        return [head.numpy() for head in module._flat(model(paddle.to_tensor(batch)))]


def moved(heads, share, seed) -> list[np.ndarray]:
    """The heads as another runtime rounds them."""
    rng = np.random.default_rng(seed)
    return [(x + share * np.abs(x).max() * rng.uniform(-1, 1, x.shape)).astype(np.float32) for x in heads]


def verified(model, config, monkeypatch, seed, **wrong):
    """The verification of an export whose whole graph rounds unlike its graph of the network."""
    monkeypatch.setattr(module, "SCENES", (((240, 320),),))
    postprocess = build_postprocess(config)
    for name, value in wrong.items():
        setattr(postprocess, name, value)

    def heads(batch) -> list[np.ndarray]:
        return moved(heads_of(model, batch), ROUNDING, seed)

    def detect(batch) -> DetectionArrays:
        whole = moved(heads(batch), OF_GRAPHS, 1000 + seed)
        return module._found(postprocess, module._raw([paddle.to_tensor(x) for x in whole]))

    return verify(model, config, (-1, 3, -1, -1), heads=heads, detect=detect)


def test_what_rounding_decides_is_trusted(model, tiny_config, monkeypatch):
    """Each line of Paddle rounds unlike the other: other seeds bring a pixel onto the threshold."""
    results = [verified(model, tiny_config, monkeypatch, seed) for seed in (1, 2, 25)]
    assert all(result.trusted and result.instances > 20 for result in results), results
    assert any(result.rounding == 1 for result in results), results


def test_heads_move_by_what_runtimes_differ_by():
    """Small values move as much as the largest one: they may be sums of large numbers that cancel."""
    head = paddle.to_tensor(np.float32([[[100.0, 1e-3]]]))
    for difference, share in ((3e-6, 3e-6), (0.0, module.ULP), (1e-4, module.ROUNDING)):
        moves = np.stack([(moved[0] - head).numpy() for moved in module._nudged([head], 0, difference)])[..., 1]
        assert 50 * share < np.abs(moves).max() <= 100 * share and len(moves) == module.NUDGES


@pytest.mark.parametrize(
    "wrong",
    [{"mask_threshold": 0.501}, {"nms_sigma": 2.01}, {"strides": (1200,) * 5}, {"update_threshold": 0.1}],
)
def test_another_postprocess_is_found(model, tiny_config, monkeypatch, wrong):
    assert not verified(model, tiny_config, monkeypatch, 0, **wrong).trusted
