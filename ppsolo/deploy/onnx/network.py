"""The network as ONNX nodes: backbones, FPN, mask-feature head and SOLOv2 head, one function per layer."""

from collections.abc import Sequence
from typing import NamedTuple, cast

from paddle import nn

from ppsolo.deploy.onnx import layers
from ppsolo.deploy.onnx.writer import OnnxWriter
from ppsolo.models.fpn import FPN
from ppsolo.models.layers import ConvNorm
from ppsolo.models.mobilenetv3 import TAPS, InvertedResidual, MobileNetV3, SqueezeExcite
from ppsolo.models.resnet import Bottleneck, ResNet
from ppsolo.models.solov2 import MaskFeatureHead, SOLOv2, SOLOv2Head


class RawNames(NamedTuple):
    """The names of the tensors of `RawPredictions`."""

    category_logits: list[str]
    kernels: list[str]
    mask_features: str


def network(writer: OnnxWriter, image: str, model: SOLOv2) -> RawNames:
    """image [N, 3, H, W] -> raw predictions."""
    if isinstance(model.backbone, ResNet):
        features = resnet(writer, image, model.backbone, "backbone")
    else:
        features = mobilenetv3(writer, image, cast(MobileNetV3, model.backbone), "backbone")
    pyramid = fpn(writer, features, cast(FPN, model.neck), "neck")
    head = cast(SOLOv2Head, model.head)
    levels = range(len(head.num_grids))
    outputs = RawNames(
        [f"category_logits{level}" for level in levels], [f"kernels{level}" for level in levels], "mask_features"
    )
    solov2_head(writer, pyramid, head, outputs, "head")
    mask_feature_head(
        writer, pyramid[:4], cast(MaskFeatureHead, model.mask_feature_head), outputs.mask_features, "mask_feature_head"
    )
    return outputs


def sequence(writer: OnnxWriter, x: str, blocks: nn.Layer, at: str, *, coordinates: str | None = None) -> str:
    """Write `ConvNorm` blocks one after another. coordinates: see `layers.conv_norm`, for the first one."""
    for index, block in enumerate(blocks.children()):
        x = layers.conv_norm(
            writer, x, cast(ConvNorm, block), f"{at}.{index}", coordinates=None if index else coordinates
        )
    return x


def resnet(writer: OnnxWriter, image: str, backbone: ResNet, at: str) -> list[str]:
    """image -> C2..C5."""
    x = sequence(writer, image, backbone.stem, f"{at}.stem")
    x = writer.op("MaxPool", [x], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, at=at)
    features = []
    for stage, blocks in enumerate(backbone.stages):
        for index, block in enumerate(blocks.children()):
            x = bottleneck(writer, x, cast(Bottleneck, block), f"{at}.stages.{stage}.{index}")
        features.append(x)
    return features


def bottleneck(writer: OnnxWriter, x: str, block: Bottleneck, at: str) -> str:
    """1x1 -> 3x3 -> 1x1, plus the input."""
    residual = x
    if block.shortcut:
        if isinstance(block.shortcut.pool, nn.AvgPool2D):
            # The input's sides are multiples of 32, so no window crosses the edge.
            residual = writer.op("AveragePool", [x], {"kernel_shape": [2, 2], "strides": [2, 2]}, at=f"{at}.shortcut")
        residual = layers.conv_norm(writer, residual, block.shortcut.conv, f"{at}.shortcut.conv")
    for name in ("conv1", "conv2", "conv3"):
        x = layers.conv_norm(writer, x, getattr(block, name), f"{at}.{name}")
    return writer.op("Relu", [writer.op("Add", [x, residual], at=at)], at=at)


def mobilenetv3(writer: OnnxWriter, image: str, backbone: MobileNetV3, at: str) -> list[str]:
    """image -> C2..C5."""
    x = layers.conv_norm(writer, image, backbone.stem, f"{at}.stem")
    features = []
    for index, block in enumerate(backbone.blocks):
        x, expanded = inverted_residual(writer, x, cast(InvertedResidual, block), f"{at}.blocks.{index}")
        if index in TAPS:
            features.append(expanded)
    return [*features, layers.conv_norm(writer, x, backbone.last, f"{at}.last")]


def inverted_residual(writer: OnnxWriter, x: str, block: InvertedResidual, at: str) -> tuple[str, str]:
    """-> (output, expanded features before the depthwise convolution)."""
    expanded = layers.conv_norm(writer, x, block.expand, f"{at}.expand")
    y = layers.conv_norm(writer, expanded, block.depthwise, f"{at}.depthwise")
    if block.squeeze_excite:
        y = squeeze_excite(writer, y, block.squeeze_excite, f"{at}.squeeze_excite")
    y = layers.conv_norm(writer, y, block.project, f"{at}.project")
    return (writer.op("Add", [x, y], at=at) if block.residual else y), expanded


def squeeze_excite(writer: OnnxWriter, x: str, layer: SqueezeExcite, at: str) -> str:
    """x times channel weights from its global mean."""
    mean = writer.op("GlobalAveragePool", [x], at=at)
    reduced = writer.op("Relu", [layers.conv(writer, mean, layer.reduce, f"{at}.reduce")], at=at)
    gate = layers.conv(writer, reduced, layer.expand, f"{at}.expand")
    gate = writer.op("HardSigmoid", [gate], {"alpha": 0.2, "beta": 0.5}, at=at)
    return writer.op("Mul", [x, gate], at=at)


def fpn(writer: OnnxWriter, features: Sequence[str], neck: FPN, at: str) -> list[str]:
    """C2..C5 -> P2..P6."""
    merged = [
        layers.conv(writer, feature, cast(nn.Conv2D, lateral), f"{at}.laterals.{level}")
        for level, (feature, lateral) in enumerate(zip(features, neck.laterals, strict=True))
    ]
    for level in range(len(merged) - 1, 0, -1):
        coarse = layers.double(writer, merged[level], at, mode="nearest")
        merged[level - 1] = writer.op("Add", [merged[level - 1], coarse], at=at)
    pyramid = [
        layers.conv(writer, x, cast(nn.Conv2D, output), f"{at}.outputs.{level}")
        for level, (x, output) in enumerate(zip(merged, neck.outputs, strict=True))
    ]
    return [*pyramid, writer.op("MaxPool", [pyramid[-1]], {"kernel_shape": [1, 1], "strides": [2, 2]}, at=at)]


def mask_feature_head(writer: OnnxWriter, pyramid: Sequence[str], head: MaskFeatureHead, to: str, at: str) -> None:
    """P2..P5 -> mask features, under the name `to`."""
    *finer, coarsest = pyramid
    coordinates = layers.coordinates(writer, layers.size_of(writer, coarsest, at), at)
    finest, *towers = head.levels
    # Maps of P3's size are added first and doubled once: both operations are linear.
    total = ""
    for level, (x, tower) in enumerate(zip([*finer[1:], coarsest], towers, strict=True), start=1):
        for index, block in enumerate(tower.children()):
            if index > 0:
                x = layers.double(writer, x, f"{at}.levels.{level}.{index}", mode="linear")
            places = coordinates if x == coarsest else None
            x = layers.conv_norm(writer, x, cast(ConvNorm, block), f"{at}.levels.{level}.{index}", coordinates=places)
        total = writer.op("Add", [total, x], at=at) if total else x
    total = layers.double(writer, total, at, mode="linear")
    total = writer.op("Add", [sequence(writer, finer[0], finest, f"{at}.levels.0"), total], at=at)
    layers.conv_norm(writer, total, head.output, f"{at}.output", to=to)


def solov2_head(writer: OnnxWriter, pyramid: Sequence[str], head: SOLOv2Head, to: RawNames, at: str) -> None:
    """P2..P6 -> per level category logits and kernels, under the names of `to`."""
    p2, p3, p4, p5, p6 = pyramid
    # P2's sides are even: halving bilinearly is the mean of 2x2 pixels.
    p2 = writer.op("AveragePool", [p2], {"kernel_shape": [2, 2], "strides": [2, 2]}, at=at)
    p6 = layers.resize(writer, p6, layers.size_of(writer, p5, at), at)
    for level, (x, grid) in enumerate(zip((p2, p3, p4, p5, p6), head.num_grids, strict=True)):
        here = f"{at}.level{level}"
        size = writer.constant([grid, grid])
        features = layers.resize(writer, x, size, here)
        grid_coordinates = layers.resize(
            writer, layers.coordinates(writer, layers.size_of(writer, x, here), here), size, here
        )
        kernel = sequence(writer, features, head.kernel_tower, f"{at}.kernel_tower", coordinates=grid_coordinates)
        layers.conv(writer, kernel, head.kernel, f"{at}.kernel", to=to.kernels[level])
        category = sequence(writer, features, head.category_tower, f"{at}.category_tower")
        layers.conv(writer, category, head.category, f"{at}.category", to=to.category_logits[level])
