"""Converts the network of an ONNX model to float16, for GPUs."""

import os
from collections.abc import Container, Iterable, Mapping
from typing import TYPE_CHECKING

from ppsolo.errors import ExportError
from ppsolo.interface import RAW_OUTPUTS
from ppsolo.text import needed_package

if TYPE_CHECKING:
    import onnx

POSTPROCESS = "postprocess."


def half_precision(source: str | os.PathLike[str] | bytes) -> bytes:
    """Return the content of a model, given as file or content, with its network in float16.

    Input, outputs and postprocessing stay float32: areas, overlaps and scores need more than the 11 bits of float16,
    and the network takes nearly all of the time.
    Raises ExportError if onnx or onnxruntime is missing.
    """
    try:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise ExportError(f"fp16 needs {needed_package(error, str(error.name), 'onnx')}") from None
    model = onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(source)
    nodes, outputs = list(model.graph.node), list(model.graph.output)
    rest = [node for node in nodes if node.name.startswith(POSTPROCESS)]
    constants = {constant.name: constant for constant in model.graph.initializer}
    own = {name: onnx.TensorProto.FromString(constants[name].SerializeToString()) for name in _read(rest, constants)}
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend(node for node in nodes if not node.name.startswith(POSTPROCESS))
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in RAW_OUTPUTS
    )
    read = _read(model.graph.node, constants)
    del model.graph.initializer[:]
    model.graph.initializer.extend(constants[name] for name in constants if name in read)
    half = convert_float_to_float16(model, keep_io_types=True)
    del half.graph.output[:]
    half.graph.output.extend(outputs)
    _rename(rest, {name: POSTPROCESS + name for name in own})
    half.graph.node.extend(rest)
    for name, constant in own.items():
        constant.name = POSTPROCESS + name
        half.graph.initializer.append(constant)
    return half.SerializeToString()


def _read(nodes: Iterable["onnx.NodeProto"], constants: Container[str]) -> set[str]:
    """Return the constants that nodes and the bodies of their loops read."""
    names = {name for node in nodes for name in node.input if name in constants}
    return names.union(*(_read(body.node, constants) for body in _bodies(nodes)))


def _rename(nodes: Iterable["onnx.NodeProto"], names: Mapping[str, str]) -> None:
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
    for body in _bodies(nodes):
        _rename(body.node, names)


def _bodies(nodes: Iterable["onnx.NodeProto"]) -> list["onnx.GraphProto"]:
    return [attribute.g for node in nodes for attribute in node.attribute if attribute.HasField("g")]
