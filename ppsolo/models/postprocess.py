"""From raw predictions to instances: points NMS, dynamic mask convolution, mask scoring, Matrix NMS."""

import itertools
from typing import NamedTuple

import paddle
import paddle.nn.functional as F

from ppsolo.interface import EQUAL_SCORES
from ppsolo.models.layers import sides
from ppsolo.models.solov2 import RawPredictions

NMS_KERNELS = ("gaussian", "linear")
MASK_STRIPS = 8  # mask features have a multiple of 8 rows, because padded images have a multiple of 32


class Detections(NamedTuple):
    """The M instances of a batch of N images: image by image, best first; equal scores have no defined order.

    scores: float32 [M], in [0, 1]. labels: int64 [M], 0-based. masks: float32 [M, H/4, W/4], probabilities on the
    padded input. counts: int64 [N], number of instances of each image; their sum is M.
    """

    scores: paddle.Tensor
    labels: paddle.Tensor
    masks: paddle.Tensor
    counts: paddle.Tensor


def points_nms(scores: paddle.Tensor) -> paddle.Tensor:
    """Set a score to zero if the cell's upper, left or upper-left neighbour has a higher one, class by class.

    scores: [N, C, S, S]. It is a 2x2 maximum, as in the published code; SOLOv2 sec. 3.3 does not say the window.
    """
    size = scores.shape[2:]
    peaks = F.max_pool2d(scores, 2, stride=1, padding=1)[:, :, : size[0], : size[1]]
    return scores * (peaks - scores <= EQUAL_SCORES).astype(scores.dtype)


def matrix_nms(
    scores: paddle.Tensor,
    labels: paddle.Tensor,
    masks: paddle.Tensor,
    *,
    kernel: str = "gaussian",
    sigma: float = 2.0,
) -> paddle.Tensor:
    """Decayed scores [..., n] of candidates sorted by falling score (SOLOv2 sec. 3.3, eq. 4 and 5).

    scores: float32 [..., n]. labels: int64 [..., n]. masks: float32 [..., n, pixels] of zeros and ones.
    Every better instance of the same class decays an instance by exp(-sigma iou^2) or 1 - iou. The factor is divided by
    the same function of the better instance's own largest overlap with a still better one.
    """
    if kernel not in NMS_KERNELS:
        raise ValueError(f"matrix NMS kernel is {kernel!r}: choose one of {', '.join(NMS_KERNELS)}")
    areas = masks.sum(axis=-1)
    intersection = paddle.matmul(masks, masks, transpose_y=True)
    union = (areas.unsqueeze(-2) - (intersection - areas.unsqueeze(-1))).clip(min=1.0)
    same_class = (labels.unsqueeze(-2) == labels.unsqueeze(-1)).astype(masks.dtype)
    # iou[..., i, j]: overlap of j with a better i, zero on and below the diagonal.
    iou = paddle.triu(intersection / union * same_class, diagonal=1)
    compensation = iou.max(axis=-2).unsqueeze(-1)
    if kernel == "gaussian":
        decay = paddle.exp(sigma * (compensation**2 - iou**2))
    else:
        # An exact copy of a better mask must not decay others: its own factor is 1 / 0.
        decay = (1.0 - iou) / (1.0 - compensation).clip(min=1e-6)
    return scores * decay.min(axis=-2)


class SOLOv2Postprocess:
    """RawPredictions of a batch -> its `Detections`, in operations that can be traced into a static graph.

    In each step all images have as many slots as the fullest image needs, at least one. Empty slots have the score -1.
    Images do not affect each other.

    score_threshold: least score of a cell, after points NMS. mask_threshold: least probability of a foreground pixel.
    pre_nms_top_n: number of candidates, best first, for Matrix NMS. update_threshold: least decayed score of a result.
    max_instances: largest number of results. strides: per level, the area in stride-4 pixels that a mask must exceed.
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

    def __call__(self, raw: RawPredictions) -> Detections:
        scores, kernels, strides = self._candidates(raw)

        # One mask per slot, for any number of classes: [N K, h w]. Only this tensor holds every slot:
        # 1 GB for 3,872 cells and masks of 200 x 336. Parts of the product would round differently.
        logits = paddle.matmul(kernels, raw.mask_features.flatten(start_axis=2)).flatten(stop_axis=1)
        maps = logits.reshape([-1, *sides(raw.mask_features)[2:]])
        maskness = self._mask_scores(maps, strides.flatten())
        pairs = scores * maskness.reshape(sides(strides)).unsqueeze(2)

        # The best pairs of slot and class: [N, P].
        classes = raw.category_logits[0].shape[1]
        pairs = pairs.flatten(start_axis=1)
        scores, best = _best(pairs, pairs > 0.0, self.pre_nms_top_n)
        slots, labels = best // classes, best % classes
        masks = F.sigmoid(paddle.gather(logits, _rows(slots, strides)))
        masks = (masks > self.mask_threshold).astype(masks.dtype).reshape([*sides(slots), -1])
        decayed = matrix_nms(scores, labels, masks, kernel=self.nms_kernel, sigma=self.nms_sigma)

        # Survivors: [N, Q].
        survives = paddle.logical_and(scores > 0.0, decayed >= self.update_threshold)
        scores, best = _best(decayed, survives, self.max_instances)
        rows = _rows(_pick(slots, best), strides)
        kept = paddle.nonzero(scores.flatten() >= 0.0).flatten()
        # Reshape before the gather: Paddle 2 cannot reshape its result if it is empty.
        return Detections(
            scores=paddle.gather(scores.flatten(), kept),
            labels=paddle.gather(_pick(labels, best).flatten(), kept),
            masks=F.sigmoid(paddle.gather(maps, paddle.gather(rows, kept))),
            counts=(scores >= 0.0).astype("int64").sum(axis=1),
        )

    def _candidates(self, raw: RawPredictions) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        """Return the K best cells: scores [N, K, C], zero up to the threshold, kernels [N, K, E] and strides [N, K]."""
        # Levels, then cells in row-major order: [N, cells, C] and [N, cells, E].
        scores = paddle.concat([_cells_last(points_nms(F.sigmoid(x))) for x in raw.category_logits], axis=1)
        kernels = paddle.concat([_cells_last(x) for x in raw.kernels], axis=1)
        strides = paddle.concat(
            [
                paddle.full([x.shape[2] * x.shape[3]], float(stride), dtype=scores.dtype)
                for x, stride in zip(raw.category_logits, self.strides, strict=True)
            ]
        )
        highest = scores.max(axis=2)
        _, cells = _best(highest, highest > self.score_threshold, scores.shape[1])
        scores = _pick(scores, cells)
        scores = scores * (scores > self.score_threshold).astype(scores.dtype)
        return scores, _pick(kernels, cells), paddle.gather(strides, cells.flatten()).reshape(sides(cells))

    def _mask_scores(self, maps: paddle.Tensor, strides: paddle.Tensor) -> paddle.Tensor:
        """Maskness (SOLOv2 sec. 3.3): the mean probability inside each mask; zero if the mask is too small.

        maps: mask logits [masks, h, w]. strides: [masks]. Returns [masks]. Strips of rows save memory. Each row is
        summed up
        first: a running float32 sum of 100,000 values is wrong by more than 1e-4.
        """
        height = sides(maps)[1]
        # The number of strips is fixed, so a static graph needs no loop. A low map is one strip.
        low = isinstance(height, int) and height < MASK_STRIPS
        bounds = [0, height] if low else [height * i // MASK_STRIPS for i in range(MASK_STRIPS + 1)]
        areas, within = [], []  # for each strip: [masks, rows]
        for top, bottom in itertools.pairwise(bounds):
            probabilities = F.sigmoid(maps[:, top:bottom])
            inside = (probabilities > self.mask_threshold).astype(probabilities.dtype)
            areas.append(inside.sum(axis=2))
            within.append((probabilities * inside).sum(axis=2))
        area = paddle.concat(areas, axis=1).sum(axis=1)
        means = paddle.concat(within, axis=1).sum(axis=1) / area.clip(min=1.0)
        return means * (area > strides).astype(means.dtype)


def _cells_last(x: paddle.Tensor) -> paddle.Tensor:
    """[N, C, S, S] -> [N, S S, C]."""
    return x.flatten(start_axis=2).transpose([0, 2, 1])


def _best(values: paddle.Tensor, taken: paddle.Tensor, limit: int) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Return the best taken values of each row, at most `limit`, and their positions: [N, X] -> two of [N, Y], best
    first.

    Y is the number that the fullest row needs, at least 1. Empty places have the value -1. Values are not negative.
    """
    needed = taken.astype("int64").sum(axis=1).max().clip(1, limit)
    return paddle.topk(paddle.where(taken, values, paddle.full_like(values, -1.0)), needed, axis=1)


def _pick(x: paddle.Tensor, index: paddle.Tensor) -> paddle.Tensor:
    """x [N, X, ...] -> [N, Y, ...]: the positions index [N, Y] of each image."""
    picked = paddle.gather(x.flatten(stop_axis=1), _rows(index, x))
    return picked.reshape([*sides(index), *sides(x)[2:]])


def _rows(index: paddle.Tensor, x: paddle.Tensor) -> paddle.Tensor:
    """Turn positions [N, Y] within the images of x [N, X, ...] into positions over all images, [N Y]."""
    images, size = sides(x)[:2]
    return (index + size * paddle.arange(images, dtype=index.dtype).unsqueeze(1)).flatten()
