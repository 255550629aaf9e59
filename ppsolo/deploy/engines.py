"""The runtime for a configuration on a CPU, and which runtimes are installed."""

import functools
import importlib.util
from typing import Literal


def installed(package: str) -> bool:
    """Whether a package can be imported; it is not imported."""
    return importlib.util.find_spec(package) is not None


def best_engine(*, deformable: bool = False) -> Literal["dygraph", "onnxruntime", "openvino"]:
    """Return the fastest installed engine for a CPU; all engines are exact up to rounding.

    deformable: whether the network has deformable convolutions, which old versions of onnxruntime lack.
    """
    if installed("onnx"):
        if installed("openvino"):
            return "openvino"
        if installed("onnxruntime") and not (deformable and not has_deformable_convolution()):
            return "onnxruntime"
    return "dygraph"


@functools.cache
def has_deformable_convolution() -> bool:
    """Whether the installed onnxruntime computes deformable convolutions: it is asked with a tiny graph."""
    import onnxruntime

    from ppsolo.deploy.onnx.writer import OnnxWriter

    writer = OnnxWriter()
    inputs = [writer.value(name, writer.types.FLOAT, [1, size, 1, 1]) for name, size in (("x", 1), ("w", 1), ("o", 2))]
    outputs = [writer.value(writer.op("DeformConv", ["x", "w", "o"], to="y"), writer.types.FLOAT, [1, 1, 1, 1])]
    model = writer.model(name="probe", inputs=inputs, outputs=outputs, metadata={})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # onnxruntime's errors have no common base class
        return False
    return True
