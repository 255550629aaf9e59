"""The configuration of a model for NVIDIA Triton, which runs exported ONNX graphs with its onnxruntime backend."""

import re
from collections.abc import Sequence

from ppsolo.deploy.directory import TensorInfo

_TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}


def triton_name(name: str) -> str:
    """Turn a configuration's name into the name of a model and its folder."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".") or "ppsolo"


def triton_config(name: str, shape: Sequence[int], inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> str:
    """Return the text of config.pbtxt. Dimensions include the batch, because instances of a batch are concatenated.

    name: of the model's folder. shape: of the only input, -1 for open sides.
    """
    lines = [f'name: "{name}"', 'backend: "onnxruntime"', "max_batch_size: 0"]
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for tensor in tensors:
            sides = shape if kind == "input" else [side if isinstance(side, int) else -1 for side in tensor.shape]
            lines += [
                f"{kind} [",
                f'  {{ name: "{tensor.name}" data_type: {_TYPES[tensor.dtype]} dims: {list(sides)} }}',
                "]",
            ]
    return "\n".join(lines) + "\n"
