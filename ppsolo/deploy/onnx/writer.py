"""A writer of ONNX graphs: stores nodes and weights in the order of the calls.

Not `onnxscript`'s GraphBuilder: for the same calls it brings two more packages.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppsolo.deploy.directory import Device
from ppsolo.errors import ExportError
from ppsolo.text import needed_package

if TYPE_CHECKING:
    import onnx

# DeformConv needs 19. onnxruntime's CUDA kernels that are registered "from version N on" serve an operator only if its
# last change is N: in set 20, ReduceMax and ReduceMin would run on the CPU.
OPSETS = {"cpu": 20, "gpu": 19}
# The file format that belongs to these operator sets; older runtimes refuse newer ones.
IR_VERSION = 9


class OnnxWriter:
    """One graph being written. Tensors are known by their names, plain strings.

    A node is named after its layer (`at`), which makes profiles and errors readable.

    device: "cpu" or "gpu"; the writer prefers operators that are fast on it. types: the element types by name, such as
        `types.FLOAT`. value: makes the description of an input or output from its name, type and shape.
    """

    def __init__(self, device: Device = "cpu") -> None:
        try:
            import onnx.helper
            import onnx.numpy_helper
        except ImportError as error:
            raise ExportError(f"writing ONNX needs {needed_package(error, 'onnx', 'onnx')}") from None
        self.device = device
        self.types = onnx.TensorProto
        self.value = onnx.helper.make_tensor_value_info
        self._make_node = onnx.helper.make_node
        self._from_array = onnx.numpy_helper.from_array
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._names: set[str] = set()

    def op(
        self,
        kind: str,
        inputs: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
        *,
        at: str = "",
        to: str | None = None,
    ) -> str:
        """Write a node with one output and return the output's name.

        kind: the ONNX operator. inputs: names, "" for an omitted one. at: the layer's name. to: the output's name.
        """
        return self.ops(kind, inputs, attributes, outputs=1, at=at, to=None if to is None else (to,))[0]

    def ops(
        self,
        kind: str,
        inputs: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
        *,
        outputs: int,
        at: str = "",
        to: Sequence[str] | None = None,
    ) -> tuple[str, ...]:
        """Write a node with several outputs; see `op`."""
        name = self._unique(f"{at}.{kind}" if at else kind)
        results = tuple(to) if to else (name, *(f"{name}:{index}" for index in range(1, outputs)))
        self._nodes.append(self._make_node(kind, list(inputs), list(results), name=name, **(attributes or {})))
        return results

    def weight(self, name: str, array: np.ndarray) -> str:
        """Store a learned array under a name; the layer's path makes it unique. A layer used twice stores it once."""
        if name not in self._names:
            self._weights.append(self._from_array(np.ascontiguousarray(array), self._unique(name)))
        return name

    def constant(self, value: np.ndarray | Sequence[int] | int | float) -> str:
        """Store a constant: an array unchanged, integers as int64, a float as float32; equal ones only once."""
        array = np.asarray(value)
        if not isinstance(value, np.ndarray):
            array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.weight(f"constant{len(self._constants)}", array)
        return self._constants[key]

    def body(
        self,
        name: str,
        inputs: Sequence["onnx.ValueInfoProto"],
        outputs: Sequence["onnx.ValueInfoProto"],
        write: Callable[[], None],
    ) -> "onnx.GraphProto":
        """Let `write` write nodes as the body of a loop; it may use earlier tensors."""
        import onnx.helper

        outer, self._nodes = self._nodes, []
        write()
        graph = onnx.helper.make_graph(self._nodes, name, list(inputs), list(outputs))
        self._nodes = outer
        return graph

    def model(
        self,
        *,
        name: str,
        inputs: Sequence["onnx.ValueInfoProto"],
        outputs: Sequence["onnx.ValueInfoProto"],
        metadata: Mapping[str, str],
    ) -> "onnx.ModelProto":
        """Return the graph as a checked model. `metadata` becomes its properties."""
        import onnx

        graph = onnx.helper.make_graph(self._nodes, name, list(inputs), list(outputs), initializer=self._weights)
        opsets = [onnx.helper.make_opsetid("", OPSETS[self.device])]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="ppsolo")
        onnx.helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model)
        return model

    def _unique(self, name: str) -> str:
        unique, count = name, 1
        while unique in self._names:
            count += 1
            unique = f"{name}.{count}"
        self._names.add(unique)
        return unique
