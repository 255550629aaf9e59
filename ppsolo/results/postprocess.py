"""Postprocessing in numpy: raw predictions -> detections; work that cannot change the result is skipped."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np

from ppsolo.cpu import single_threaded_products
from ppsolo.errors import PredictionError
from ppsolo.interface import EQUAL_SCORES
from ppsolo.schema import PostprocessConfig

NOT_FINITE = "the network's output is not finite: check its weights and preprocess.mean and std"
_KEPT_VALUES = 2**24  # largest number of stored mask values: thousands of masks would fill the memory
_LEAST_STEP = 32  # cells per block; a product of fewer cells is not faster
_ROWS = 32  # masks per block whose overlaps with all later masks of the class are counted at once
_WORD = 64  # bits counted at once
_STRIP = 2048  # pixels per strip of all masks, so that they stay in the cache; a multiple of _WORD

Result = TypeVar("Result")


class RawArrays(NamedTuple):
    """`ppsolo.models.solov2.RawPredictions` as numpy arrays, all float32.

    category_logits: per level [N, C, S, S]. kernels: per level [N, E, S, S]. mask_features: [N, E, H/4, W/4].
    """

    category_logits: list[np.ndarray]
    kernels: list[np.ndarray]
    mask_features: np.ndarray


class DetectionArrays(NamedTuple):
    """`ppsolo.models.postprocess.Detections` as numpy arrays.

    scores: float32 [M]. labels: int64 [M]. masks: float32 [M, H/4, W/4]. counts: int64 [N], their sum is M.
    """

    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    counts: np.ndarray

    def images(self) -> Iterator["DetectionArrays"]:
        """The detections of each image, as a batch of one."""
        ends = np.cumsum(self.counts)
        for start, end in zip(ends - self.counts, ends, strict=True):
            yield DetectionArrays(
                self.scores[start:end], self.labels[start:end], self.masks[start:end], np.array([end - start])
            )


class Pairs(NamedTuple):
    """The candidates of an image: pairs of a cell and a class. Cell 0 has the best score.

    cells: int64 [P]. labels: int64 [P]. scores: float32 [P], above the threshold, after points NMS.
    """

    cells: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


class Candidates(NamedTuple):
    """The K cells of an image with a candidate, the best score first.

    highest: float32 [K], the best score of each cell, falling. kernels: float32 [K, E].
    strides: int64 [K], the area that a mask must exceed, in mask pixels.
    """

    pairs: Pairs
    highest: np.ndarray
    kernels: np.ndarray
    strides: np.ndarray


class MaskStatistics(NamedTuple):
    """Statistics of K masks.

    probabilities: float32 [K, pixels]; [0, pixels] if not stored. inside: uint64 [K, words], one bit per pixel. areas:
    float64 [K], in pixels. maskness: float64 [K], the mean probability inside each mask (SOLOv2 sec. 3.3).
    """

    probabilities: np.ndarray
    inside: np.ndarray
    areas: np.ndarray
    maskness: np.ndarray


class NumpyPostprocess:
    """`RawArrays` of a batch -> `DetectionArrays`. Gives the result of `SOLOv2Postprocess` with less work.

    The final score of an instance is at most the class score of its cell, because maskness and decay are at most 1.
    Only better instances decay it. So cells are processed by falling class score, block by block. The work stops once
    `max_instances` results beat the upper bound of every remaining cell. Overlaps are counted only within a class.
    """

    def __init__(self, settings: PostprocessConfig, *, threads: int = 1):
        """settings: thresholds and limits. threads: number of threads for one image."""
        self._settings = settings
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        threshold = np.float64(settings.mask_threshold)
        with np.errstate(divide="ignore"):
            self._mask_logit = np.float32(np.log(threshold) - np.log1p(-threshold))

    def __call__(self, raw: RawArrays) -> DetectionArrays:
        """Raises PredictionError if the predictions, or masks made of them, are not finite."""
        with single_threaded_products():
            parts = [self._detect(raw, image) for image in range(len(raw.mask_features))]
        return DetectionArrays(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _detect(self, raw: RawArrays, image: int) -> DetectionArrays:
        """Return the instances of one image of the batch."""
        features = raw.mask_features[image].reshape(raw.mask_features.shape[1], -1)
        _check_finite([float(x[image].sum()) for x in (*raw.category_logits, *raw.kernels)])
        found = find_candidates(raw, image, self._settings)
        if len(found.highest) == 0:  # with candidates, the masks show whether the features are finite
            _check_finite(self._map(lambda strip: float(features[:, strip].sum()), features.shape[1], _STRIP))
        pairs, scores, statistics = self._best(found, features)
        masks = self._masks(found.kernels, features, found.pairs.cells[pairs], statistics)
        return DetectionArrays(
            scores,
            found.pairs.labels[pairs],
            masks.reshape(len(masks), *raw.mask_features.shape[2:]),
            np.array([len(scores)]),
        )

    def _best(self, found: Candidates, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[MaskStatistics]]:
        """Return the surviving pairs, int64 [M], best first; their decayed scores, float32 [M]; and the statistics of
        every processed block of cells."""
        settings, cells = self._settings, len(found.highest)
        statistics: list[MaskStatistics] = []
        maskness = np.zeros(cells, np.float32)
        # The first `max_instances` cells are rarely enough: some masks are too small or duplicates.
        taken, step, least = 0, max(2 * settings.max_instances, _LEAST_STEP), _LEAST_STEP
        while taken < cells:
            block = slice(taken, min(taken + step, cells))
            keep = block.stop * features.shape[1] <= _KEPT_VALUES
            statistics.append(self._mask_statistics(found.kernels[block], features, keep=keep))
            maskness[block] = statistics[-1].maskness * (statistics[-1].areas > found.strides[block])
            taken = block.stop
            # The upper bound of every remaining cell, or zero. Scores above it do not depend on remaining cells.
            bound = found.highest[taken] if taken < cells else np.float32(0.0)
            scores = found.pairs.scores * maskness[found.pairs.cells]
            best = _falling(scores)[: settings.pre_nms_top_n]
            best = best[scores[best] > bound]
            if taken < cells and len(best) < settings.max_instances:
                continue
            decayed = self._matrix_nms(found.pairs, scores, best, statistics)
            certain = np.count_nonzero(decayed > bound)
            if taken < cells and certain < settings.max_instances:
                # Process as many more as needed at the success rate so far; at least twice as many next time.
                likely = (settings.max_instances - certain) * taken // max(certain, 1)
                step, least = max(min(likely, settings.max_instances), least), 2 * least
                continue
            survivors = _falling(decayed)[: settings.max_instances]
            survivors = survivors[decayed[survivors] >= np.float32(settings.update_threshold)]
            return best[survivors], decayed[survivors], statistics
        return np.empty(0, np.int64), np.empty(0, np.float32), statistics

    def _mask_statistics(self, kernels: np.ndarray, features: np.ndarray, *, keep: bool) -> MaskStatistics:
        """Return the statistics of the masks of kernels [K, E] over features [E, pixels], strip by strip.

        keep: store the probabilities too. Raises PredictionError if a logit is not finite.
        """
        pixels = features.shape[1]
        probabilities = np.empty((len(kernels) if keep else 0, pixels), np.float32)
        inside = np.zeros((len(kernels), -(-pixels // _WORD)), np.uint64)

        def measure(strip: slice) -> tuple[np.ndarray, np.ndarray, float]:
            logits = kernels @ features[:, strip]
            total = float(logits.sum())
            above = logits > self._mask_logit
            bits = np.packbits(above, axis=1)
            inside.view(np.uint8)[:, strip.start // 8 :][:, : bits.shape[1]] = bits
            here = _sigmoid(logits)
            if keep:
                probabilities[:, strip] = here
            ones = above.astype(np.float32)
            return ones.sum(axis=1), np.einsum("ij,ij->i", here, ones), total

        areas, sums, totals = zip(*self._map(measure, pixels, _STRIP), strict=True)
        _check_finite(totals)
        areas, sums = (np.stack(part).sum(axis=0, dtype=np.float64) for part in (areas, sums))
        return MaskStatistics(probabilities, inside, areas, sums / np.maximum(areas, 1.0))

    def _masks(
        self, kernels: np.ndarray, features: np.ndarray, cells: np.ndarray, statistics: list[MaskStatistics]
    ) -> np.ndarray:
        """Return the masks, float32 [n, pixels], of n cells; masks that were not stored are computed again."""
        kept = [row for block in statistics for row in block.probabilities]
        masks = np.empty((len(cells), features.shape[1]), np.float32)
        for place in np.flatnonzero(cells < len(kept)):
            masks[place] = kept[cells[place]]
        missing = np.flatnonzero(cells >= len(kept))

        def make(strip: slice) -> None:
            masks[missing, strip] = _sigmoid(kernels[cells[missing]] @ features[:, strip])

        if len(missing):
            self._map(make, features.shape[1], _STRIP)
        return masks

    def _matrix_nms(
        self, pairs: Pairs, scores: np.ndarray, best: np.ndarray, statistics: list[MaskStatistics]
    ) -> np.ndarray:
        """Return the decayed scores of the pairs `best`, sorted by falling score (SOLOv2 sec. 3.3, eq. 4 and 5)."""
        decayed = scores[best]
        labels, cells = pairs.labels[best], pairs.cells[best]
        groups = [group for label in np.unique(labels) if len(group := np.flatnonzero(labels == label)) > 1]
        if not groups:
            return decayed
        rows = [row for block in statistics for row in block.inside]
        areas = np.concatenate([block.areas for block in statistics])
        shared = self._intersections([np.stack([rows[cell] for cell in cells[group]]) for group in groups])
        for group, intersection in zip(groups, shared, strict=True):
            area = areas[cells[group]]
            union = np.maximum(area[:, None] + area - intersection, 1.0)
            iou = np.triu(intersection / union, 1)
            compensation = iou.max(axis=0)[:, None]
            if self._settings.nms_kernel == "gaussian":
                decay = np.exp(self._settings.nms_sigma * (compensation**2 - iou**2))
            else:
                decay = (1.0 - iou) / np.maximum(1.0 - compensation, 1e-6)
            decayed[group] *= decay.min(axis=0).astype(np.float32)
        return decayed

    def _intersections(self, groups: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Shared pixels of the masks i < j, float64 [n, n], for each group of masks, uint64 [n, words]."""
        if hasattr(np, "bitwise_count"):
            return [np.concatenate(self._map(partial(_count_shared_bits, one), len(one), _ROWS)) for one in groups]
        words = groups[0].shape[1]
        parts = self._map(lambda strip: [_product_of_bits(one[:, strip]) for one in groups], words, _STRIP // _WORD)
        return [np.stack(counts).sum(axis=0, dtype=np.float64) for counts in zip(*parts, strict=True)]

    def _map(self, function: Callable[[slice], Result], length: int, step: int) -> list[Result]:
        """Return the function of each slice of `step` places out of `length`, in order, computed by all threads."""
        strips = [slice(start, min(start + step, length)) for start in range(0, length, step)]
        return list((self._pool.map if self._pool and len(strips) > 1 else map)(function, strips))


def _check_finite(sums: Sequence[float]) -> None:
    """Raise PredictionError if a sum is not finite, because a value in it is not."""
    if not np.isfinite(sums).all():
        raise PredictionError(NOT_FINITE)


def find_candidates(raw: RawArrays, image: int, settings: PostprocessConfig) -> Candidates:
    """Return the candidates of one image of the batch that pass points NMS and the score threshold."""
    cells, labels, scores, start = [], [], [], 0
    for logits in raw.category_logits:
        peaks = points_nms(_sigmoid(logits[image].copy()))
        peaks = peaks.reshape(len(peaks), -1)
        label, cell = np.nonzero(peaks > np.float32(settings.score_threshold))
        cells.append(start + cell)
        labels.append(label)
        scores.append(peaks[label, cell])
        start += peaks.shape[1]
    cell, label, score = np.concatenate(cells), np.concatenate(labels), np.concatenate(scores)
    highest = np.zeros(start, np.float32)
    np.maximum.at(highest, cell, score)
    order = _falling(highest)[: np.count_nonzero(highest)]
    slots = np.empty(start, np.int64)
    slots[order] = np.arange(len(order))
    kernels = np.concatenate([x[image].reshape(x.shape[1], -1) for x in raw.kernels], axis=1)
    strides = np.repeat(settings.strides, [x.shape[2] * x.shape[3] for x in raw.category_logits])
    return Candidates(
        Pairs(slots[cell], label, score), highest[order], np.ascontiguousarray(kernels[:, order].T), strides[order]
    )


def points_nms(scores: np.ndarray) -> np.ndarray:
    """Scores [C, S, S]; zero if the upper, left or upper-left neighbour has a higher one (SOLOv2 sec. 3.3)."""
    columns = scores.copy()
    np.maximum(scores[:, 1:], scores[:, :-1], out=columns[:, 1:])
    peaks = columns.copy()
    np.maximum(columns[:, :, 1:], columns[:, :, :-1], out=peaks[:, :, 1:])
    return np.where(peaks - scores <= np.float32(EQUAL_SCORES), scores, np.float32(0.0))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), in place; float32."""
    np.negative(x, out=x)
    with np.errstate(over="ignore"):  # overflows to infinity, whose inverse is 0
        np.exp(x, out=x)
    x += np.float32(1.0)
    return np.reciprocal(x, out=x)


def _falling(values: np.ndarray) -> np.ndarray:
    """Return the indices of the values from highest to lowest; equal values keep their order."""
    return np.argsort(-values, kind="stable")


def _count_shared_bits(masks: np.ndarray, rows: slice) -> np.ndarray:
    """Shared bits of the rows i < j of uint64 [n, words] for each i of `rows`: float64 [rows, n], zero elsewhere."""
    shared = np.zeros((rows.stop - rows.start, len(masks)))
    for i, counts in zip(range(rows.start, rows.stop), shared, strict=True):
        counts[i + 1 :] = np.bitwise_count(masks[i + 1 :] & masks[i]).sum(axis=1, dtype=np.uint32)
    return shared


def _product_of_bits(masks: np.ndarray) -> np.ndarray:
    """Shared bits of each two rows of uint64 [n, words], by a matrix product: float32 [n, n].

    Used with numpy before 2.0, which has no bit count.
    """
    ones = np.unpackbits(np.ascontiguousarray(masks).view(np.uint8), axis=1).astype(np.float32)
    return ones @ ones.T
