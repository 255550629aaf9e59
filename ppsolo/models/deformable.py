"""Deformable convolution: on a GPU and in static graphs by Paddle's kernel, else by gathering and matrix products."""

import math

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ppsolo.models.recompute import recomputed

_GATHERED = 2**22  # values that are gathered at once


class DeformableConv(nn.Layer):
    """Modulated deformable convolution, DCNv2 (Zhu et al., arXiv 1811.11168, eq. 1), one deformable group.

    `offset` predicts, per output pixel, 2 k^2 displacements as (dy, dx) pairs, taps in row-major order, and
    then k^2 logits of the modulation. Starts as a plain convolution at half strength (all zero: sigmoid 0.5).
    Input [N, in_channels, H, W], output [N, out_channels, H', W'].
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, bias: bool = False):
        super().__init__()
        self.taps = kernel_size * kernel_size
        self.stride = stride
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
        if not paddle.in_dynamic_mode() or not x.place.is_cpu_place():
            return self.conv(x, displacement, modulation)
        y = deformable_conv(x, displacement, modulation, self.conv.weight, self.stride)
        return y if self.conv.bias is None else y + self.conv.bias.reshape([1, -1, 1, 1])


def deformable_conv(
    x: paddle.Tensor, displacement: paddle.Tensor, modulation: paddle.Tensor, weight: paddle.Tensor, stride: int
) -> paddle.Tensor:
    """`paddle.vision.ops.deform_conv2d` with "same" padding, by gathering pixels and by matrix products.

    Paddle's CPU kernel samples value after value on one core; its gradients take ten times as long again.

    x: float32 [N, C, H, W], N > 0, finite. displacement: [N, 2 k^2, H', W']. modulation: [N, k^2, H', W'].
    weight: [O, C, k, k]. Returns [N, O, H', W']. A displacement that is not finite makes the outputs that it is for not
    finite.
    """
    batch, channels, height, width = x.shape
    out_channels, _, kernel_size, _ = weight.shape
    out_height, out_width = modulation.shape[2:]
    taps, places = kernel_size * kernel_size, out_height * out_width
    displacement = displacement.reshape([batch, taps, 2, places]).transpose([0, 3, 1, 2])
    positions = displacement + _plain_positions(out_height, out_width, kernel_size, stride)
    modulation = modulation.reshape([batch, taps, places]).transpose([0, 2, 1])
    kernel = weight.transpose([2, 3, 1, 0]).reshape([taps * channels, out_channels])
    # Each part's gradients fill an array of all pixels: none gathers less than there are.
    step = max(1, max(_GATHERED, channels * height * width) // (4 * taps * channels))
    results = []
    for i in range(batch):
        pixels = x[i].reshape([channels, height * width]).transpose([1, 0]).contiguous()
        # What is gathered is up to 4 k^2 times as large as x: for the gradients it is gathered again, a part at a time.
        parts = [
            recomputed(_sampled_product, pixels, (height, width), positions[i, part], modulation[i, part], kernel)
            for part in (slice(start, start + step) for start in range(0, places, step))
        ]
        results.append(paddle.concat(parts).transpose([1, 0]))
    return paddle.stack(results).reshape([batch, out_channels, out_height, out_width])


def _sampled_product(
    pixels: paddle.Tensor,
    size: tuple[int, int],
    positions: paddle.Tensor,
    modulation: paddle.Tensor,
    kernel: paddle.Tensor,
) -> paddle.Tensor:
    """The outputs at some places: bilinear samples at the positions (row, column) of their taps, times the kernel.

    pixels: [H W, C], of size = (H, W). positions: [places, k^2, 2]. modulation: [places, k^2]. kernel: [k^2 C, O].
    Returns [places, O].
    """
    height, width = size
    samples = math.prod(modulation.shape)
    row, row_share = _neighbours(positions[..., 0], height)
    column, column_share = _neighbours(positions[..., 1], width)
    share = (row_share * modulation.unsqueeze(-1)).unsqueeze(-1) * column_share.unsqueeze(-2)
    pixel = (row.unsqueeze(-1) * width + column.unsqueeze(-2)).clip(0, height * width - 1)
    near = paddle.gather(pixels, pixel.reshape([-1])).reshape([samples, 4, pixels.shape[1]])
    sampled = paddle.matmul(share.reshape([samples, 1, 4]), near)
    return paddle.matmul(sampled.reshape([-1, kernel.shape[0]]), kernel)


def _plain_positions(height: int, width: int, kernel_size: int, stride: int) -> paddle.Tensor:
    """Row and column in the input of each tap for each of height x width outputs: float32 [height * width, k^2, 2]."""
    taps = np.arange(kernel_size) - kernel_size // 2
    rows = stride * np.arange(height).repeat(width)[:, None] + taps.repeat(kernel_size)
    columns = stride * np.tile(np.arange(width), height)[:, None] + np.tile(taps, kernel_size)
    return paddle.to_tensor(np.stack([rows, columns], axis=-1).astype(np.float32))


def _neighbours(position: paddle.Tensor, size: int) -> tuple[paddle.Tensor, paddle.Tensor]:
    """The two of `size` pixels around each position, and their shares, which are zero outside.

    position: [...]. Returns two of [..., 2], the former int32.
    """
    lower = paddle.floor(position.detach())
    way = (position - lower).unsqueeze(-1)
    neighbours = paddle.stack([lower, lower + 1.0], axis=-1)
    pixels = neighbours.clip(0, size - 1)
    # A position of exactly -1 has a zero share of pixel 0, but would give its displacement a gradient.
    reached = (pixels == neighbours).logical_and((position > -1.0).unsqueeze(-1))
    return pixels.astype("int32"), paddle.concat([1.0 - way, way], axis=-1) * reached.astype(position.dtype)
