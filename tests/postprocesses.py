"""The three postprocesses with one face: settings and raw predictions in, detections out."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import paddle

from ppsolo.deploy.onnx.graph import detection_outputs
from ppsolo.deploy.onnx.network import RawNames
from ppsolo.deploy.onnx.postprocess import postprocess
from ppsolo.deploy.onnx.writer import OnnxWriter
from ppsolo.interface import LEVELS, OUTPUTS, RAW_OUTPUTS
from ppsolo.models.postprocess import SOLOv2Postprocess
from ppsolo.models.solov2 import RawPredictions
from ppsolo.results.postprocess import DetectionArrays, NumpyPostprocess, RawArrays
from ppsolo.schema import PostprocessConfig

Postprocess = Callable[[PostprocessConfig, RawArrays], DetectionArrays]


def in_paddle(settings: PostprocessConfig, raw: RawArrays) -> DetectionArrays:
    found = SOLOv2Postprocess(**dataclasses.asdict(settings))(
        RawPredictions(
            [paddle.to_tensor(x) for x in raw.category_logits],
            [paddle.to_tensor(x) for x in raw.kernels],
            paddle.to_tensor(raw.mask_features),
        )
    )
    return DetectionArrays(*(tensor.numpy() for tensor in found))


def in_numpy(settings: PostprocessConfig, raw: RawArrays) -> DetectionArrays:
    return NumpyPostprocess(settings, threads=2)(raw)


def in_onnx(settings: PostprocessConfig, raw: RawArrays) -> DetectionArrays:
    """The nodes that a whole ONNX graph ends in, alone in a graph of their own."""
    import onnxruntime

    arrays = dict(zip(RAW_OUTPUTS, [*raw.category_logits, *raw.kernels, raw.mask_features], strict=True))
    writer = OnnxWriter()
    names = RawNames(list(RAW_OUTPUTS[:LEVELS]), list(RAW_OUTPUTS[LEVELS:-1]), RAW_OUTPUTS[-1])
    grids = tuple(x.shape[2] for x in raw.category_logits)
    postprocess(writer, names, SOLOv2Postprocess(**dataclasses.asdict(settings)), grids)
    inputs = [writer.value(name, writer.types.FLOAT, list(array.shape)) for name, array in arrays.items()]
    graph = writer.model(name="postprocess", inputs=inputs, outputs=detection_outputs(writer), metadata={})
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return DetectionArrays(*session.run(list(OUTPUTS), arrays))


POSTPROCESSES: Mapping[str, Postprocess] = {"paddle": in_paddle, "numpy": in_numpy, "onnx": in_onnx}


def raw_arrays(
    seed: int,
    *,
    batch: int = 1,
    classes: int = 3,
    shift: float = 0.0,
    size: tuple[int, int] = (40, 250),
    grids: tuple[int, ...] = (12, 10, 6, 4, 2),
) -> RawArrays:
    """Random raw predictions. shift: added to the class logits. size: height and width of the mask features."""
    random = np.random.default_rng(seed)

    def array(*shape: int) -> np.ndarray:
        return random.normal(0, 1.5, shape).astype("float32")

    return RawArrays(
        [array(batch, classes, grid, grid) + np.float32(shift) for grid in grids],
        [array(batch, 4, grid, grid) for grid in grids],
        np.maximum(array(batch, 4, *size), 0),
    )
