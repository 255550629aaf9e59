"""Networks in OpenVINO: a graph of the network alone, on a CPU, in float32, bfloat16 or int8."""

import io
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppsolo.cpu import default_threads, require_bfloat16, threads_in_words
from ppsolo.errors import ExportError
from ppsolo.text import needed_package

PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoSession:
    """A graph in OpenVINO: takes an image batch, returns the graph's outputs. Batches run one at a time.

    description: runtime, version, device, precision and threads, in one line.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        outputs: Sequence[str],
        *,
        precision: str = "fp32",
        threads: int | None = None,
        quantized: bool = False,
    ):
        """Load a model with exactly these outputs.

        Args:
            model: the file, or its content.
            precision: "fp32" or "bf16"; in the latter, products of bfloat16 are summed up in float32.
            quantized: whether the file holds a network in int8; `precision` is then that of the other layers.
            threads: CPU threads; None: the value of OMP_NUM_THREADS, or else all cores of the process.

        Raises ExportError if OpenVINO is missing, lacks this precision, or cannot load the model.
        """
        if precision not in PRECISIONS:
            raise ExportError(f"OpenVINO computes in {' or '.join(PRECISIONS)} here, not in {precision}")
        if precision == "bf16":
            require_bfloat16()
        try:
            import openvino
        except ImportError as error:
            raise ExportError(f"this needs {needed_package(error, 'openvino', 'openvino')}") from None
        threads = threads or default_threads()
        name = "the model" if isinstance(model, bytes) else os.fspath(model)
        settings = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        core = openvino.Core()
        try:
            graph = read_graph(model)
            names = [output.any_name for output in graph.outputs]
            if names != list(outputs) or [value.any_name for value in graph.inputs] != ["image"]:
                raise ExportError(f"{name} is not a network of ppsolo: its outputs are {', '.join(names)}")
            self._request = core.compile_model(graph, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise ExportError(f"{name} cannot be loaded by OpenVINO {openvino.__version__}: {error}") from error
        self._outputs = range(len(names))
        self._lock = threading.Lock()  # a request stores the outputs of one batch
        version = openvino.__version__.partition("-")[0]
        stated = f"int8 and {precision}" if quantized else precision
        self.description = f"OpenVINO {version}, cpu, {stated}, {threads_in_words(threads)}"

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """images: float32 [N, 3, H, W], preprocessed, H and W multiples of 32 -> the outputs in order."""
        with self._lock:
            self._request.infer({0: np.ascontiguousarray(images)})
            return [self._request.get_output_tensor(index).data.copy() for index in self._outputs]


def read_graph(model: str | os.PathLike[str] | bytes) -> Any:
    """Read a graph from a file or its content. Raises OpenVINO's RuntimeError."""
    import openvino
    from openvino.frontend import ConversionExtension

    core = openvino.Core()
    core.add_extension(ConversionExtension("DeformConv", _deformable_conv))
    return core.read_model(io.BytesIO(model) if isinstance(model, bytes) else Path(model))


def _deformable_conv(node: Any) -> list[Any]:
    """Translate ONNX's DeformConv (one group, no dilation), which OpenVINO's reader lacks."""
    from openvino import opset8

    x, weight, displacement, bias, modulation = (node.get_input(index) for index in range(5))
    pads, strides = node.get_attribute("pads"), node.get_attribute("strides")
    begin, end = list(pads[:2]), list(pads[2:])
    convolved = opset8.deformable_convolution(
        x,
        displacement,
        weight,
        list(strides),
        begin,
        end,
        [1, 1],
        modulation,
        bilinear_interpolation_pad=True,  # pixels beyond the edge count as zeros
    )
    if bias.get_node().get_type_name() == "NullNode":
        return convolved.outputs()
    shift = opset8.reshape(bias, np.array([1, -1, 1, 1]), False)
    return opset8.add(convolved, shift).outputs()
