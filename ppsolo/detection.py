"""Postprocessing on a CPU: raw predictions in, instances out, without the work that cannot change the answer."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from ppsolo.cpu import single_threaded_products
from ppsolo.errors import PredictionError
from ppsolo.models.postprocess import EQUAL_SCORES, SOLOv2Postprocess

NOT_FINITE = "the network's output is not finite: check its weights and preprocess.mean and std"
_KEPT_VALUES = 2**24  # of masks that are kept until it is known who needs them: thousands would fill the memory
_LEAST_STEP = 32  # cells; products of fewer take as long
_WORD = 64  # bits of a mask that are counted at once
_STRIP = 2048  # pixels of a block of masks, whole words, that are worked on at once, so that they stay in the cache

Job = TypeVar("Job")
Result = TypeVar("Result")


class RawArrays(NamedTuple):
    """`ppsolo.models.solov2.RawPredictions` as numpy arrays, all float32.

    category_logits: per level [N, C, S, S]. kernels: per level [N, E, S, S]. mask_features: [N, E, H/4, W/4].
    """

    category_logits: list[np.ndarray]
    kernels: list[np.ndarray]
    mask_features: np.ndarray

    def images(self) -> Iterator["RawArrays"]:
        """The predictions of each image, as a batch of one."""
        for i in range(len(self.mask_features)):
            yield RawArrays(
                [x[i : i + 1] for x in self.category_logits],
                [x[i : i + 1] for x in self.kernels],
                self.mask_features[i : i + 1],
            )


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
    """The candidates of an image, pairs of a cell and a class. Cells are counted by falling best score.

    cells: int64 [P]. labels: int64 [P]. scores: float32 [P], above the threshold, after points NMS.
    """

    cells: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


class Candidates(NamedTuple):
    """The K cells of an image that have a candidate, the one with the best score first.

    highest: float32 [K], falling. kernels: float32 [K, E]. strides: int64 [K], the area that a mask must exceed.
    """

    pairs: Pairs
    highest: np.ndarray
    kernels: np.ndarray
    strides: np.ndarray


class MaskStatistics(NamedTuple):
    """Of K masks.

    probabilities: float32 [K, pixels], or none where they are not kept. inside: uint64 [K, words], a bit for each
    pixel. areas: float64 [K], in pixels. sums: float64 [K], of the probabilities inside.
    """

    probabilities: np.ndarray
    inside: np.ndarray
    areas: np.ndarray
    sums: np.ndarray


class HostPostprocess:
    """`RawArrays` of a batch -> its `DetectionArrays`: the answer of `SOLOv2Postprocess`, by less work.

    An instance's final score is at most the class score of its cell, since maskness and decay are at most 1, and only
    better ones decay it. So cells are taken by falling class score, a block at a time, until `max_instances` of what
    is found so far are better than all that is left can become. Overlaps are counted within classes.
    """

    def __init__(self, settings: SOLOv2Postprocess, *, threads: int = 1):
        """settings: thresholds and limits. threads: that share the work on an image."""
        self._settings = settings
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        threshold = np.float64(settings.mask_threshold)
        with np.errstate(divide="ignore"):
            self._mask_logit = np.float32(np.log(threshold) - np.log1p(-threshold))

    def __call__(self, raw: RawArrays) -> DetectionArrays:
        """Raises PredictionError where the predictions, or the masks that are made of them, are not finite."""
        with single_threaded_products():
            parts = [self._detect(image) for image in raw.images()]
        return DetectionArrays(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _detect(self, raw: RawArrays) -> DetectionArrays:
        """The instances of one image."""
        features = raw.mask_features[0].reshape(raw.mask_features.shape[1], -1)
        _check_finite([float(x.sum()) for x in (*raw.category_logits, *raw.kernels)])
        found = find_candidates(raw, self._settings)
        if len(found.highest) == 0:  # otherwise features are seen in the masks that are made of them
            _check_finite(self._map(lambda row: float(row.sum()), features))
        pairs, scores, statistics = self._best(found, features)
        masks = self._masks(found.kernels, features, found.pairs.cells[pairs], statistics)
        return DetectionArrays(
            scores,
            found.pairs.labels[pairs],
            masks.reshape(len(masks), *raw.mask_features.shape[2:]),
            np.array([len(scores)]),
        )

    def _best(self, found: Candidates, features: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[MaskStatistics]]:
        """The pairs that survive, int64 [M], their decayed scores, float32 [M], the best first, and the statistics of
        the blocks of cells that were taken."""
        settings, cells = self._settings, len(found.highest)
        statistics: list[MaskStatistics] = []
        taken, step = 0, 2 * settings.max_instances  # as many as that always turn out worse or too small
        while taken < cells:
            block = slice(taken, min(taken + step, cells))
            keep = block.stop * features.shape[1] <= _KEPT_VALUES
            statistics.append(self._mask_statistics(found.kernels[block], features, keep=keep))
            taken = block.stop
            # What an instance of a cell not taken has at most, or zero; the others do not depend on anything up to it.
            bound = found.highest[taken] if taken < cells else np.float32(0.0)
            scores = self._pair_scores(found, statistics)
            best = _falling(scores)[: settings.pre_nms_top_n]
            best = best[scores[best] > bound]
            if taken < cells and len(best) < settings.max_instances:
                continue
            decayed = self._matrix_nms(found.pairs, scores, best, statistics)
            certain = np.count_nonzero(decayed > bound)
            if taken < cells and certain < settings.max_instances:
                # Enough more, if those to come do as well as those so far.
                step = (settings.max_instances - certain) * taken // max(certain, 1)
                step = min(max(step, _LEAST_STEP), settings.max_instances)
                continue
            survivors = _falling(decayed)[: settings.max_instances]
            survivors = survivors[decayed[survivors] >= np.float32(settings.update_threshold)]
            return best[survivors], decayed[survivors], statistics
        return np.empty(0, np.int64), np.empty(0, np.float32), statistics

    def _pair_scores(self, found: Candidates, statistics: list[MaskStatistics]) -> np.ndarray:
        """Class score times maskness (SOLOv2 sec. 3.3) of the pairs whose cell has been taken, zero of all others."""
        areas = np.concatenate([block.areas for block in statistics])
        sums = np.concatenate([block.sums for block in statistics])
        maskness = np.zeros(len(found.highest), np.float32)
        maskness[: len(areas)] = sums / np.maximum(areas, 1.0) * (areas > found.strides[: len(areas)])
        return found.pairs.scores * maskness[found.pairs.cells]

    def _mask_statistics(self, kernels: np.ndarray, features: np.ndarray, *, keep: bool) -> MaskStatistics:
        """Of the masks of kernels [K, E] over features [E, pixels], strip after strip.

        keep: the probabilities. Raises PredictionError where one of their logits is not finite.
        """
        pixels = features.shape[1]
        probabilities = np.empty((len(kernels) if keep else 0, pixels), np.float32)
        inside = np.zeros((len(kernels), -(-pixels // _WORD)), np.uint64)

        def strip(place: slice) -> tuple[np.ndarray, float]:
            logits = kernels @ features[:, place]
            total = float(logits.sum())
            above = logits > self._mask_logit
            bits = np.packbits(above, axis=1)
            inside.view(np.uint8)[:, place.start // 8 :][:, : bits.shape[1]] = bits
            here = _sigmoid(logits)
            if keep:
                probabilities[:, place] = here
            return np.einsum("ij,ij->i", here, above.astype(np.float32)), total

        sums, totals = zip(*self._map(strip, _strips(pixels)), strict=True)
        _check_finite(totals)
        areas = _count_bits(inside).sum(axis=1, dtype=np.float64)
        return MaskStatistics(probabilities, inside, areas, np.stack(sums).sum(axis=0, dtype=np.float64))

    def _masks(
        self, kernels: np.ndarray, features: np.ndarray, cells: np.ndarray, statistics: list[MaskStatistics]
    ) -> np.ndarray:
        """The masks float32 [n, pixels] of n cells, those kept and those made again."""
        kept = [row for block in statistics for row in block.probabilities]
        masks = np.empty((len(cells), features.shape[1]), np.float32)
        for place in np.flatnonzero(cells < len(kept)):
            masks[place] = kept[cells[place]]
        missing = np.flatnonzero(cells >= len(kept))

        def make(strip: slice) -> None:
            masks[missing, strip] = _sigmoid(kernels[cells[missing]] @ features[:, strip])

        if len(missing):
            self._map(make, _strips(features.shape[1]))
        return masks

    def _matrix_nms(
        self, pairs: Pairs, scores: np.ndarray, best: np.ndarray, statistics: list[MaskStatistics]
    ) -> np.ndarray:
        """Decayed scores of the pairs `best`, which come by falling score: `ppsolo.models.postprocess.matrix_nms`."""
        decayed = scores[best]
        labels, cells = pairs.labels[best], pairs.cells[best]
        groups = [group for label in np.unique(labels) if len(group := np.flatnonzero(labels == label)) > 1]
        rows = [row for block in statistics for row in block.inside]
        areas = np.concatenate([block.areas for block in statistics])
        for group in groups:
            decayed[group] *= self._decay(_intersections([rows[cell] for cell in cells[group]]), areas[cells[group]])
        return decayed

    def _decay(self, intersections: np.ndarray, areas: np.ndarray) -> np.ndarray:
        """Factors [n] of n masks of one class, the best first (SOLOv2 sec. 3.3, eq. 4 and 5).

        intersections: see `_intersections`. areas: float64 [n].
        """
        union = np.maximum(areas[:, None] + areas - intersections, 1.0)
        iou = intersections / union
        compensation = iou.max(axis=0)[:, None]
        if self._settings.nms_kernel == "gaussian":
            decay = np.exp(self._settings.nms_sigma * (compensation**2 - iou**2))
        else:
            decay = (1.0 - iou) / np.maximum(1.0 - compensation, 1e-6)
        return decay.min(axis=0).astype(np.float32)

    def _map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> list[Result]:
        return list((self._pool.map if self._pool else map)(function, jobs))


def _check_finite(sums: Sequence[float]) -> None:
    """A sum of what is not finite is not."""
    if not np.isfinite(sums).all():
        raise PredictionError(NOT_FINITE)


def find_candidates(raw: RawArrays, settings: SOLOv2Postprocess) -> Candidates:
    """What passes points NMS and the score threshold in a batch of one image."""
    cells, labels, scores, start = [], [], [], 0
    for logits in raw.category_logits:
        peaks = points_nms(_sigmoid(logits[0].copy()))
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
    kernels = np.concatenate([x[0].reshape(x.shape[1], -1) for x in raw.kernels], axis=1)
    strides = np.repeat(settings.strides, [x.shape[2] * x.shape[3] for x in raw.category_logits])
    return Candidates(
        Pairs(slots[cell], label, score), highest[order], np.ascontiguousarray(kernels[:, order].T), strides[order]
    )


def points_nms(scores: np.ndarray) -> np.ndarray:
    """Scores [C, S, S], zero where the upper, left or upper-left neighbour has a higher one (SOLOv2 sec. 3.3)."""
    columns = scores.copy()
    np.maximum(scores[:, 1:], scores[:, :-1], out=columns[:, 1:])
    peaks = columns.copy()
    np.maximum(columns[:, :, 1:], columns[:, :, :-1], out=peaks[:, :, 1:])
    return np.where(peaks - scores < np.float32(EQUAL_SCORES), scores, np.float32(0.0))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), in place; float32."""
    np.negative(x, out=x)
    with np.errstate(over="ignore"):  # to infinity, whose inverse is 0
        np.exp(x, out=x)
    x += np.float32(1.0)
    return np.reciprocal(x, out=x)


def _falling(values: np.ndarray) -> np.ndarray:
    """Their order, the highest first, equal ones as they come."""
    return np.argsort(-values, kind="stable")


def _strips(pixels: int) -> list[slice]:
    return [slice(start, min(start + _STRIP, pixels)) for start in range(0, pixels, _STRIP)]


def _intersections(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Pixels that the i-th and the j-th of n masks share, i < j: float64 [n, n], zero elsewhere.

    masks: uint64 [words] each, a bit for each pixel.
    """
    stacked = np.stack(masks)
    shared = np.zeros((len(stacked), len(stacked)))
    for i in range(len(stacked) - 1):
        shared[i, i + 1 :] = _count_bits(stacked[i + 1 :] & stacked[i]).sum(axis=1, dtype=np.uint32)
    return shared


def _count_bits(words: np.ndarray) -> np.ndarray:
    """How many bits are set in each word, or where numpy is of before 2.0 in each quarter of one: uint8."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(words)
    return _bits_of_quarters()[words.view(np.uint16)]


@functools.cache
def _bits_of_quarters() -> np.ndarray:
    """How many bits are set in each uint16: uint8 [65536]."""
    return np.unpackbits(np.arange(2**16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1).sum(
        axis=1, dtype=np.uint8
    )
