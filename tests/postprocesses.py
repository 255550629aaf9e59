"""The three postprocesses with one face: settings and raw predictions in, detections out."""

import functools
from collections.abc import Callable, Mapping

import numpy as np

from ppsolo.benchmark.postprocess import onnx_postprocess, to_paddle
from ppsolo.build.network import build_postprocess
from ppsolo.results.postprocess import DetectionArrays, NumpyPostprocess, RawArrays
from ppsolo.schema import Config, PostprocessConfig

_graphs: dict[tuple[PostprocessConfig, str], Callable[[RawArrays], DetectionArrays]] = {}

Postprocess = Callable[[PostprocessConfig, RawArrays], DetectionArrays]


@functools.cache
def built(settings: PostprocessConfig):
    return build_postprocess(Config(postprocess=settings))


def in_paddle(settings: PostprocessConfig, raw: RawArrays) -> DetectionArrays:
    found = built(settings)(to_paddle(raw))
    return DetectionArrays(*(tensor.numpy() for tensor in found))


def in_numpy(settings: PostprocessConfig, raw: RawArrays) -> DetectionArrays:
    return NumpyPostprocess(settings, threads=2)(raw)


def in_onnx(settings: PostprocessConfig, raw: RawArrays) -> DetectionArrays:
    shapes = str([array.shape for array in (*raw.category_logits, *raw.kernels, raw.mask_features)])
    if (settings, shapes) not in _graphs:
        _graphs[settings, shapes] = onnx_postprocess(built(settings), raw)
    return _graphs[settings, shapes](raw)


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
