"""The exported graphs in Paddle Inference: folded norms, and any number of instances, images and pixels."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from exports import lively_model
from paddle import nn

from ppsolo import load_config
from ppsolo.deploy.graph import WholeGraph, fold_norms
from ppsolo.deploy.paddle_inference import PaddleEngine, PaddleSession
from ppsolo.models.postprocess import SOLOv2Postprocess
from ppsolo.models.solov2 import RawPredictions


@pytest.mark.parametrize("name", ["solov2_r50_enhance_coco", "solov2_mobilenetv3_fpn_448_3x"])
def test_folded_norms_change_rounding_only(name, tiny):
    config = load_config(name, {**tiny, "model.backbone.scale": 0.25})
    model = lively_model(config)
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    folded = fold_norms(model)
    assert not [layer for layer in folded.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    images = paddle.to_tensor(np.random.default_rng(0).normal(size=[2, 3, 64, 96]).astype("float32"))
    with paddle.no_grad():
        ours, theirs = folded(images), model(images)
    for one, other in zip((*ours[0], *ours[1], ours[2]), (*theirs[0], *theirs[1], theirs[2]), strict=True):
        scale = np.abs(other.numpy()).max()
        np.testing.assert_allclose(one.numpy() / scale, other.numpy() / scale, atol=2e-5)  # float32 through 20 layers
    assert all(np.array_equal(value.numpy(), weights[key]) for key, value in model.state_dict().items())


GRIDS = (6, 5, 4, 3, 2)
CLASSES, KERNELS = 3, 4


class StandIn(nn.Layer):
    """Replaces a network: its class scores, kernels and mask features are the image's three channels, resized."""

    def __init__(self):
        super().__init__()
        # Paddle 2.6 does not load a graph without parameters.
        self.gain = self.create_parameter([1], default_initializer=nn.initializer.Constant(1.0))

    @paddle.no_grad()
    def forward(self, image: paddle.Tensor) -> RawPredictions:
        image = image * self.gain

        def grid(channel: int, size: int, copies: int, step: float) -> paddle.Tensor:
            cells = F.interpolate(image[:, channel : channel + 1], size=[size, size], mode="nearest")
            return paddle.concat([cells - step * copy for copy in range(copies)], axis=1)

        features = F.relu(F.avg_pool2d(image[:, 2:], 4, stride=4))
        return RawPredictions(
            [grid(0, size, CLASSES, 4.0) for size in GRIDS],
            [grid(1, size, KERNELS, 0.1) for size in GRIDS],
            paddle.concat([features * weight for weight in (1.0, 0.5, -0.5, 0.25)], axis=1),
        )


POSTPROCESS = SOLOv2Postprocess(pre_nms_top_n=30, max_instances=20, strides=(2, 2, 2, 2, 2))


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> PaddleEngine:
    place = tmp_path_factory.mktemp("stand_in")
    graph = WholeGraph(StandIn(), POSTPROCESS)
    graph.eval()
    spec = paddle.static.InputSpec([None, 3, None, None], "float32", "image")
    paddle.jit.save(paddle.jit.to_static(graph, input_spec=[spec], full_graph=True), str(place / "model"))
    return PaddleEngine(PaddleSession(place))


def image(seed: int, *, scores: float, height: int = 64, width: int = 96) -> np.ndarray:
    """Noise [3, H, W] whose first channel, the class scores before the sigmoid, is about `scores`."""
    noise = np.random.default_rng(seed).normal(0, 2, [3, height, width]).astype("float32")
    noise[0] += scores
    return noise


def assert_as_in_python(engine: PaddleEngine, batch: np.ndarray) -> list[int]:
    """Check that the engine finds the same as dygraph. Return the number of instances of each image."""
    found = engine.run(batch)
    expected = POSTPROCESS(StandIn()(paddle.to_tensor(batch)))
    assert [array.dtype.name for array in found] == ["float32", "int64", "float32", "int64"]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == tuple(theirs.shape)
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-6)  # other kernels: the last place of float32
    assert found.counts.sum() == len(found.scores)
    return found.counts.tolist()


def test_nothing_something_and_too_much_in_one_batch(engine):
    nothing, much = image(0, scores=-50.0), image(1, scores=5.0)
    one = image(2, scores=-50.0)
    one[0, :8, :8] = 2.0
    one[1] = np.abs(one[1])
    few, twenty = assert_as_in_python(engine, np.stack([nothing, one, much]))[1:]
    assert twenty == POSTPROCESS.max_instances > few > 0  # of far more than pre_nms_top_n candidates
    assert assert_as_in_python(engine, np.stack([nothing])) == [0]
    assert assert_as_in_python(engine, np.stack([nothing, nothing])) == [0, 0]
    single = image(3, scores=-50.0)
    single[0, 12, 19] = 1.0  # the one pixel that a cell of the grid of 5 takes
    single[1:] = 1.0
    assert assert_as_in_python(engine, np.stack([single])) == [1]


def test_any_number_of_images(engine):
    for images in range(1, 9):
        counts = assert_as_in_python(engine, np.stack([image(seed, scores=-1.0) for seed in range(images)]))
        assert len(counts) == images and min(counts) > 0


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (32, 512), (1216, 2016)])
def test_any_size(engine, size):
    assert assert_as_in_python(engine, np.stack([image(0, scores=-2.0, height=size[0], width=size[1])]))[0] > 0


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_what_is_not_finite_says_so(engine, channel):
    batch = np.stack([image(0, scores=-1.0), image(1, scores=-1.0)])
    batch[1, channel, 32:, 48:] = np.inf if channel else np.nan
    assert engine.run(batch).counts.tolist() == [-1, -1]
