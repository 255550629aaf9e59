"""The exported model as a predictor: `load` a directory, then images in, instances out."""

import logging
import os
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from ppsolo.build.pipeline import build_numpy_postprocess
from ppsolo.cpu import default_threads
from ppsolo.deploy.device import parse_device
from ppsolo.deploy.directory import TRITON_ONNX, ExportInfo, check_files, find_export, read_info
from ppsolo.errors import ExportError, PredictionError
from ppsolo.interface import LEVELS, RAW_OUTPUTS
from ppsolo.pipeline import Pipeline
from ppsolo.results.postprocess import DetectionArrays, NumpyPostprocess, RawArrays

logger = logging.getLogger(__name__)

ONNX_FILE = "model.onnx"
OPENVINO_FILE = "model.xml"  # its weights are in model.bin
# (N, H, W) that TensorRT is prepared for where the export leaves them open.
TENSORRT_SHAPES = ((1, 64, 64), (1, 800, 1344), (1, 1344, 800), (4, 1344, 1344))


class Engine(Protocol):
    """What runs an export. description: which runtime, version, device, precision and threads, in one line."""

    description: str

    def run(self, images: np.ndarray) -> DetectionArrays:
        """images: float32 [N, 3, H, W], preprocessed, H and W multiples of 32 -> their instances."""
        ...


class Session(Protocol):
    """What runs a graph of the network alone. description: see `Engine`."""

    description: str

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """images: as for `Engine` -> the arrays of `RawArrays`, flat."""
        ...


class NetworkEngine:
    """A network without postprocessing, which is done here, on the CPU. description: see `Engine`."""

    def __init__(self, session: Session, postprocess: NumpyPostprocess):
        self._session = session
        self._postprocess = postprocess
        self.description = f"{session.description}; postprocessing in numpy"

    def run(self, images: np.ndarray) -> DetectionArrays:
        """As of `Engine`; raises PredictionError where the network's output is not finite."""
        *heads, features = self._session(images)
        return self._postprocess(RawArrays(heads[:LEVELS], heads[LEVELS:], features))


class ExportedPredictor(Pipeline):
    """An exported model with the face of `ppsolo.Predictor`.

    Attributes:
        config: the resolved configuration that it was exported with.
        class_names, category_ids: one per label.
        info: what the export says of itself.
        description: which runtime, version, device, precision and threads, in one line.
    """

    def __init__(self, info: ExportInfo, engine: Engine):
        """info and engine of one directory; `load` puts them together."""
        verified = f"verified, {info.verified}" if info.verified else "not verified"
        super().__init__(info.config, description=engine.description, origin=f"an export; {verified}")
        self.info = info
        self._engine = engine

    def detect(self, batch: np.ndarray) -> DetectionArrays:
        """What the graph finds in prepared images, float32 [N, 3, H, W].

        Where sides of the export are fixed, images are padded with zeros up to them, and batches cut and filled.
        Raises PredictionError where the network's output is not finite or an image is larger than the export's.
        """
        size, _, height, width = self.info.input_shape
        if size < 0:
            return self._run(pad_batch(batch, height, width))
        parts = [self._run_filled(batch[at : at + size], size) for at in range(0, len(batch), size)]
        return DetectionArrays(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _run_filled(self, batch: np.ndarray, size: int) -> DetectionArrays:
        """The instances of at most `size` images by a graph that takes exactly so many."""
        _, _, height, width = self.info.input_shape
        filling = np.zeros((size - len(batch), *batch.shape[1:]), np.float32)
        found = self._run(pad_batch(np.concatenate([batch, filling]), height, width))
        counts = found.counts[: len(batch)]
        scores, labels, masks = (array[: counts.sum()] for array in found[:3])
        return DetectionArrays(scores, labels, masks, counts)

    def _run(self, batch: np.ndarray) -> DetectionArrays:
        found = self._engine.run(batch)
        if (found.counts < 0).any():
            raise PredictionError("the network's output is not finite: check its weights, or take precision='fp32'")
        return found


def load(
    directory: str | os.PathLike[str],
    *,
    engine: Literal["paddle", "onnxruntime", "openvino"] | None = None,
    device: str = "cpu",
    precision: Literal["fp32", "fp16", "bf16"] = "fp32",
    threads: int | None = None,
    keep_memory: bool = True,
    onednn: bool | None = None,
    tensorrt: bool = False,
    tensorrt_shapes: Sequence[tuple[int, int, int]] = TENSORRT_SHAPES,
) -> ExportedPredictor:
    """The model in a directory that `ppsolo export` wrote, checked against its checksums.

    A whole graph answers by itself. A graph of the network alone is followed by `NumpyPostprocess` on the CPU.

    Args:
        directory: with infer_cfg.yml and the model's files; or a model repository of Triton that holds one export.
        engine: the runtime; by default "paddle" or, for an ONNX model, "onnxruntime" and for bf16 "openvino". The
            latter takes a model of the network alone, on a CPU (`pip install 'ppsolo[openvino]'`), in int8 too.
        device: "cpu", "gpu" or the number of a GPU, as in "gpu:1".
        precision: fp16 takes a GPU, bf16 a CPU that has it, and OpenVINO or Paddle Inference with oneDNN. Both
            change results beyond rounding.
        threads: of the CPU; what OMP_NUM_THREADS says, else all cores that the process may use, if None.
        keep_memory: let onnxruntime keep what it frees for the next image: a tenth faster, but for images of many
            sizes the process grows. Paddle Inference always has what it frees kept, which makes it up to twice as fast.
        onednn: oneDNN kernels, of Paddle Inference on a CPU. If None, they are used unless Paddle 3 runs a
            model.pdmodel, on which it fails with them; bf16 always needs them. They take ResNet-50 at 800 x 1216 to
            0.6 of its time.
        tensorrt: of Paddle Inference on a GPU, for a model.pdmodel. Building takes minutes.
        tensorrt_shapes: (N, H, W) of batches, small and large, between which TensorRT is to work.

    Raises:
        ExportError: a file is missing, cut off, changed or foreign, or what is asked for cannot be had here.
    """
    directory = find_export(directory)
    info = read_info(directory)
    check_files(directory, info)
    runtimes = {"paddle": ("paddle",), "onnx": ("onnxruntime", "openvino"), "openvino": ("openvino",)}[info.format]
    runtime = engine or runtimes[precision == "bf16" and info.format == "onnx"]
    if runtime not in runtimes:
        raise ExportError(
            f"{directory} holds a model for the engine {' or '.join(runtimes)}, not {engine}; export another"
        )
    kind = parse_device(device).kind
    if info.verified is not None and info.device not in (None, kind):  # verification itself may use the other device
        logger.warning(
            "%s was exported for a %s and may be slow on this %s: export with --device %s",
            directory,
            info.device,
            kind,
            kind,
        )
    threads = threads if threads is not None else default_threads()
    if threads < 1:
        raise ExportError(f"threads is {threads}, give at least 1")
    host = build_numpy_postprocess(info.config, threads=threads) if info.graph == "network" else None
    if runtime != "paddle" and (onednn or tensorrt):
        raise ExportError("oneDNN and TensorRT are options of a Paddle export: leave them out")
    if runtime == "openvino":
        if host is None or kind != "cpu":
            raise ExportError("OpenVINO takes a network (--graph network) on a CPU; export one, or take onnxruntime")
        from ppsolo.deploy.openvino_runtime import OpenVinoSession

        quantized = info.format == "openvino"
        network = OpenVinoSession(
            directory / (OPENVINO_FILE if quantized else ONNX_FILE),
            RAW_OUTPUTS,
            precision=precision,
            threads=threads,
            quantized=quantized,
        )
        return ExportedPredictor(info, NetworkEngine(network, host))
    if runtime == "onnxruntime":
        from ppsolo.deploy.onnx_runtime import OnnxEngine, OnnxSession

        options = {"device": device, "precision": precision, "threads": threads, "keep_memory": keep_memory}
        file = directory / (TRITON_ONNX if TRITON_ONNX in info.files else ONNX_FILE)
        if host is not None:
            return ExportedPredictor(info, NetworkEngine(OnnxSession(file, RAW_OUTPUTS, **options), host))
        return ExportedPredictor(info, OnnxEngine(file, **options))
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
    return ExportedPredictor(info, PaddleEngine(session) if host is None else NetworkEngine(session, host))


def _with_fixed_sides(shape: tuple[int, int, int], input_shape: tuple[int, int, int, int]) -> tuple[int, int, int]:
    """(N, H, W) with the sides that an export fixes in place of those given."""
    size, _, height, width = input_shape
    batch, rows, columns = shape
    return (
        size if size > 0 else batch,
        height if height > 0 else rows,
        width if width > 0 else columns,
    )


def pad_batch(batch: np.ndarray, height: int, width: int) -> np.ndarray:
    """The batch with zeros at its right and lower edge, up to the sides that are not -1."""
    extra = [max(0, fixed - side) for fixed, side in zip((height, width), batch.shape[2:], strict=True)]
    for fixed, side in zip((height, width), batch.shape[2:], strict=True):
        if fixed > 0 and side > fixed:
            raise PredictionError(
                f"an image becomes {batch.shape[2]} x {batch.shape[3]} pixels, the export takes {height} x {width}: "
                "export with open sides (--input_shape -1 3 -1 -1)"
            )
    return np.pad(batch, ((0, 0), (0, 0), (0, extra[0]), (0, extra[1]))) if any(extra) else batch
