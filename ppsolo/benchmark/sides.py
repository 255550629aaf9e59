"""The sides that a benchmark of prediction compares: runtimes, exports and models of others."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np

from ppsolo.data.images import read_image
from ppsolo.deploy.directory import read_info
from ppsolo.errors import ConfigError, PpsoloError
from ppsolo.interface import EXPORT_FILE
from ppsolo.schema import Config

SideKind: TypeAlias = Literal["ppsolo", "onnx", "paddledetection"]
TOTAL = "total"  # the stage that holds all others
BF16 = "openvino-bf16"
ENGINES = ("dygraph", "onnxruntime", "openvino", BF16)


@dataclass(frozen=True)
class Side:
    """One thing to measure, in its own process.

    name: one of ENGINES (a `Predictor` with this engine; the last one computes in bfloat16), an exported directory of
    ppsolo, or a peer. A peer is an ONNX file or a directory that PaddleDetection exported; only its run is timed.
    """

    name: str
    config: Config
    image: str
    batch: int = 1
    threads: int = 1
    height: int | None = None  # scale the picture to this height first
    device: Literal["cpu", "gpu"] = "cpu"  # for exported directories only, like `precision`
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    engine: str = "auto"  # for exported directories only: the runtime


def picture(side: Side) -> np.ndarray:
    """Read the picture of a side at its height: uint8 [H, W, 3] RGB. Raises ImageError."""
    image = read_image(side.image)
    if side.height is None:
        return image
    scale = side.height / image.shape[0]
    return cv2.resize(image, (max(1, round(scale * image.shape[1])), side.height))


def side_kind(side: Side) -> SideKind:
    """Return what a side is: a predictor of ppsolo, an ONNX file or an export of PaddleDetection.

    Raises ConfigError if its name is none of these.
    """
    place = Path(side.name)
    if side.name in ENGINES or _is_ours(place):
        return "ppsolo"
    if side.name.endswith(".onnx") and place.is_file():
        return "onnx"
    if any((place / name).is_file() for name in ("model.json", "model.pdmodel")):
        return "paddledetection"
    raise ConfigError(f"{side.name}: give one of {', '.join(ENGINES)}, an exported directory, or an ONNX file")


def _is_ours(directory: Path) -> bool:
    if not (directory / EXPORT_FILE).is_file():
        return False
    try:
        read_info(directory)
    except PpsoloError:
        return False
    return True


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Call the function; return its seconds and its result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result
