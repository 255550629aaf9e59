"""Blocks of every network other than convolutions: norms, coordinates, resizing, DropBlock, recomputation.

All tensors are float32 NCHW unless said otherwise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.distributed.fleet.utils import recompute

NORMS = ("bn", "sync_bn", "gn")


@dataclass(frozen=True)
class Norm:
    """Which normalisation a layer gets.

    kind: "bn"; "sync_bn", batch norm over all processes (plain batch norm without a GPU, since Paddle has no CPU
        kernel for it); or "gn", group norm.
    frozen: batch norm that uses its running statistics also in training, and learns neither scale nor bias.
    groups: of group norm.
    """

    kind: str = "bn"
    frozen: bool = False
    groups: int = 32


BATCH_NORM, FROZEN_BATCH_NORM, GROUP_NORM = Norm(), Norm(frozen=True), Norm("gn")


def build_norm(norm: Norm, channels: int) -> nn.Layer:
    """Return a normalisation layer with epsilon 1e-5 (batch norm: running = 0.9 old + 0.1 batch)."""
    if norm.kind == "gn":
        return nn.GroupNorm(norm.groups, channels, epsilon=1e-5)
    if norm.kind not in NORMS:
        raise ValueError(f"norm is {norm.kind!r}: choose one of {', '.join(NORMS)}")
    if norm.kind == "sync_bn" and not norm.frozen and paddle.device.get_device().startswith("gpu"):
        layer = nn.SyncBatchNorm(channels, momentum=0.9, epsilon=1e-5)
    else:
        layer = nn.BatchNorm2D(channels, momentum=0.9, epsilon=1e-5, use_global_stats=True if norm.frozen else None)
    if norm.frozen:
        freeze(layer)
    return layer


def freeze(layer: nn.Layer) -> None:
    """Exclude every parameter of `layer` from training; its running statistics are not affected."""
    for parameter in layer.parameters():
        parameter.trainable = False


def sides(x: paddle.Tensor) -> list[int]:
    """Return the shape of `x`. In a traced static graph, open sides are tensors; all others are numbers."""
    if paddle.in_dynamic_mode():
        return x.shape
    traced: Any = paddle.unbind(paddle.shape(x))
    return [side if side >= 0 else traced[axis] for axis, side in enumerate(x.shape)]


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


def recomputed(function: Callable[..., paddle.Tensor], *arguments: Any) -> paddle.Tensor:
    """Return function(*arguments) for a function without random numbers, with less memory in training.

    Intermediate results are computed again for the gradients instead of kept. The gradients of one backward
    pass are the same.

    Gradients of parameters that the function uses beyond its arguments go straight into `.grad`. So the gradients of
    several passes are summed in another order, and `paddle.grad` and `paddle.DataParallel` do not see them. A second
    backward pass over the same graph is impossible.
    """
    learned = any(isinstance(argument, paddle.Tensor) and not argument.stop_gradient for argument in arguments)
    if learned and paddle.in_dynamic_mode() and paddle.is_grad_enabled():
        return recompute(function, *arguments, preserve_rng_state=False)
    return function(*arguments)
