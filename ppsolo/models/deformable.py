"""Deformable convolution, in Paddle's own kernel on a GPU and by its gather and matrix product on a CPU."""

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.distributed.fleet.utils import recompute

_GATHERED = 2**24  # values that are gathered at once


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
        arguments = (x, displacement, modulation, self.conv.weight, self.stride)
        if self.training and not self.conv.weight.stop_gradient:
            # What is gathered is 4 k^2 times as large as x: it is gathered again for the gradients, and not kept.
            y = recompute(deformable_conv, *arguments, preserve_rng_state=False)
        else:
            y = deformable_conv(*arguments)
        return y if self.conv.bias is None else y + self.conv.bias.reshape([1, -1, 1, 1])


def deformable_conv(
    x: paddle.Tensor, displacement: paddle.Tensor, modulation: paddle.Tensor, weight: paddle.Tensor, stride: int
) -> paddle.Tensor:
    """`paddle.vision.ops.deform_conv2d` with "same" padding, by gathering pixels and by matrix products.

    Paddle's CPU kernel samples value after value on one core; its gradients take ten times as long again.

    x: [N, C, H, W]. displacement: [N, 2 k^2, H', W']. modulation: [N, k^2, H', W']. weight: [O, C, k, k].
    Returns [N, O, H', W']. A displacement that is not finite makes the outputs that it is for not finite.
    """
    batch, channels, height, width = x.shape
    out_channels, _, kernel_size, _ = weight.shape
    taps = kernel_size * kernel_size
    out_height, out_width = modulation.shape[2:]
    places = out_height * out_width
    displacement = displacement.reshape([batch, taps, 2, places]).transpose([0, 3, 1, 2])
    rows, columns = _plain_positions(out_height, out_width, kernel_size, stride)
    row, row_weight = _neighbours(displacement[..., 0] + rows, height)
    column, column_weight = _neighbours(displacement[..., 1] + columns, width)
    row_weight = row_weight * modulation.reshape([batch, taps, places, 1]).transpose([0, 2, 1, 3])
    pixel = row.unsqueeze(-1) * width + column.unsqueeze(-2)  # [N, places, taps, 2, 2]
    pixel = pixel.astype("int32").clip(0, height * width - 1)
    share = row_weight.unsqueeze(-1) * column_weight.unsqueeze(-2)

    kernel = weight.transpose([2, 3, 1, 0]).reshape([taps * channels, out_channels])
    step = max(1, _GATHERED // (4 * taps * channels))
    results = []
    for i in range(batch):
        pixels = x[i].reshape([channels, height * width]).transpose([1, 0]).contiguous()
        parts = []
        for start in range(0, places, step):
            size = min(step, places - start)
            near = paddle.gather(pixels, pixel[i, start : start + size].reshape([-1]))
            near = near.reshape([size * taps, 4, channels])
            sampled = paddle.matmul(share[i, start : start + size].reshape([size * taps, 1, 4]), near)
            parts.append(paddle.matmul(sampled.reshape([size, taps * channels]), kernel))
        results.append(paddle.concat(parts).transpose([1, 0]))
    return paddle.stack(results).reshape([batch, out_channels, out_height, out_width])


def _plain_positions(height: int, width: int, kernel_size: int, stride: int) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Row and column in the input of each tap for each of height x width outputs: float32 [height * width, k^2]."""
    taps = np.arange(kernel_size) - kernel_size // 2
    rows = stride * np.arange(height).repeat(width)[:, None] + taps.repeat(kernel_size)
    columns = stride * np.tile(np.arange(width), height)[:, None] + np.tile(taps, kernel_size)
    return paddle.to_tensor(rows.astype(np.float32)), paddle.to_tensor(columns.astype(np.float32))


def _neighbours(position: paddle.Tensor, size: int) -> tuple[paddle.Tensor, paddle.Tensor]:
    """The two of `size` pixels around each position, and their shares, which are zero outside.

    position: [...]. Returns two of [..., 2].
    """
    lower = paddle.floor(position)
    way = (position - lower).unsqueeze(-1)
    neighbours = paddle.stack([lower, lower + 1.0], axis=-1)
    pixels = neighbours.clip(0, size - 1)
    # A position of exactly -1 has a zero share of pixel 0, but would give its displacement a gradient.
    reached = (pixels == neighbours).logical_and((position > -1.0).unsqueeze(-1))
    return pixels, paddle.concat([1.0 - way, way], axis=-1) * reached.astype(position.dtype)
