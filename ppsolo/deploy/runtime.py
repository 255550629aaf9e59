"""An exported model as a predictor: `load` a directory, then pass images and get instances."""

import hashlib
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from ppsolo.build.pipeline import build_numpy_postprocess
from ppsolo.cpu import default_threads
from ppsolo.deploy.device import parse_device
from ppsolo.deploy.directory import TRITON_ONNX, ExportDirectory, ExportInfo, check_files, find_export, read_directory
from ppsolo.errors import ExportError, PredictionError
from ppsolo.interface import LEVELS, RAW_OUTPUTS
from ppsolo.pipeline import Pipeline
from ppsolo.results.postprocess import DetectionArrays, NumpyPostprocess, RawArrays

logger = logging.getLogger(__name__)

Runtime = Literal["paddle", "onnxruntime", "openvino"]

ONNX_FILE = "model.onnx"
OPENVINO_FILE = "model.xml"  # its weights are in model.bin
# (N, H, W) that TensorRT is prepared for if the export leaves them open.
TENSORRT_SHAPES = ((1, 64, 64), (1, 800, 1344), (1, 1344, 800), (4, 1344, 1344))


class Engine(Protocol):
    """Runs an export. description: runtime, version, device, precision and threads, in one line."""

    description: str

    def run(self, images: np.ndarray) -> DetectionArrays:
        """images: float32 [N, 3, H, W], preprocessed, H and W multiples of 32 -> their instances."""
        ...


class Session(Protocol):
    """Runs a graph of the network alone. description: see `Engine`."""

    description: str

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """images: see `Engine` -> the arrays of `RawArrays`, flat."""
        ...


class NetworkEngine:
    """A network without postprocessing, followed by postprocessing in numpy. description: see `Engine`."""

    def __init__(self, session: Session, postprocess: NumpyPostprocess):
        self._session = session
        self._postprocess = postprocess
        self.description = f"{session.description}; postprocessing in numpy"

    def run(self, images: np.ndarray) -> DetectionArrays:
        """See `Engine`; raises PredictionError if the network's output is not finite."""
        *heads, features = self._session(images)
        return self._postprocess(RawArrays(heads[:LEVELS], heads[LEVELS:], features))


class ExportedPredictor(Pipeline):
    """An exported model with the interface of `ppsolo.Predictor`.

    Attributes:
        config: the resolved configuration of the exported model.
        class_names, category_ids: one per label.
        info: the description in the export's directory.
        description: runtime, version, device, precision and threads, in one line.
    """

    def __init__(self, info: ExportInfo, engine: Engine):
        """info and engine: of the same directory; `load` creates both."""
        verified = f"verified, {re.split('[:;]', info.verified)[0]}" if info.verified else "not verified"
        files = hashlib.sha256(repr(sorted(info.files.items())).encode()).hexdigest()
        super().__init__(info.config, description=engine.description, origin=f"an export; {verified}", identity=files)
        self.info = info
        self._engine = engine

    def detect(self, batch: np.ndarray) -> DetectionArrays:
        """Return the detections of the graph in prepared images, float32 [N, 3, H, W].

        If the export has fixed sides, images are padded with zeros, and batches are split and filled up.
        Raises PredictionError if the network's output is not finite or an image is larger than the export allows.
        """
        size, _, height, width = self.info.input_shape
        if size < 0:
            return self._run(pad_batch(batch, height, width))
        parts = [self._run_filled(batch[at : at + size], size) for at in range(0, len(batch), size)]
        return DetectionArrays(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _run_filled(self, batch: np.ndarray, size: int) -> DetectionArrays:
        """Run at most `size` images through a graph that takes exactly `size`."""
        _, _, height, width = self.info.input_shape
        filling = np.zeros((size - len(batch), *batch.shape[1:]), np.float32)
        found = self._run(pad_batch(np.concatenate([batch, filling]), height, width))
        counts = found.counts[: len(batch)]
        scores, labels, masks = (array[: counts.sum()] for array in found[:3])
        return DetectionArrays(scores, labels, masks, counts)

    def _run(self, batch: np.ndarray) -> DetectionArrays:
        found = self._engine.run(batch)
        if (found.counts < 0).any():
            raise PredictionError("the network's output is not finite: check its weights, or use precision='fp32'")
        return found


def load(
    directory: str | os.PathLike[str] | ExportDirectory,
    *,
    engine: Runtime | None = None,
    device: str = "cpu",
    precision: Literal["fp32", "fp16", "bf16"] = "fp32",
    threads: int | None = None,
    keep_memory: bool = True,
    onednn: bool | None = None,
    tensorrt: bool = False,
    tensorrt_shapes: Sequence[tuple[int, int, int]] = TENSORRT_SHAPES,
) -> ExportedPredictor:
    """Load a model from a directory of `ppsolo export`; check it against its checksums.

    A whole graph includes postprocessing. A graph of the network alone is followed by `NumpyPostprocess` on the CPU.

    Args:
        directory: holds infer_cfg.yml and the model's files, or is a model repository of Triton with one export. For
            the result of `deploy.directory.read_directory`, infer_cfg.yml is not read again.
        engine: the runtime. Default: "paddle" for a Paddle model, "onnxruntime" for an ONNX model, "openvino" for
            bf16. OpenVINO needs a model of the network alone, on a CPU (`pip install 'ppsolo[openvino]'`); it may be
            in int8.
        device: "cpu", "gpu" or the number of a GPU, as in "gpu:1".
        precision: fp16 needs a GPU. bf16 needs a CPU with bf16, and OpenVINO or Paddle Inference with oneDNN. Both
            change results by more than rounding.
        threads: CPU threads; None: the value of OMP_NUM_THREADS, or else all cores of the process.
        keep_memory: let onnxruntime keep freed memory for the next image. This is a tenth faster, but with images of
            many sizes the process grows. Paddle Inference always keeps it, and so is up to twice as fast.
        onednn: use oneDNN kernels, in Paddle Inference on a CPU. None: use them, unless Paddle 3 runs a model.pdmodel
            (it would fail); bf16 always needs them. With oneDNN, ResNet-50 at 800 x 1216 takes 0.6 of the time.
        tensorrt: use TensorRT, in Paddle Inference on a GPU with a model.pdmodel. Building takes minutes.
        tensorrt_shapes: (N, H, W) of the smallest and largest batches for TensorRT.

    Raises:
        ExportError: a file is missing, cut off, changed or not ppsolo's, or the request cannot be met on this machine.
    """
    place, info = directory if isinstance(directory, ExportDirectory) else read_directory(directory)
    directory = find_export(place)
    check_files(directory, info)
    runtime = _chosen_runtime(info, engine, precision, directory)
    if runtime != "paddle" and (onednn or tensorrt):
        raise ExportError("oneDNN and TensorRT are options for a Paddle export: omit them")
    _compare_devices(info, parse_device(device).kind, directory)
    threads = _checked_threads(threads)
    if runtime == "openvino":
        return ExportedPredictor(info, _in_openvino(directory, info, device, precision, threads))
    if runtime == "onnxruntime":
        return ExportedPredictor(info, _in_onnxruntime(directory, info, device, precision, threads, keep_memory))
    from ppsolo.deploy.paddle_inference import PaddleEngine, PaddleSession

    session = PaddleSession(
        directory,
        device=device,
        precision=precision,
        threads=threads,
        onednn=onednn,
        tensorrt=tensorrt,
        tensorrt_shapes=[_with_fixed_sides(shape, info.input_shape) for shape in tensorrt_shapes],
    )
    return ExportedPredictor(info, PaddleEngine(session) if info.graph == "whole" else _network(session, info, threads))


def _chosen_runtime(info: ExportInfo, engine: Runtime | None, precision: str, directory: Path) -> Runtime:
    """Return the runtime for an export. Raises ExportError if the requested one cannot run it."""
    runtimes: tuple[Runtime, ...] = {
        "paddle": ("paddle",),
        "onnx": ("onnxruntime", "openvino"),
        "openvino": ("openvino",),
    }[info.format]
    runtime = engine or runtimes[precision == "bf16" and info.format == "onnx"]
    if runtime not in runtimes:
        raise ExportError(
            f"{directory} holds a model for the engine {' or '.join(runtimes)}, not for {engine}: export another"
        )
    return runtime


def _checked_threads(threads: int | None) -> int:
    threads = threads if threads is not None else default_threads()
    if threads < 1:
        raise ExportError(f"threads is {threads}: give at least 1")
    return threads


def _compare_devices(info: ExportInfo, kind: str, directory: Path) -> None:
    """Warn where an export was written for another device. Verification itself may use the other one."""
    if info.verified is not None and info.device not in (None, kind):
        logger.warning(
            "%s was exported for a %s and may be slow on this %s: export with --device %s",
            directory,
            info.device,
            kind,
            kind,
        )


def _network(session: Session, info: ExportInfo, threads: int) -> NetworkEngine:
    """A graph of the network alone, with postprocessing."""
    return NetworkEngine(session, build_numpy_postprocess(info.config, threads=threads))


def _in_openvino(directory: Path, info: ExportInfo, device: str, precision: str, threads: int) -> Engine:
    if info.graph != "network" or parse_device(device).kind != "cpu":
        raise ExportError("OpenVINO needs a network (--graph network) on a CPU: export one, or use onnxruntime")
    from ppsolo.deploy.openvino_runtime import OpenVinoSession

    quantized = info.format == "openvino"
    file = directory / (OPENVINO_FILE if quantized else ONNX_FILE)
    session = OpenVinoSession(file, RAW_OUTPUTS, precision=precision, threads=threads, quantized=quantized)
    return _network(session, info, threads)


def _in_onnxruntime(
    directory: Path, info: ExportInfo, device: str, precision: str, threads: int, keep_memory: bool
) -> Engine:
    from ppsolo.deploy.onnx_runtime import OnnxEngine, OnnxSession

    options = {"device": device, "precision": precision, "threads": threads, "keep_memory": keep_memory}
    file = directory / (TRITON_ONNX if TRITON_ONNX in info.files else ONNX_FILE)
    if info.graph == "whole":
        return OnnxEngine(file, **options)
    return _network(OnnxSession(file, RAW_OUTPUTS, **options), info, threads)


def _with_fixed_sides(shape: tuple[int, int, int], input_shape: tuple[int, int, int, int]) -> tuple[int, int, int]:
    """Replace sides of (N, H, W) by those that the export fixes."""
    size, _, height, width = input_shape
    batch, rows, columns = shape
    return (
        size if size > 0 else batch,
        height if height > 0 else rows,
        width if width > 0 else columns,
    )


def pad_batch(batch: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pad the batch with zeros at its right and lower edge, up to the sides that are not -1."""
    extra = [max(0, fixed - side) for fixed, side in zip((height, width), batch.shape[2:], strict=True)]
    for fixed, side in zip((height, width), batch.shape[2:], strict=True):
        if fixed > 0 and side > fixed:
            raise PredictionError(
                f"an image becomes {batch.shape[2]} x {batch.shape[3]} pixels, the export takes {height} x {width}: "
                "export with open sides (--input_shape -1 3 -1 -1)"
            )
    return np.pad(batch, ((0, 0), (0, 0), (0, extra[0]), (0, extra[1]))) if any(extra) else batch
