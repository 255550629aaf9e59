"""From raw predictions to instances: points NMS, dynamic mask convolution, mask scoring, Matrix NMS."""

from typing import NamedTuple

import paddle
import paddle.nn.functional as F

from ppsolo.models.solov2 import RawPredictions

# The published systems call two scores equal when they differ by less than this.
EQUAL_SCORES = 1e-8
NMS_KERNELS = ("gaussian", "linear")


class Detections(NamedTuple):
    """The instances of one image, best first, equal ones in no defined order; masks at a quarter of the padded input.

    scores: float32 [n], in [0, 1]. labels: int64 [n], 0-based. masks: float32 [n, H/4, W/4], probabilities.
    """

    scores: paddle.Tensor
    labels: paddle.Tensor
    masks: paddle.Tensor


def points_nms(scores: paddle.Tensor) -> paddle.Tensor:
    """Zero every score that its cell's upper, left or upper-left neighbour beats, class by class.

    scores: [N, C, S, S]. A 2x2 maximum as in the published code, where SOLOv2 sec. 3.3 leaves the window open.
    """
    size = scores.shape[2:]
    peaks = F.max_pool2d(scores, 2, stride=1, padding=1)[:, :, : size[0], : size[1]]
    return scores * (peaks - scores < EQUAL_SCORES).astype(scores.dtype)


def matrix_nms(
    scores: paddle.Tensor,
    labels: paddle.Tensor,
    masks: paddle.Tensor,
    *,
    kernel: str = "gaussian",
    sigma: float = 2.0,
) -> paddle.Tensor:
    """Decayed scores [n] of candidates sorted by falling score (SOLOv2 sec. 3.3, eq. 4 and 5).

    scores: float32 [n]. labels: int64 [n]. masks: float32 [n, pixels] of zeros and ones, none empty.
    An instance is decayed by every better one of its class: by exp(-sigma iou^2) or 1 - iou, over the same
    function of that better one's own largest overlap with a still better one.
    """
    if kernel not in NMS_KERNELS:
        raise ValueError(f"matrix NMS kernel is {kernel!r}, choose one of {', '.join(NMS_KERNELS)}")
    areas = masks.sum(axis=1)
    intersection = paddle.matmul(masks, masks, transpose_y=True)
    union = areas.unsqueeze(0) + areas.unsqueeze(1) - intersection
    same_class = (labels.unsqueeze(0) == labels.unsqueeze(1)).astype(masks.dtype)
    # iou[i, j]: overlap of j with the better i, zero on and below the diagonal.
    iou = paddle.triu(intersection / union * same_class, diagonal=1)
    compensation = iou.max(axis=0).unsqueeze(1)
    if kernel == "gaussian":
        decay = paddle.exp(sigma * (compensation**2 - iou**2))
    else:
        # A copy of a better one decays nobody: its own factor is 1 / 0.
        decay = (1.0 - iou) / (1.0 - compensation).clip(min=1e-6)
    return scores * decay.min(axis=0)


class SOLOv2Postprocess:
    """RawPredictions of a batch -> `Detections` of each image.

    score_threshold: cells below it, after points NMS, are no candidates. mask_threshold: where a mask's
    probability is foreground. pre_nms_top_n: how many candidates, best first, reach Matrix NMS.
    update_threshold: the least decayed score that survives. max_instances: how many are kept at most.
    strides: per level, the area in stride-4 pixels that a mask must exceed.
    """

    def __init__(
        self,
        *,
        strides: tuple[int, ...] = (8, 8, 16, 32, 32),
        score_threshold: float = 0.1,
        mask_threshold: float = 0.5,
        update_threshold: float = 0.05,
        pre_nms_top_n: int = 500,
        max_instances: int = 100,
        nms_kernel: str = "gaussian",
        nms_sigma: float = 2.0,
    ):
        self.strides = strides
        self.score_threshold = score_threshold
        self.mask_threshold = mask_threshold
        self.update_threshold = update_threshold
        self.pre_nms_top_n = pre_nms_top_n
        self.max_instances = max_instances
        self.nms_kernel = nms_kernel
        self.nms_sigma = nms_sigma

    def __call__(self, raw: RawPredictions) -> list[Detections]:
        # Levels, then cells in row-major order: [N, cells, C] and [N, cells, E].
        scores = paddle.concat([_cells_last(points_nms(F.sigmoid(x))) for x in raw.category_logits], axis=1)
        kernels = paddle.concat([_cells_last(x) for x in raw.kernels], axis=1)
        strides = paddle.concat(
            [
                paddle.full([x.shape[2] * x.shape[3]], float(stride), dtype=scores.dtype)
                for x, stride in zip(raw.category_logits, self.strides, strict=True)
            ]
        )
        return [
            self._one_image(scores[image], kernels[image], strides, raw.mask_features[image])
            for image in range(scores.shape[0])
        ]

    def _one_image(
        self, scores: paddle.Tensor, kernels: paddle.Tensor, strides: paddle.Tensor, features: paddle.Tensor
    ) -> Detections:
        """scores [cells, C], kernels [cells, E], strides [cells], features [E, h, w] -> Detections."""
        _, height, width = features.shape
        cells = paddle.nonzero(scores.max(axis=1) > self.score_threshold).flatten()
        if cells.shape[0] == 0:
            return _nothing(height, width)

        # One mask a cell, whatever the number of classes that its score passes: [k, h w].
        scores = paddle.gather(scores, cells)
        probabilities = F.sigmoid(paddle.matmul(paddle.gather(kernels, cells), features.flatten(start_axis=1)))
        binary = probabilities > self.mask_threshold
        areas = binary.sum(axis=1).astype(scores.dtype)
        large = (areas > paddle.gather(strides, cells)).astype(scores.dtype)
        inside = paddle.where(binary, probabilities, paddle.zeros_like(probabilities)).sum(axis=1)
        mask_scores = inside / areas.clip(min=1.0)

        candidates = paddle.nonzero((scores > self.score_threshold).astype(scores.dtype) * large.unsqueeze(1))
        if candidates.shape[0] == 0:
            return _nothing(height, width)
        rows, labels = candidates[:, 0], candidates[:, 1]
        # Maskness (SOLOv2 sec. 3.3): the class score times the mean probability inside the mask.
        scores = paddle.gather_nd(scores, candidates) * paddle.gather(mask_scores, rows)

        order = paddle.argsort(scores, descending=True)[: self.pre_nms_top_n]
        scores, labels, rows = (paddle.gather(x, order) for x in (scores, labels, rows))
        masks = (paddle.gather(probabilities, rows) > self.mask_threshold).astype(probabilities.dtype)
        scores = matrix_nms(scores, labels, masks, kernel=self.nms_kernel, sigma=self.nms_sigma)

        order = paddle.argsort(scores, descending=True)[: self.max_instances]
        order = paddle.masked_select(order, paddle.gather(scores, order) >= self.update_threshold)
        if order.shape[0] == 0:
            return _nothing(height, width)
        scores, labels, rows = (paddle.gather(x, order) for x in (scores, labels, rows))
        masks = paddle.gather(probabilities, rows).reshape([-1, height, width])
        return Detections(scores, labels, masks)


def _cells_last(x: paddle.Tensor) -> paddle.Tensor:
    """[N, C, S, S] -> [N, S S, C]."""
    return x.flatten(start_axis=2).transpose([0, 2, 1])


def _nothing(height: int, width: int) -> Detections:
    return Detections(
        paddle.zeros([0], dtype="float32"),
        paddle.zeros([0], dtype="int64"),
        paddle.zeros([0, height, width], dtype="float32"),
    )
