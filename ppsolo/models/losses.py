"""The training criterion: Dice loss of the masks and focal loss of the categories."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import paddle
import paddle.nn.functional as F

from ppsolo.models.solov2 import RawPredictions


class TargetArrays(Protocol):
    """The targets of a batch as numpy arrays, with the names, shapes and meanings of `Targets`."""

    @property
    def category_labels(self) -> Sequence[np.ndarray]: ...
    @property
    def masks(self) -> np.ndarray: ...
    @property
    def mask_index(self) -> np.ndarray: ...
    @property
    def image_index(self) -> np.ndarray: ...
    @property
    def cell_index(self) -> np.ndarray: ...
    @property
    def level_offsets(self) -> np.ndarray: ...
    @property
    def num_positive_cells(self) -> np.ndarray: ...


class Targets(NamedTuple):
    """The targets of N images of H x W pixels. P positives (cells with an instance) use M masks.

    category_labels: per level int64 [N, S S]; 0 is background, class c is c + 1.
    masks: uint8 [M, H/4, W/4], 0 or 1, each instance once.
    mask_index, image_index, cell_index: int64 [P]: each positive's row in `masks`, its image, its cell in its level.
    level_offsets: int64 [levels + 1]; the positives of level l are level_offsets[l]:level_offsets[l + 1].
    num_positive_cells: int64 [N], distinct cells.
    positives_per_image: N Python integers, the only values that must be known without waiting for the device.
    """

    category_labels: list[paddle.Tensor]
    masks: paddle.Tensor
    mask_index: paddle.Tensor
    image_index: paddle.Tensor
    cell_index: paddle.Tensor
    level_offsets: paddle.Tensor
    num_positive_cells: paddle.Tensor
    positives_per_image: tuple[int, ...]

    @staticmethod
    def from_arrays(arrays: TargetArrays) -> "Targets":
        """Copy numpy targets to the current device: all integers in one copy, the masks in another."""
        counts = np.bincount(arrays.image_index, minlength=len(arrays.num_positive_cells))
        integers = [
            *arrays.category_labels,
            arrays.mask_index,
            arrays.image_index,
            arrays.cell_index,
            arrays.level_offsets,
            arrays.num_positive_cells,
        ]
        together = paddle.to_tensor(np.concatenate([array.ravel() for array in integers]).astype(np.int64))
        ends = np.cumsum([array.size for array in integers])
        *labels, masks, images, cells, offsets, positives = (
            together[int(end) - array.size : int(end)].reshape(array.shape) if array.size else paddle.to_tensor(array)
            for end, array in zip(ends, integers, strict=True)
        )
        return Targets(
            category_labels=labels,
            masks=paddle.to_tensor(arrays.masks),
            mask_index=masks,
            image_index=images,
            cell_index=cells,
            level_offsets=offsets,
            num_positive_cells=positives,
            positives_per_image=tuple(int(count) for count in counts),
        )


class Losses(NamedTuple):
    """Scalars, float32: the weighted mask loss, the category loss, and their sum, which training minimises."""

    mask: paddle.Tensor
    category: paddle.Tensor
    total: paddle.Tensor


def focal_loss(logits: paddle.Tensor, positive: paddle.Tensor, *, alpha: float, gamma: float) -> paddle.Tensor:
    """Sigmoid focal loss of every element (Lin et al., arXiv 1708.02002, eq. 5).

    logits: any shape. positive: the same shape, 1 for a class that is present, else 0.
    """
    # `wrong` is the logit of being wrong: 1 - p_t = sigmoid(wrong), -log(p_t) = -log_sigmoid(-wrong). So nothing near
    # 1 is subtracted from 1, and no logarithm gets 0.
    wrong = logits * (1.0 - 2.0 * positive)
    weight = 1.0 - alpha + (2.0 * alpha - 1.0) * positive
    return -weight * F.sigmoid(wrong) ** gamma * F.log_sigmoid(-wrong)


def dice_loss(probabilities: paddle.Tensor, targets: paddle.Tensor) -> paddle.Tensor:
    """Dice loss of every mask (SOLO, arXiv 1912.04488, eq. 5 and 6): two arrays [P, pixels] -> [P].

    Both sums of squares get 0.001 added, as in the published systems.
    """
    common = (probabilities * targets).sum(axis=1)
    return 1.0 - 2.0 * common / (probabilities.square().sum(axis=1) + targets.square().sum(axis=1) + 0.002)


class SOLOv2Criterion:
    """Raw predictions and targets of a batch -> `Losses` (SOLOv2 sec. 3.2.1; SOLO, arXiv 1912.04488, eq. 4).

    category: focal loss summed over all cells and classes, divided by (distinct positive cells + 1).
    mask: `mask_loss_weight` times the mean Dice loss over the positives of all levels and images. Positives with a mask
        that is empty at stride 4 are left out. If none is left, the loss is 0 (the published systems divide 0 by 0).

    Every output of the network gets a gradient, at least zeros, for any batch: distributed training waits forever for a
    parameter without one. Sums are over this process alone, as in the published systems. The loss is computed in
    float32, also in automatic mixed precision. Nothing is read back from the device.
    """

    def __init__(self, *, mask_loss_weight: float = 3.0, focal_alpha: float = 0.25, focal_gamma: float = 2.0):
        self.mask_loss_weight = mask_loss_weight
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma

    def __call__(self, raw: RawPredictions, targets: Targets) -> Losses:
        with paddle.amp.auto_cast(enable=False):
            category = self._category_loss(raw.category_logits, targets)
            mask = self._mask_loss(raw.kernels, raw.mask_features.astype("float32"), targets)
            return Losses(mask, category, mask + category)

    def _category_loss(self, category_logits: Sequence[paddle.Tensor], targets: Targets) -> paddle.Tensor:
        logits = _join_levels(category_logits)  # [N, C, cells]
        labels = paddle.concat(targets.category_labels, axis=1).unsqueeze(1)  # [N, 1, cells]
        classes = paddle.arange(1, logits.shape[1] + 1, dtype=labels.dtype).reshape([1, -1, 1])
        positive = (labels == classes).astype(logits.dtype)
        losses = focal_loss(logits, positive, alpha=self.focal_alpha, gamma=self.focal_gamma)
        return losses.sum() / (targets.num_positive_cells.sum().astype(losses.dtype) + 1.0)

    def _mask_loss(self, kernels: Sequence[paddle.Tensor], features: paddle.Tensor, targets: Targets) -> paddle.Tensor:
        """kernels: per level [N, E, S, S]; features: [N, E, h, w]."""
        all_kernels = _join_levels(kernels)  # [N, E, cells]
        if sum(targets.positives_per_image) == 0:
            return 0.0 * (all_kernels.sum() + features.sum())
        by_image = paddle.argsort(targets.image_index)
        rows = paddle.gather(_kernel_rows(kernels, targets), by_image)
        # [N cells, E] -> [P, E], image by image.
        chosen = paddle.gather(all_kernels.transpose([0, 2, 1]).flatten(0, 1), rows)
        logits = []
        start = 0
        for image, count in enumerate(targets.positives_per_image):
            if count > 0:
                logits.append(paddle.matmul(chosen[start : start + count], features[image].flatten(start_axis=1)))
            start += count
        probabilities = F.sigmoid(paddle.concat(logits))  # [P, h w]
        masks = targets.masks.flatten(start_axis=1).astype(probabilities.dtype)  # [M, h w]
        drawn = paddle.gather(masks, paddle.gather(targets.mask_index, by_image))
        counted = (drawn.sum(axis=1) > 0).astype(drawn.dtype)
        mean = (dice_loss(probabilities, drawn) * counted).sum() / counted.sum().clip(min=1.0)
        return self.mask_loss_weight * mean


def _join_levels(levels: Sequence[paddle.Tensor]) -> paddle.Tensor:
    """[N, C, S, S] of each level -> float32 [N, C, cells of all levels]."""
    return paddle.concat([x.flatten(start_axis=2).astype("float32") for x in levels], axis=2)


def _kernel_rows(kernels: Sequence[paddle.Tensor], targets: Targets) -> paddle.Tensor:
    """int64 [P]: the row of each positive's kernel among the kernels of all images and levels, [N cells, E]."""
    sizes = [x.shape[2] * x.shape[3] for x in kernels]
    first_cells = paddle.to_tensor([sum(sizes[:level]) for level in range(len(sizes))], dtype="int64")
    positives = paddle.arange(targets.cell_index.shape[0], dtype="int64").unsqueeze(1)
    levels = (positives >= targets.level_offsets[1:-1].unsqueeze(0)).astype("int64").sum(axis=1)
    return targets.image_index * sum(sizes) + paddle.gather(first_cells, levels) + targets.cell_index
