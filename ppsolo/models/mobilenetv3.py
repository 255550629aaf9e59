"""MobileNetV3-large backbone with the outputs of the published 448 system."""

from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppsolo.models.layers import FROZEN_BATCH_NORM, ConvNorm, Norm


@dataclass(frozen=True)
class BlockSpec:
    """One inverted residual: kernel size, expanded and output channels, squeeze-excite, activation, stride."""

    kernel: int
    expanded: int
    out: int
    squeeze: bool
    activation: str
    stride: int


# Howard et al., arXiv 1905.02244, table 1.
LARGE = (
    BlockSpec(3, 16, 16, False, "relu", 1),
    BlockSpec(3, 64, 24, False, "relu", 2),
    BlockSpec(3, 72, 24, False, "relu", 1),
    BlockSpec(5, 72, 40, True, "relu", 2),
    BlockSpec(5, 120, 40, True, "relu", 1),
    BlockSpec(5, 120, 40, True, "relu", 1),
    BlockSpec(3, 240, 80, False, "hard_swish", 2),
    BlockSpec(3, 200, 80, False, "hard_swish", 1),
    BlockSpec(3, 184, 80, False, "hard_swish", 1),
    BlockSpec(3, 184, 80, False, "hard_swish", 1),
    BlockSpec(3, 480, 112, True, "hard_swish", 1),
    BlockSpec(3, 672, 112, True, "hard_swish", 1),
    BlockSpec(5, 672, 160, True, "hard_swish", 2),
    BlockSpec(5, 960, 160, True, "hard_swish", 1),
    BlockSpec(5, 960, 160, True, "hard_swish", 1),
)
# Blocks whose expanded features, before the stride, are C2, C3 and C4.
TAPS = (3, 6, 12)
LAST_EXPANSION = 6


def scaled(channels: int, scale: float) -> int:
    """Round `channels * scale` to a multiple of 8, at least 8, and at most a tenth too low."""
    value = channels * scale
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


class SqueezeExcite(nn.Layer):
    """Channel weights in [0, 1] from the global mean. The gate is clip(0.2 x + 0.5, 0, 1): slope 0.2, not 1/6."""

    def __init__(self, channels: int):
        super().__init__()
        self.reduce = nn.Conv2D(channels, channels // 4, 1)
        self.expand = nn.Conv2D(channels // 4, channels, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        gate = self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1))))
        return x * F.hardsigmoid(gate, slope=0.2, offset=0.5)


class InvertedResidual(nn.Layer):
    """1x1 expansion -> depthwise -> squeeze-excite -> 1x1 projection, plus the input if the shapes agree."""

    def __init__(self, in_channels: int, spec: BlockSpec, *, norm: Norm):
        super().__init__()
        self.expand = ConvNorm(
            in_channels,
            spec.expanded,
            1,
            norm=norm,
            activation=spec.activation,
        )
        self.depthwise = ConvNorm(
            spec.expanded,
            spec.expanded,
            spec.kernel,
            stride=spec.stride,
            groups=spec.expanded,
            norm=norm,
            activation=spec.activation,
        )
        self.squeeze_excite = SqueezeExcite(spec.expanded) if spec.squeeze else None
        self.project = ConvNorm(spec.expanded, spec.out, 1, norm=norm, activation=None)
        self.residual = spec.stride == 1 and in_channels == spec.out

    def forward(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """-> (output, expanded features before the depthwise convolution)."""
        expanded = self.expand(x)
        y = self.depthwise(expanded)
        if self.squeeze_excite:
            y = self.squeeze_excite(y)
        y = self.project(y)
        return (x + y if self.residual else y), expanded


class MobileNetV3(nn.Layer):
    """Images [N, 3, H, W] -> C2..C5 at strides 4, 8, 16, 32 with 72, 240, 672, 960 channels (at scale 1).

    C2..C4 are outputs of the first 1x1 convolution in a strided block; C5 is a last 1x1 expansion.
    scale: multiplies every width. norm: see `ConvNorm`.
    """

    def __init__(self, *, scale: float = 1.0, norm: Norm = FROZEN_BATCH_NORM):
        super().__init__()
        channels = scaled(16, scale)
        self.stem = ConvNorm(
            3,
            channels,
            3,
            stride=2,
            norm=norm,
            activation="hard_swish",
        )
        blocks = []
        out_channels = []
        for index, spec in enumerate(LARGE):
            spec = BlockSpec(
                spec.kernel,
                scaled(spec.expanded, scale),
                scaled(spec.out, scale),
                spec.squeeze,
                spec.activation,
                spec.stride,
            )
            block = InvertedResidual(channels, spec, norm=norm)
            blocks.append(block)
            channels = spec.out
            if index in TAPS:
                out_channels.append(spec.expanded)
        self.blocks = nn.LayerList(blocks)
        last = channels * LAST_EXPANSION
        self.last = ConvNorm(channels, last, 1, norm=norm, activation="hard_swish")
        self.out_channels = (*out_channels, last)

    def forward(self, images: paddle.Tensor) -> list[paddle.Tensor]:
        x = self.stem(images)
        features = []
        for index, block in enumerate(self.blocks):
            x, expanded = block(x)
            if index in TAPS:
                features.append(expanded)
        return [*features, self.last(x)]
