"""Group norms in a graph of OpenVINO, written so that values keep their layout; for networks in int8."""

from typing import Any

import numpy as np


def flatten_group_norms(graph: Any) -> Any:
    """Write each group norm with means and products of maps [N, C, H, W]; change the graph, and return it.

    The reader makes it a norm of [N, groups, pixels]. For that, OpenVINO moves all values: behind a convolution, the
    channels of a pixel are neighbours.
    """
    for operation in graph.get_ordered_ops():
        if operation.get_type_name() == "GroupConvolution":
            _flatten(operation)
    return graph


def _flatten(scale: Any) -> None:
    """Flatten a norm, if `scale` is the product with its weights."""
    from openvino import opset8

    chain = [scale]
    for name in ("Reshape", "Add", "Multiply", "MVN", "Reshape"):  # the sum and the product change nothing
        chain.append(chain[-1].input_value(0).get_node())
        if chain[-1].get_type_name() != name:
            return
    norm, grouped = chain[-2:]
    place = scale.get_friendly_name()  # quantization finds the parts of norms by their names
    # A power of 1 changes nothing, but keeps int8 apart: OpenVINO 2026.4 else multiplies by the scale of int8 twice.
    x = opset8.power(grouped.input_value(0), np.float32(1), name=f"{place}/input")
    groups = grouped.get_output_partial_shape(0)[1].get_length()
    share = x.get_output_partial_shape(0)[1].get_length() // groups
    shares = np.full((groups, share, share, 1, 1), 1 / share, np.float32)

    def mean(values: Any, name: str) -> Any:
        """Return the mean of each channel's group: [N, C, 1, 1]."""
        own = opset8.reduce_mean(values, np.array([2, 3]), True, name=f"{place}/{name}_of_channels")
        return opset8.group_convolution(own, shares, [1, 1], [0, 0], [0, 0], [1, 1], name=f"{place}/{name}")

    centred = opset8.subtract(x, mean(x, "mean"), name=f"{place}/centred")
    variance = mean(opset8.multiply(centred, centred, name=f"{place}/squares"), "variance")
    variance = opset8.add(variance, np.float32(norm.get_attributes()["eps"]), name=f"{place}/increased")
    weight = opset8.reshape(scale.input_value(1), np.array([1, -1, 1, 1]), False, name=f"{place}/weight")
    factor = opset8.divide(weight, opset8.sqrt(variance, name=f"{place}/deviation"), name=f"{place}/factor")
    scaled = opset8.multiply(centred, factor, name=f"{place}/scaled")
    scale.output(0).replace(scaled.output(0))
