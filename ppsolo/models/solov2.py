"""The SOLOv2 network: its two heads, and the way from images to raw predictions."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import paddle
from paddle import nn

from ppsolo.models.layers import GROUP_NORM, ConvNorm, DropBlock, Norm, append_coordinates, resize, sides


class RawPredictions(NamedTuple):
    """The network's output for a batch of N padded images of H x W pixels.

    category_logits: per level [N, C, S, S], before the sigmoid.
    kernels: per level [N, E, S, S], one 1x1 mask kernel for every cell.
    mask_features: [N, E, H/4, W/4].
    """

    category_logits: list[paddle.Tensor]
    kernels: list[paddle.Tensor]
    mask_features: paddle.Tensor


class SOLOv2(nn.Layer):
    """SOLOv2 (Wang et al., arXiv 2003.10152): backbone, FPN, mask-feature head and SOLOv2 head.

    Train and eval mode give the same output, except for DropBlock and batch statistics.
    """

    def __init__(self, *, backbone: nn.Layer, neck: nn.Layer, mask_feature_head: nn.Layer, head: nn.Layer):
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.mask_feature_head = mask_feature_head
        self.head = head

    def forward(self, images: paddle.Tensor, least_logit: float | None = None) -> RawPredictions | None:
        """images: float32 [N, 3, H, W], normalised, H and W multiples of 32.

        least_logit: stop and return None if all category logits are finite and below. In that case kernels and mask
            features cannot matter. By default all is computed, and the result is never None.
        """
        pyramid = self.neck(self.backbone(images))
        category_logits, kernels = self.head(pyramid, least_logit)
        if not kernels:
            return None
        return RawPredictions(category_logits, kernels, self.mask_feature_head(pyramid[:4]))


class SOLOv2Head(nn.Layer):
    """P2..P6 -> per level the category logits [N, C, S, S] and the kernels [N, E, S, S] (SOLOv2 sec. 3.1, 3.2.1).

    P2 is halved, and P6 resized to P5's size. Coordinates are appended, and each level is resized to its grid S x S.
    The kernel branch gets features and coordinates, the category branch only features. All levels share both towers
    (3x3 convolution, GroupNorm, ReLU).

    channels, num_convs: width and depth of the towers. dcn_layers: 0-based deformable layers of the towers.
    kernel_channels: E, the number of mask-feature channels (kernels are 1x1). num_classes: C, without background.
    drop_block: apply DropBlock(3, keep 0.9) after both towers in training.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 256,
        channels: int = 512,
        num_convs: int = 4,
        kernel_channels: int = 256,
        num_grids: Sequence[int] = (40, 36, 24, 16, 12),
        dcn_layers: Sequence[int] = (),
        dcn_bias: bool = False,
        norm: Norm = GROUP_NORM,
        drop_block: bool = False,
    ):
        super().__init__()
        self.num_grids = tuple(num_grids)
        self.in_channels = in_channels

        def tower(inputs: int) -> nn.Sequential:
            return nn.Sequential(
                *(
                    ConvNorm(
                        inputs if layer == 0 else channels,
                        channels,
                        3,
                        norm=norm,
                        deformable=layer in dcn_layers,
                        dcn_bias=dcn_bias,
                        init_std=0.01,
                    )
                    for layer in range(num_convs)
                )
            )

        def predictor(outputs: int, bias: float) -> nn.Conv2D:
            return nn.Conv2D(
                channels,
                outputs,
                3,
                padding=1,
                weight_attr=paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, 0.01)),
                bias_attr=paddle.ParamAttr(initializer=nn.initializer.Constant(bias)),
            )

        self.category_tower = tower(in_channels)
        self.kernel_tower = tower(in_channels + 2)
        # Every class starts at probability 0.01, so that background does not dominate the focal loss.
        self.category = predictor(num_classes, -math.log(99.0))
        self.kernel = predictor(kernel_channels, 0.0)
        self.drop_block = DropBlock() if drop_block else nn.Identity()

    def forward(
        self, pyramid: Sequence[paddle.Tensor], least_logit: float | None = None
    ) -> tuple[list[paddle.Tensor], list[paddle.Tensor]]:
        """least_logit: do not compute kernels if all category logits are finite and below; their list is then empty."""
        p2, p3, p4, p5, p6 = pyramid
        levels = [resize(p2, factor=0.5), p3, p4, p5, resize(p6, sides(p5)[2:])]
        cells, category_logits, kernels = [], [], []
        # Without least_logit both branches take turns: in training, DropBlock draws its random numbers in this order.
        for level, grid in enumerate(self.num_grids):
            cells.append(resize(append_coordinates(levels[level]), (grid, grid)))
            if least_logit is None:
                kernels.append(self.kernel(self.drop_block(self.kernel_tower(cells[level]))))
            features = self.category_tower(cells[level][:, : self.in_channels])
            category_logits.append(self.category(self.drop_block(features)))
        if least_logit is not None:
            values = [logits.numpy() for logits in category_logits]
            if not all(-np.inf < level.min() and level.max() < least_logit for level in values):
                kernels = [self.kernel(self.drop_block(self.kernel_tower(level))) for level in cells]
        return category_logits, kernels


class MaskFeatureHead(nn.Layer):
    """P2..P5 -> mask features [N, out_channels, H/4, W/4], non-negative (SOLOv2 sec. 3.2.2, fig. 3).

    Level i passes i times (3x3 convolution, GroupNorm, ReLU, bilinear x2); P2 passes one such block without resizing.
    P5 first gets normalised coordinates. The sum passes a last 1x1 block.
    deformable: all of these convolutions are DCNv2, also the last 1x1; `dcn_bias`: see `ConvNorm`.
    """

    def __init__(
        self,
        *,
        in_channels: int = 256,
        mid_channels: int = 128,
        out_channels: int = 256,
        norm: Norm = GROUP_NORM,
        deformable: bool = False,
        dcn_bias: bool = False,
    ):
        super().__init__()

        def block(inputs: int, outputs: int, kernel_size: int) -> ConvNorm:
            return ConvNorm(
                inputs,
                outputs,
                kernel_size,
                norm=norm,
                deformable=deformable,
                dcn_bias=dcn_bias,
                init_std=0.01,
            )

        towers = [nn.Sequential(block(in_channels, mid_channels, 3))]
        for level in range(1, 4):
            inputs = in_channels + 2 if level == 3 else in_channels
            deeper = (block(mid_channels, mid_channels, 3) for _ in range(level - 1))
            towers.append(nn.Sequential(block(inputs, mid_channels, 3), *deeper))
        self.levels = nn.LayerList(towers)
        self.output = block(mid_channels, out_channels, 1)

    def forward(self, pyramid: Sequence[paddle.Tensor]) -> paddle.Tensor:
        finest, *others = [*pyramid[:-1], append_coordinates(pyramid[-1])]
        first, *towers = self.levels
        total = first(finest)
        for x, tower in zip(others, towers, strict=True):
            for block in tower.children():
                x = resize(block(x), factor=2)
            total = total + x
        return self.output(total)
