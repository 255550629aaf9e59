"""Engines over onnxruntime: a model written by `onnx_graph`, on a CPU or a GPU."""

import os
from collections.abc import Sequence

import numpy as np

from ppsolo.cpu import available_cores, keep_freed_memory, threads_in_words
from ppsolo.deploy.onnx.half import half_precision
from ppsolo.errors import ExportError
from ppsolo.interface import OUTPUTS
from ppsolo.results.postprocess import DetectionArrays

PROVIDERS = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider"}
# TF32 keeps 11 of 24 bits; an exhaustive search for the best convolution would start anew with every size of image.
OPTIONS = {"cpu": {}, "gpu": {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}}


class OnnxSession:
    """A graph in onnxruntime: image batch in, the graph's outputs out.

    description: the runtime, its version, device, precision and threads, in one line.
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
        """Load a model for which `outputs` are to be computed.

        Args:
            model: the file, or its content.
            device: "cpu" or "gpu".
            precision: "fp32", or on a GPU "fp16", in which the network then computes.
            threads: CPU threads for one batch; as many as the process may use if None.
            keep_memory: keep what is freed, in an arena and in the process, for the next batch: a tenth faster, but it
                takes further blocks as mixtures of image sizes come along and gives none back.

        Raises ExportError: onnxruntime or the device is missing, or this is no such model.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise ExportError("this needs the package onnxruntime: pip install 'ppsolo[onnx]'") from error
        if device not in PROVIDERS:
            raise ValueError(f"device is {device!r}, choose one of {', '.join(PROVIDERS)}")
        if PROVIDERS[device] not in onnxruntime.get_available_providers():
            raise ExportError("this onnxruntime has no CUDA: pip install onnxruntime-gpu in its place, or take the CPU")
        if precision not in ("fp32", "fp16"):
            raise ExportError(f"onnxruntime computes in fp32 or fp16, not {precision}")
        if precision == "fp16" and device != "gpu":
            raise ExportError("fp16 runs on a GPU: add device='gpu', or take precision='fp32'")
        threads = threads or available_cores()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = keep_memory
        # Its threads otherwise go on asking for work after a run, and take the cores from what follows.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if keep_memory:
            keep_freed_memory()
        source = model if isinstance(model, bytes) else os.fspath(model)
        name = "the model" if isinstance(model, bytes) else source
        if precision == "fp16":
            source = half_precision(model)
        try:
            providers = [(PROVIDERS[device], OPTIONS[device])]
            self._session = onnxruntime.InferenceSession(source, options, providers=providers)
        except Exception as error:  # onnxruntime's errors have no base class of their own
            raise ExportError(f"{name} cannot be loaded by onnxruntime {onnxruntime.__version__}: {error}") from error
        missing = set(outputs) - {output.name for output in self._session.get_outputs()}
        if missing or [value.name for value in self._session.get_inputs()] != ["image"]:
            raise ExportError(f"{name} is no such graph of ppsolo: it lacks {', '.join(sorted(missing) or ['image'])}")
        self._outputs = list(outputs)
        self.description = f"onnxruntime {onnxruntime.__version__}, {device}, {precision}"
        self.description += f", {threads_in_words(threads)}" if device == "cpu" else ""

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """images: float32 [N, 3, H, W], preprocessed, H and W multiples of 32 -> the outputs in order."""
        return [np.asarray(output) for output in self._session.run(self._outputs, {"image": images})]


class OnnxEngine:
    """The whole model, postprocessing included. description: see `OnnxSession`."""

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        *,
        device: str = "cpu",
        precision: str = "fp32",
        threads: int | None = None,
        keep_memory: bool = True,
    ):
        """As `OnnxSession`."""
        self._session = OnnxSession(
            model, OUTPUTS, device=device, precision=precision, threads=threads, keep_memory=keep_memory
        )
        self.description = self._session.description

    def run(self, images: np.ndarray) -> DetectionArrays:
        """images: float32 [N, 3, H, W], preprocessed, H and W multiples of 32 -> their instances; every count
        is -1 where the network's output is not finite."""
        return DetectionArrays(*self._session(images))
