"""The time of the three postprocesses (Paddle, numpy, ONNX) on the same raw predictions."""

import statistics
import time
from collections.abc import Callable

import numpy as np
import paddle

from ppsolo.build.network import build_postprocess
from ppsolo.build.pipeline import build_numpy_postprocess
from ppsolo.cpu import default_threads, use_threads
from ppsolo.deploy.onnx.graph import detection_outputs
from ppsolo.deploy.onnx.network import RawNames
from ppsolo.deploy.onnx.postprocess import postprocess
from ppsolo.deploy.onnx.writer import OnnxWriter
from ppsolo.interface import LEVELS, OUTPUTS, RAW_OUTPUTS
from ppsolo.models.postprocess import SOLOv2Postprocess
from ppsolo.models.solov2 import RawPredictions
from ppsolo.results.postprocess import DetectionArrays, RawArrays
from ppsolo.schema import Config

_KERNEL_SCALE = np.float32(0.1)  # gives masks soft edges, as after training


def benchmark_postprocess(
    config: Config, size: tuple[int, int], *, candidates: int = 450, repeats: int = 9
) -> dict[str, float]:
    """Return the median seconds per image of each postprocess; they run in turn, after one round of warm-up.

    size: height and width of the network input. candidates: number of (cell, class) pairs above the score threshold.
    """
    threads = default_threads()
    use_threads(threads)
    raw = random_predictions(config, size, candidates=candidates)
    tensors = to_paddle(raw)
    in_paddle, in_numpy = build_postprocess(config), build_numpy_postprocess(config, threads=threads)
    in_onnx = onnx_postprocess(in_paddle, raw, threads=threads)
    sides: dict[str, Callable[[], object]] = {
        "Paddle": lambda: in_paddle(tensors),
        "numpy": lambda: in_numpy(raw),
        "onnxruntime": lambda: in_onnx(raw),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    with paddle.no_grad():
        for round_number in range(repeats + 1):
            for name, run in sides.items():
                start = time.perf_counter()
                run()
                if round_number:
                    seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def random_predictions(config: Config, size: tuple[int, int], *, candidates: int) -> RawArrays:
    """Draw random raw predictions of one image, with the shapes of the network's output for this input size."""
    random = np.random.default_rng(0)
    grids, channels = config.model.head.num_grids, config.model.mask_feature_head.out_channels

    def array(*shape: int) -> np.ndarray:
        return random.normal(0, 1, shape).astype(np.float32)

    logits = [array(1, config.num_classes, grid, grid) for grid in grids]
    values = np.sort(np.concatenate([x.ravel() for x in logits]))
    threshold = config.postprocess.score_threshold
    shift = np.float32(np.log(threshold / (1 - threshold)) - values[-candidates])
    return RawArrays(
        [x + shift for x in logits],
        [_KERNEL_SCALE * array(1, channels, grid, grid) for grid in grids],
        np.maximum(array(1, channels, size[0] // 4, size[1] // 4), 0),
    )


def to_paddle(raw: RawArrays) -> RawPredictions:
    """Convert raw predictions to Paddle tensors."""
    return RawPredictions(
        [paddle.to_tensor(x) for x in raw.category_logits],
        [paddle.to_tensor(x) for x in raw.kernels],
        paddle.to_tensor(raw.mask_features),
    )


def onnx_postprocess(
    settings: SOLOv2Postprocess, like: RawArrays, *, threads: int = 1
) -> Callable[[RawArrays], DetectionArrays]:
    """Run the ONNX nodes of the postprocess alone in onnxruntime. like: arrays with the shapes of the inputs."""
    import onnxruntime

    writer = OnnxWriter()
    names = RawNames(list(RAW_OUTPUTS[:LEVELS]), list(RAW_OUTPUTS[LEVELS:-1]), RAW_OUTPUTS[-1])
    postprocess(writer, names, settings, tuple(x.shape[2] for x in like.category_logits))
    inputs = [writer.value(name, writer.types.FLOAT, list(array.shape)) for name, array in _feeds(like).items()]
    graph = writer.model(name="postprocess", inputs=inputs, outputs=detection_outputs(writer), metadata={})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda raw: DetectionArrays(*map(np.asarray, session.run(list(OUTPUTS), _feeds(raw))))


def _feeds(raw: RawArrays) -> dict[str, np.ndarray]:
    return dict(zip(RAW_OUTPUTS, [*raw.category_logits, *raw.kernels, raw.mask_features], strict=True))
