"""The SOLOv2 network: images in, raw predictions out."""

from typing import NamedTuple

import paddle
from paddle import nn


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
