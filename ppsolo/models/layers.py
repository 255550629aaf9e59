"""Blocks of every network: convolution with norm, coordinates, resizing, DropBlock.

All tensors are float32 NCHW unless said otherwise.
"""

import math
from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppsolo.models.deformable import DeformableConv
from ppsolo.models.recompute import recomputed
from ppsolo.models.shapes import sides

NORMS = ("bn", "sync_bn", "gn")
ACTIVATIONS = {"relu": F.relu, "hard_swish": F.hardswish}


def build_norm(kind: str, channels: int, *, frozen: bool = False, groups: int = 32) -> nn.Layer:
    """Return a normalisation layer with epsilon 1e-5 (batch norm: running = 0.9 old + 0.1 batch).

    kind: "bn"; "sync_bn", batch norm over all processes (plain batch norm without a GPU, since Paddle has no CPU
    kernel for it); or "gn", group norm with `groups` groups.
    frozen: batch norm that uses its running statistics also in training, and learns neither scale nor bias.
    """
    if kind == "gn":
        return nn.GroupNorm(groups, channels, epsilon=1e-5)
    if kind not in NORMS:
        raise ValueError(f"norm is {kind!r}: choose one of {', '.join(NORMS)}")
    if kind == "sync_bn" and not frozen and paddle.device.get_device().startswith("gpu"):
        norm = nn.SyncBatchNorm(channels, momentum=0.9, epsilon=1e-5)
    else:
        norm = nn.BatchNorm2D(channels, momentum=0.9, epsilon=1e-5, use_global_stats=True if frozen else None)
    if frozen:
        freeze(norm)
    return norm


def freeze(layer: nn.Layer) -> None:
    """Exclude every parameter of `layer` from training; its running statistics are not affected."""
    for parameter in layer.parameters():
        parameter.trainable = False


class ConvNorm(nn.Layer):
    """Convolution ("same" padding, no bias), normalisation, activation.

    deformable: use `DeformableConv`; `dcn_bias` then gives its convolution a bias (PaddleDetection 2.x heads).
    activation: a key of `ACTIVATIONS`, or None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        norm: str = "bn",
        freeze_norm: bool = False,
        norm_groups: int = 32,
        activation: str | None = "relu",
        deformable: bool = False,
        dcn_bias: bool = False,
        init_std: float | None = None,
    ):
        super().__init__()
        if deformable:
            self.conv = DeformableConv(in_channels, out_channels, kernel_size, stride=stride, bias=dcn_bias)
            weight = self.conv.conv.weight
        else:
            self.conv = nn.Conv2D(
                in_channels,
                out_channels,
                kernel_size,
                stride=stride,
                padding=kernel_size // 2,
                groups=groups,
                bias_attr=False,
            )
            weight = self.conv.weight
        # The published backbones start from N(0, 2 / (k^2 C_in)); C_in is the full number even if groups > 1.
        std = init_std if init_std is not None else math.sqrt(2.0 / (kernel_size**2 * in_channels))
        nn.initializer.Normal(0.0, std)(weight)
        self.norm = build_norm(norm, out_channels, frozen=freeze_norm, groups=norm_groups)
        self.activation = ACTIVATIONS[activation] if activation else None

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.conv(x)
        # Group norm's output, a third of a head layer's memory, is computed again for the gradients.
        return recomputed(self._finish, x) if isinstance(self.norm, nn.GroupNorm) else self._finish(x)

    def _finish(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.norm(x)
        return self.activation(x) if self.activation else x


def append_coordinates(x: paddle.Tensor) -> paddle.Tensor:
    """[N, C, H, W] -> [N, C + 2, H, W]: adds x then y, each from -1 to 1 inclusive (SOLO, sec. 3.3 CoordConv)."""
    batch, _, height, width = sides(x)
    xs = paddle.linspace(-1, 1, width, dtype=x.dtype).reshape([1, 1, 1, width])
    ys = paddle.linspace(-1, 1, height, dtype=x.dtype).reshape([1, 1, height, 1])
    shape = [batch, 1, height, width]
    return paddle.concat([x, xs.expand(shape), ys.expand(shape)], axis=1)


def resize(x: paddle.Tensor, size: Sequence[int]) -> paddle.Tensor:
    """Bilinear resize to size = (height, width), half-pixel centres, no antialiasing."""
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=False, align_mode=0)


def rescale(x: paddle.Tensor, factor: float) -> paddle.Tensor:
    """`resize` by a factor; the resulting sides must be whole numbers."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False, align_mode=0)


def drop_block(x: paddle.Tensor, uniform: paddle.Tensor, *, block_size: int, keep_prob: float) -> paddle.Tensor:
    """DropBlock (Ghiasi et al., arXiv 1810.12890, alg. 1), per channel.

    x, uniform: [N, C, H, W]; `uniform` holds random numbers in [0, 1). Blocks of block_size^2 values become zero; the
    others are scaled by (number of values) / (number kept) over the whole batch. Both numbers are computed in float32,
    because float16 ends at 65,504.
    """
    height, width = x.shape[2], x.shape[3]
    gamma = (1.0 - keep_prob) / block_size**2
    for side in (height, width):
        gamma *= side / max(side - block_size + 1, 1)
    with paddle.amp.auto_cast(enable=False):
        seeds = (uniform < gamma).astype("float32")
        keep = 1.0 - F.max_pool2d(seeds, block_size, stride=1, padding=block_size // 2)
        scale = keep.size / keep.sum()
        return x * keep.astype(x.dtype) * scale.astype(x.dtype)


class DropBlock(nn.Layer):
    """`drop_block` with fresh random numbers in training, identity otherwise."""

    def __init__(self, *, block_size: int = 3, keep_prob: float = 0.9):
        super().__init__()
        self.block_size = block_size
        self.keep_prob = keep_prob

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if not self.training:
            return x
        return drop_block(x, paddle.rand(x.shape), block_size=self.block_size, keep_prob=self.keep_prob)
