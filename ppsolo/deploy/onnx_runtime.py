"""Engines with onnxruntime for graphs of `ppsolo.deploy.onnx`, on a CPU or a GPU."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ppsolo.cpu import available_cores, keep_freed_memory, threads_in_words
from ppsolo.deploy.device import DeviceChoice, parse_device
from ppsolo.deploy.onnx.half import half_precision
from ppsolo.errors import ExportError, PredictionError
from ppsolo.interface import OUTPUTS
from ppsolo.results.postprocess import DetectionArrays
from ppsolo.text import native_reason, needed_package

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
GPU_PACKAGE = "pip uninstall onnxruntime, then pip install 'ppsolo[onnx-gpu]' (docs/gpu.md says which wheel fits)"


class OnnxSession:
    """A graph in onnxruntime: takes an image batch, returns the graph's outputs.

    description: runtime, version, device, precision and threads, in one line.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        outputs: Sequence[str],
        *,
        device: str = "cpu",
        precision: str = "fp32",
        threads: int | None = None,
        keep_memory: bool = True,
    ):
        """Load a model to compute `outputs`.

        Args:
            model: the file, or its content.
            device: "cpu", "gpu" or the number of a GPU, as in "gpu:1".
            precision: "fp32"; or "fp16" on a GPU: the network computes in float16, postprocessing in float32.
            threads: CPU threads for one batch. Default: all cores of the process.
            keep_memory: keep freed memory for the next batch, in an arena and in the process. This is a tenth
                faster, but with images of many sizes the memory grows and is never returned, on a GPU too.

        Raises ExportError: onnxruntime is missing, cannot use the device, or cannot load the model.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise ExportError(f"this needs {needed_package(error, 'onnxruntime', 'onnx')}") from None
        chosen = parse_device(device)
        _check_choice(chosen, precision, CUDA in onnxruntime.get_available_providers())
        threads = threads or available_cores()
        options = _session_options(threads, keep_memory)
        if keep_memory:
            keep_freed_memory()
        source = model if isinstance(model, bytes) else os.fspath(model)
        name = "the model" if isinstance(model, bytes) else os.fspath(model)
        if precision == "fp16":
            source = half_precision(model)
        if chosen.kind == "gpu":
            onnxruntime.preload_dlls()  # CUDA and cuDNN from NVIDIA's packages, if installed
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=[_provider(chosen, keep_memory)])
        except Exception as error:  # onnxruntime's errors have no common base class
            raise ExportError(_cannot_load(name, onnxruntime.__version__, error)) from error
        if chosen.kind == "gpu" and CUDA not in self._session.get_providers():
            raise ExportError(
                f"onnxruntime {onnxruntime.__version__} cannot load CUDA or cuDNN and would compute on the CPU: "
                "pip install 'ppsolo[onnx-gpu]' and see docs/gpu.md for the versions, or use device='cpu'"
            )
        missing = set(outputs) - {output.name for output in self._session.get_outputs()}
        if missing or [value.name for value in self._session.get_inputs()] != ["image"]:
            raise ExportError(f"{name} is not a graph of ppsolo: it lacks {', '.join(sorted(missing) or ['image'])}")
        self._outputs = list(outputs)
        self._run_options = onnxruntime.RunOptions()
        if chosen.kind == "gpu" and not keep_memory:
            self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", f"gpu:{chosen.number}")
        self.description = f"onnxruntime {onnxruntime.__version__}, {device}, {precision}"
        self.description += f", {threads_in_words(threads)}" if chosen.kind == "cpu" else ""

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """images: float32 [N, 3, H, W], preprocessed, H and W multiples of 32 -> the outputs in order.

        Raises PredictionError if onnxruntime fails, for example for lack of memory.
        """
        try:
            outputs = self._session.run(self._outputs, {"image": images}, self._run_options)
        except Exception as error:  # onnxruntime's errors have no common base class
            raise PredictionError(f"onnxruntime failed on a batch of shape {list(images.shape)}: {error}") from error
        return [np.asarray(output) for output in outputs]


def _cannot_load(name: str, version: str, error: Exception) -> str:
    if "DeformConv" in str(error) and "NOT_IMPLEMENTED" in str(error):
        return (
            f"{name}: onnxruntime {version} has no deformable convolution: install 1.25 or later, which needs Python "
            "3.11, or use OpenVINO (ppsolo[openvino]) or an export for Paddle"
        )
    return f"{name} cannot be loaded by onnxruntime {version}: {native_reason(error)}"


def _session_options(threads: int, keep_memory: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = keep_memory
    # Otherwise its threads spin after a run and block the cores for others.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _check_choice(device: DeviceChoice, precision: str, has_cuda: bool) -> None:
    """Raise ExportError for a device or a precision that cannot be had."""
    if device.kind == "gpu" and not has_cuda:
        raise ExportError(f"this onnxruntime has no CUDA: {GPU_PACKAGE}, or use device='cpu'")
    if precision not in ("fp32", "fp16"):
        raise ExportError(f"onnxruntime computes in fp32 or fp16, not in {precision}")
    if precision == "fp16" and device.kind != "gpu":
        raise ExportError("fp16 runs on a GPU: add device='gpu', or use precision='fp32'")


def _provider(device: DeviceChoice, keep_memory: bool) -> tuple[str, dict[str, Any]]:
    """Return the execution provider of a device, with its options."""
    if device.kind == "cpu":
        return CPU, {}
    options = {
        "device_id": str(device.number),
        "use_tf32": "0",  # TF32 keeps only 11 of 24 bits
        # An exhaustive search for the best convolution would run again for every image size.
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    if not keep_memory:
        options["arena_extend_strategy"] = "kSameAsRequested"
    return CUDA, options


class OnnxEngine:
    """The whole model with postprocessing. description: see `OnnxSession`."""

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        *,
        device: str = "cpu",
        precision: str = "fp32",
        threads: int | None = None,
        keep_memory: bool = True,
    ):
        """Arguments and errors are those of `OnnxSession`."""
        self._session = OnnxSession(
            model, OUTPUTS, device=device, precision=precision, threads=threads, keep_memory=keep_memory
        )
        self.description = self._session.description

    def run(self, images: np.ndarray) -> DetectionArrays:
        """images: float32 [N, 3, H, W], preprocessed, H and W multiples of 32 -> their instances.

        Every count is -1 if the network's output is not finite.
        """
        return DetectionArrays(*self._session(images))
