"""The runtime for a configuration on a CPU, and which runtimes are installed."""

import importlib.util
from typing import Literal


def installed(package: str) -> bool:
    """Whether a package can be imported; it is not imported."""
    return importlib.util.find_spec(package) is not None


def best_engine() -> Literal["dygraph", "onnxruntime", "openvino"]:
    """Return the fastest installed engine for a CPU; all engines are exact up to rounding."""
    if installed("onnx"):
        if installed("openvino"):
            return "openvino"
        if installed("onnxruntime"):
            return "onnxruntime"
    return "dygraph"
