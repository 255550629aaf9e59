"""Blocks of every network: norms, convolutions, coordinates, resizing, DropBlock, recomputation.

Deformable convolutions are computed by Paddle's kernel on a GPU, and by gathering on a CPU. All tensors are float32
NCHW unless said otherwise.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.distributed.fleet.utils import recompute

NORMS = ("bn", "sync_bn", "gn")
ACTIVATIONS = {"relu": F.relu, "hard_swish": F.hardswish}


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
        norm: Norm = BATCH_NORM,
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
        self.norm = build_norm(norm, out_channels)
        self.activation = ACTIVATIONS[activation] if activation else None

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.conv(x)
        # Group norm's output, a third of a head layer's memory, is computed again for the gradients.
        recomputes = self.training and isinstance(self.norm, nn.GroupNorm)
        return recomputed(self._finish, x) if recomputes else self._finish(x)

    def _finish(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.norm(x)
        return self.activation(x) if self.activation else x


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


def resize(x: paddle.Tensor, size: Sequence[int] | None = None, *, factor: float | None = None) -> paddle.Tensor:
    """Bilinear resize to size = (height, width), or by a factor that gives whole sides.

    Half-pixel centres, no antialiasing.
    """
    size = None if size is None else list(size)
    return F.interpolate(x, size=size, scale_factor=factor, mode="bilinear", align_corners=False, align_mode=0)


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
    """`drop_block` of 3 x 3 values with fresh random numbers in training, identity otherwise."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if not self.training:
            return x
        return drop_block(x, paddle.rand(x.shape), block_size=3, keep_prob=0.9)


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


class DeformableConv(nn.Layer):
    """Modulated deformable convolution, DCNv2 (Zhu et al., arXiv 1811.11168, eq. 1), one deformable group.

    `offset` predicts for each output pixel 2 k^2 displacements, as (dy, dx) pairs with taps in row-major order, and
    then k^2 modulation logits. It starts at zero: a plain convolution at half strength (sigmoid 0 = 0.5). Input [N,
    in_channels, H, W], output [N, out_channels, H', W'].

    gathers: True: `deformable_conv` computes it; False: Paddle's kernel. None: `deformable_conv` on a CPU in dygraph,
    else the kernel, because a static graph does not know its device.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, bias: bool = False):
        super().__init__()
        self.taps = kernel_size * kernel_size
        self.stride = stride
        self.gathers: bool | None = None
        self.offset = nn.Conv2D(
            in_channels,
            3 * self.taps,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            weight_attr=paddle.ParamAttr(initializer=nn.initializer.Constant(0.0)),
            bias_attr=paddle.ParamAttr(initializer=nn.initializer.Constant(0.0)),
        )
        self.conv = paddle.vision.ops.DeformConv2D(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            bias_attr=None if bias else False,
        )

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        displacement, modulation = paddle.split(self.offset(x), [2 * self.taps, self.taps], axis=1)
        modulation = F.sigmoid(modulation)
        gathers = self.gathers
        if gathers is None:
            gathers = paddle.in_dynamic_mode() and x.place.is_cpu_place()
        if not gathers:
            return self.conv(x, displacement, modulation)
        y = deformable_conv(x, displacement, modulation, self.conv.weight, self.stride)
        return y if self.conv.bias is None else y + self.conv.bias.reshape([1, -1, 1, 1])


def deformable_conv(
    x: paddle.Tensor, displacement: paddle.Tensor, modulation: paddle.Tensor, weight: paddle.Tensor, stride: int
) -> paddle.Tensor:
    """Compute `paddle.vision.ops.deform_conv2d` with "same" padding by gathering pixels and matrix products.

    Paddle's CPU kernel samples one value after another on one core; its gradients take ten times as long again.

    x: float32 [N, C, H, W], N > 0, finite. displacement: [N, 2 k^2, H', W']. modulation: [N, k^2, H', W'].
    weight: [O, C, k, k]. Returns [N, O, H', W']. Where a displacement is not finite, the outputs that use it are not
    finite.
    """
    batch, channels, height, width = sides(x)
    _, _, out_height, out_width = sides(modulation)
    out_channels, _, kernel_size, _ = weight.shape
    # Part by part: the gathered values are 4 k^2 times as large as x. Static graphs use few parts and load faster.
    parts = kernel_size**2 if paddle.in_dynamic_mode() else kernel_size
    taps = kernel_size**2 // parts
    displacement = displacement.reshape([0, parts, taps, 2, -1]).transpose([3, 1, 0, 4, 2])
    modulation = modulation.reshape([0, parts, taps, -1]).transpose([1, 0, 3, 2])
    position = displacement + _plain_positions(out_height, out_width, kernel_size, stride, parts)
    near = _pixels(position, batch, height, width).reshape([parts, -1])
    size = paddle.shape(x)[2:].astype("float32").reshape([2, 1, 1, 1, 1])
    share = recomputed(_shares, position, modulation, size).reshape([parts, -1])
    kernel = weight.transpose([2, 3, 1, 0]).reshape([parts, taps * channels, out_channels])
    pixels = x.transpose([0, 2, 3, 1]).reshape([-1, channels])
    if paddle.in_dynamic_mode():  # otherwise each part would copy the whole
        kernel, pixels = kernel.contiguous(), pixels.contiguous()
    y: Any = 0.0
    for part in zip(paddle.unbind(near), paddle.unbind(share), paddle.unbind(kernel), strict=True):
        y = y + recomputed(_sampled_product, pixels, *part)
    return y.reshape([batch, out_height, out_width, out_channels]).transpose([0, 3, 1, 2])


def _plain_positions(height: int, width: int, kernel_size: int, stride: int, parts: int) -> paddle.Tensor:
    """Return row and column, in the input, of each part's taps for each of height x width outputs.

    Shape: float32 [2, parts, 1, height * width, taps of a part].
    """
    taps = np.stack(np.divmod(np.arange(kernel_size**2), kernel_size)) - kernel_size // 2
    taps = paddle.to_tensor(taps.reshape([2, parts, 1, 1, -1]).astype(np.float32))
    places = paddle.arange(height * width)
    places = paddle.stack([places // width, places % width]).astype("float32")
    return taps + stride * places.reshape([2, 1, 1, -1, 1])


def _pixels(position: paddle.Tensor, batch: int, height: int, width: int) -> paddle.Tensor:
    """Return the indices of the four pixels around each position, counted over all images.

    For a pixel outside, it is another one of the same image. position: [2, parts, batch, places, taps]. Returns int64
    [parts, batch, places, taps, 4].
    """
    row, column = paddle.unbind(paddle.floor(position.detach()).astype("int64"))
    upper = row * width + column
    lower = upper + width
    pixels = paddle.stack([upper, upper + 1, lower, lower + 1], axis=-1).clip(0, height * width - 1)
    return pixels + (paddle.arange(batch) * (height * width)).reshape([-1, 1, 1, 1])


def _shares(position: paddle.Tensor, modulation: paddle.Tensor, size: paddle.Tensor) -> paddle.Tensor:
    """Return the weights of the four pixels around each position, [..., 4]; pixels outside of `size` weigh 0.

    position: see `_pixels`. modulation: its shape without the 2. size: float32 [2, 1, 1, 1, 1], height and width.
    """
    before = paddle.floor(position.detach())
    after = before + 1.0
    way = position - before
    # At a position of exactly -1, pixel 0 weighs 0, but its displacement would get a gradient.
    top, left = paddle.unbind((1.0 - way) * (before >= 0.0).logical_and(before < size).astype("float32"))
    bottom, right = paddle.unbind(way * (position > -1.0).logical_and(after < size).astype("float32"))
    top, bottom = top * modulation, bottom * modulation
    return paddle.stack([top * left, top * right, bottom * left, bottom * right], axis=-1)


def _sampled_product(
    pixels: paddle.Tensor, near: paddle.Tensor, share: paddle.Tensor, kernel: paddle.Tensor
) -> paddle.Tensor:
    """Return the contribution of some taps to all outputs: means of four pixels each, times the kernel.

    pixels: [all pixels, C]. near: int64 [4 taps places], rows of `pixels`. share: [4 taps places].
    kernel: [taps C, O]. Returns [places, O].
    """
    channels, out_channels = pixels.shape[1], kernel.shape[1]
    taps = kernel.shape[0] // channels
    if out_channels < channels:  # multiply first: then there is less to gather
        kernels = kernel.reshape([taps, channels, out_channels]).transpose([1, 0, 2]).reshape([channels, -1])
        products = paddle.matmul(pixels, kernels).reshape([-1, out_channels])
        near = (near.reshape([-1, taps, 4]) * taps + paddle.arange(taps).unsqueeze(-1)).flatten()
        return _weighted_sums(products, near, share, 4 * taps)
    return paddle.matmul(_weighted_sums(pixels, near, share, 4).reshape([-1, taps * channels]), kernel)


def _weighted_sums(rows: paddle.Tensor, index: paddle.Tensor, share: paddle.Tensor, together: int) -> paddle.Tensor:
    """Return weighted sums of `together` rows [all, C] each. index, share: [sums together]. Returns [sums, C]."""
    width = rows.shape[1]
    # `embedding` gathers in half of the time, but a static graph refuses it if the number of rows is open.
    gathered = F.embedding(index, rows) if paddle.in_dynamic_mode() else paddle.gather(rows, index)
    return paddle.matmul(share.reshape([-1, 1, together]), gathered.reshape([-1, together, width])).reshape([-1, width])
