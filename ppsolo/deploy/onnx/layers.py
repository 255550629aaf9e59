"""The layers of `ppsolo.models.layers` as ONNX nodes: one function per layer, tensors by name.

Every tensor is float32 NCHW unless said otherwise; N, H and W are known only when the graph runs.
"""

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ppsolo.deploy.graph import BATCH_NORMS, folded_weights
from ppsolo.deploy.onnx.writer import OnnxWriter
from ppsolo.models.layers import ConvNorm, DeformableConv

ACTIVATIONS = {F.relu: "Relu", F.hardswish: "HardSwish"}


def conv_norm(
    writer: OnnxWriter, x: str, layer: ConvNorm, at: str, *, coordinates: str | None = None, to: str | None = None
) -> str:
    """Convolution, normalisation, activation; batch norm is folded into the convolution.

    coordinates: [1, 2, H, W], two extra channels for every image. to: the output's name, if there is an activation.
    """
    norm = layer.norm if isinstance(layer.norm, BATCH_NORMS) else None
    if isinstance(layer.conv, DeformableConv):
        x = append(writer, x, coordinates, at) if coordinates else x
        x = deformable_conv(writer, x, layer.conv, f"{at}.conv", norm=norm)
    else:
        x = conv(writer, x, layer.conv, f"{at}.conv", norm=norm, coordinates=coordinates)
    if isinstance(layer.norm, nn.GroupNorm):
        x = group_norm(writer, x, layer.norm, f"{at}.norm")
    return writer.op(ACTIVATIONS[layer.activation], [x], at=at, to=to) if layer.activation else x


def window(layer: nn.Conv2D | paddle.vision.ops.DeformConv2D) -> dict[str, Any]:
    """Return the attributes of a convolution with square kernels."""
    strides, pads = ([side] * 2 if isinstance(side, int) else list(side) for side in (layer._stride, layer._padding))
    return {"kernel_shape": list(layer.weight.shape[2:]), "strides": strides, "pads": pads * 2}


def conv(
    writer: OnnxWriter,
    x: str,
    layer: nn.Conv2D,
    at: str,
    *,
    norm: nn.Layer | None = None,
    coordinates: str | None = None,
    to: str | None = None,
) -> str:
    """Write a convolution with the batch norm behind it.

    coordinates: see `conv_norm`. They get their own convolution: onnxruntime is fast with multiples of 16 channels.
    """
    weight, shift = folded_weights(layer, norm)
    bias = [] if shift is None else [writer.weight(f"{at}.bias", shift)]
    attributes = {**window(layer), "group": layer._groups}
    if not coordinates:
        return writer.op("Conv", [x, writer.weight(f"{at}.weight", weight), *bias], attributes, at=at, to=to)
    own, other = writer.weight(f"{at}.weight", weight[:, :-2]), writer.weight(f"{at}.weight_xy", weight[:, -2:])
    parts = [writer.op("Conv", inputs, attributes, at=at) for inputs in ([x, own, *bias], [coordinates, other])]
    return writer.op("Add", parts, at=at, to=to)


def deformable_conv(
    writer: OnnxWriter,
    x: str,
    layer: DeformableConv,
    at: str,
    *,
    norm: nn.Layer | None = None,
) -> str:
    """Write a modulated deformable convolution with the batch norm behind it."""
    offset = conv(writer, x, layer.offset, f"{at}.offset")
    split = writer.constant([2 * layer.taps, layer.taps])
    displacement, modulation = writer.ops("Split", [offset, split], {"axis": 1}, outputs=2, at=at)
    modulation = writer.op("Sigmoid", [modulation], at=at)
    weight, shift = folded_weights(layer.conv, norm)
    bias = "" if shift is None else writer.weight(f"{at}.conv.bias", shift)
    inputs = [x, writer.weight(f"{at}.conv.weight", weight), displacement, bias, modulation]
    return writer.op("DeformConv", inputs, window(layer.conv), at=at)


def group_norm(writer: OnnxWriter, x: str, norm: nn.GroupNorm, at: str) -> str:
    """Write a group norm as an instance norm: each group of channels is one instance."""
    groups = norm._num_groups
    grouped = writer.op("Reshape", [x, writer.constant([0, groups, -1])], at=at)
    ones, zeros = (writer.constant(np.full(groups, value, np.float32)) for value in (1.0, 0.0))
    normal = writer.op("InstanceNormalization", [grouped, ones, zeros], {"epsilon": norm._epsilon}, at=at)
    normal = writer.op("Reshape", [normal, writer.op("Shape", [x], at=at)], at=at)
    weight, bias = norm.weight.numpy(), norm.bias.numpy()
    if writer.device == "cpu":  # one pass with the activation; onnxruntime would take three
        inputs = [normal, writer.weight(f"{at}.weight", weight[:, None, None, None]), writer.weight(f"{at}.bias", bias)]
        return writer.op("Conv", inputs, {"group": len(weight), "kernel_shape": [1, 1]}, at=at)
    scaled = writer.op("Mul", [normal, writer.weight(f"{at}.weight", weight[:, None, None])], at=at)
    return writer.op("Add", [scaled, writer.weight(f"{at}.bias", bias[:, None, None])], at=at)


def size_of(writer: OnnxWriter, x: str, at: str) -> str:
    """int64 [2]: height and width of x."""
    return writer.op("Shape", [x], {"start": 2, "end": 4}, at=at)


def split(writer: OnnxWriter, size: str, at: str) -> tuple[str, str]:
    """Split `size`, int64 [2], into height and width, int64 [1] each."""
    height, width = writer.ops("Split", [size, writer.constant([1, 1])], {"axis": 0}, outputs=2, at=at)
    return height, width


def resize(writer: OnnxWriter, x: str, size: str, at: str) -> str:
    """Bilinear resize to `size` (int64 [2]: height and width), half-pixel centres."""
    attributes = {"axes": [2, 3], "mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    return writer.op("Resize", [x, "", "", size], attributes, at=at)


def double(writer: OnnxWriter, x: str, at: str, *, mode: str) -> str:
    """Twice the height and width; mode is "nearest" or "linear" (half-pixel centres)."""
    attributes = {"mode": mode, "coordinate_transformation_mode": "half_pixel"}
    if mode == "nearest":
        attributes = {"mode": mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    scales = writer.constant(np.array([1, 1, 2, 2], np.float32))
    return writer.op("Resize", [x, "", scales], attributes, at=at)


def range_of(writer: OnnxWriter, count: str, at: str) -> str:
    """int64 [count]: 0, 1, ..., count - 1; count is int64 [1]. `Range` needs a scalar, but onnxruntime's optimiser
    makes a vector of it if image sides are fixed, and then refuses it."""
    ones = writer.op("Expand", [writer.constant([1]), count], at=at)
    return writer.op("CumSum", [ones, writer.constant(0)], {"exclusive": 1}, at=at)


def coordinates(writer: OnnxWriter, size: str, at: str) -> str:
    """[1, 2, H, W] for size = (H, W): x then y, each from -1 to 1 inclusive."""
    height, width = split(writer, size, at)
    axes = []
    for count, shape in ((width, [1, 1, 1, -1]), (height, [1, 1, -1, 1])):
        steps = range_of(writer, count, at)
        last = writer.op("Max", [writer.op("Sub", [count, writer.constant(1)], at=at), writer.constant(1)], at=at)
        steps, last = (writer.op("Cast", [value], {"to": writer.types.FLOAT}, at=at) for value in (steps, last))
        fraction = writer.op("Mul", [writer.op("Div", [steps, last], at=at), writer.constant(2.0)], at=at)
        centred = writer.op("Sub", [fraction, writer.constant(1.0)], at=at)
        centred = writer.op("Reshape", [centred, writer.constant(shape)], at=at)
        whole = writer.op("Concat", [writer.constant([1, 1]), size], {"axis": 0}, at=at)
        axes.append(writer.op("Expand", [centred, whole], at=at))
    return writer.op("Concat", axes, {"axis": 1}, at=at)


def append(writer: OnnxWriter, x: str, channels: str, at: str) -> str:
    """x [N, C, H, W] and channels [1, K, H, W] for every image -> [N, C + K, H, W]."""
    batch = writer.op("Shape", [x], {"start": 0, "end": 1}, at=at)
    shape = writer.op("Concat", [batch, writer.constant([1, 1, 1])], {"axis": 0}, at=at)
    return writer.op("Concat", [x, writer.op("Expand", [channels, shape], at=at)], {"axis": 1}, at=at)
