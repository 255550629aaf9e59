"""Verification of an export: its results compared with those of the model in Python, on drawn scenes."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import paddle

from ppsolo.build.network import build_postprocess
from ppsolo.build.pipeline import build_preprocess
from ppsolo.config import Config
from ppsolo.data.synthetic import draw_scene
from ppsolo.deploy.runtime import pad_batch
from ppsolo.models.postprocess import SOLOv2Postprocess
from ppsolo.models.solov2 import RawPredictions, SOLOv2
from ppsolo.results.postprocess import DetectionArrays
from ppsolo.text import counted

# Two correct runtimes differ by rounding: about 1e-5 of a head's scale. Beyond these bounds, an export is wrong.
HEADS_BOUND = 2e-4  # as a share of the largest magnitude of the head
SCORES_BOUND = 1e-4
PIXELS_BOUND = 1e-4  # as a share of all pixels of all masks
NUDGES = 16
# The least and the most that rounding moves a head, as a share of its scale.
ULP = float(np.finfo(np.float32).eps)
ROUNDING = 1e-5
# Scenes (height, width) per batch. None is an empty image: grey with a little noise, because in a flat image rounding
# decides which of equal cells is best. Scenes are small: each is computed several times.
SCENES: tuple[tuple[tuple[int, int] | None, ...], ...] = (
    ((240, 320),),
    ((240, 320),) * 4,
    ((320, 200),),
    ((64, 64),),
    (None,),
)
EMPTY_SIZE = (192, 256)
SHORT_SIDE, LONG_SIDE = 224, 320

Heads = Callable[[np.ndarray], Sequence[np.ndarray]]
Detect = Callable[[np.ndarray], DetectionArrays]
Progress = Callable[[int, int], None]


class Verification(NamedTuple):
    """Differences between an export and its model.

    images, instances: numbers compared. heads: largest difference, as a share of the head's scale. scores: largest
    difference. pixels: share of all mask pixels (at stride 4) that differ. lost, added: instances that only the model
    or only the export has. rounding: number of images where rounding alone decides, for example between two nearly
    equal cells. There, the export is compared with postprocessing of its own heads; instances that appear or vanish
    when these heads move by their difference from the model's, at most ROUNDING, do not count.
    """

    images: int
    instances: int
    heads: float
    scores: float
    pixels: float
    lost: int
    added: int
    rounding: int

    @property
    def trusted(self) -> bool:
        """Whether every figure is within its bound; NaN is not."""
        within = self.heads <= HEADS_BOUND and self.scores <= SCORES_BOUND and self.pixels <= PIXELS_BOUND
        return within and self.lost == 0 and self.added == 0

    def __str__(self) -> str:
        return (
            f"{self.images} images, {self.instances} instances: the network's outputs differ by {self.heads:.1e} of "
            f"their scale (bound {HEADS_BOUND:.0e}), scores by {self.scores:.1e} (bound {SCORES_BOUND:.0e}), "
            f"{self.pixels:.1e} of all mask pixels (bound {PIXELS_BOUND:.0e}); {self.lost} instances lost, "
            f"{self.added} added"
            + (f", rounding decided in {counted(self.rounding, 'image')}" if self.rounding else "")
            + ("" if self.instances else "; nothing was found, so postprocessing was hardly tested")
        )


def verify(
    model: SOLOv2,
    config: Config,
    input_shape: Sequence[int],
    *,
    heads: Heads,
    detect: Detect,
    progress: Progress | None = None,
) -> Verification:
    """Compare an export's network (`heads`) and its complete result (`detect`) with the model, batch by batch.

    input_shape: N, 3, H, W of the export, -1 for open sides. Scenes are drawn with a fixed seed.
    heads: prepared images -> the arrays of `RawPredictions`, flat. detect: prepared images -> instances.
    progress: called with the number of images compared, and of all.
    """
    images = sum(map(len, SCENES)) if input_shape[0] < 0 else len(SCENES) * input_shape[0]
    postprocess = build_postprocess(config)
    total = Verification(0, 0, 0.0, 0.0, 0.0, 0, 0, 0)
    wrong_pixels = all_pixels = 0
    for batch in _batches(config, input_shape):
        with paddle.no_grad():
            raw = model(paddle.to_tensor(batch))
            expected = _found(postprocess, raw)
            exported = [paddle.to_tensor(array) for array in heads(batch)]
            difference = _worst(*map(_relative, exported, _flat(raw)))
            total = total._replace(heads=_worst(total.heads, difference))
            rounded = _found(postprocess, _raw(exported))
        total = total._replace(images=total.images + len(batch), instances=total.instances + len(expected.scores))
        found = zip(expected.images(), detect(batch).images(), rounded.images(), strict=True)
        for index, (one, other, third) in enumerate(found):
            pairs, lost, added = match(one, other, postprocess)
            if lost or added:
                one = third
                pairs, lost, added = match(one, other, postprocess)
                if lost or added:
                    nudged = [_found(postprocess, _raw(heads)) for heads in _nudged(exported, index, difference)]
                    lost = [i for i in lost if all(_holds(answer, one, i, postprocess) for answer in nudged)]
                    added = [j for j in added if not any(_holds(answer, other, j, postprocess) for answer in nudged)]
                total = total._replace(rounding=total.rounding + (not lost and not added))
            total = total._replace(
                scores=_worst(total.scores, *(abs(float(one.scores[i]) - float(other.scores[j])) for i, j in pairs)),
                lost=total.lost + len(lost),
                added=total.added + len(added),
            )
            for i, j in pairs:
                wrong_pixels += _differing(one.masks[i], other.masks[j], postprocess.mask_threshold)
                all_pixels += one.masks[i].size
        if progress is not None:
            progress(total.images, images)
    return total._replace(pixels=wrong_pixels / max(all_pixels, 1))


def match(
    one: DetectionArrays, other: DetectionArrays, postprocess: SOLOv2Postprocess
) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """Match the instances of one image: return the pairs, and the unmatched instances of either side.

    A pair has the same label, and scores within the bound; among several, the nearest mask wins. An instance is
    not reported as unmatched if rounding decides whether it is kept: its score equals the threshold, or the lowest
    kept score if `max_instances` are kept.
    """
    free = set(range(len(other.scores)))
    pairs, lost = [], []
    for i, (score, label) in enumerate(zip(one.scores, one.labels, strict=True)):
        alike = [j for j in free if other.labels[j] == label and abs(other.scores[j] - score) <= SCORES_BOUND]
        if not alike:
            lost.append(i)
            continue
        best = min(alike, key=lambda j: _differing(one.masks[i], other.masks[j], postprocess.mask_threshold))
        free.remove(best)
        pairs.append((i, best))
    return pairs, _clear(lost, one.scores, postprocess), _clear(sorted(free), other.scores, postprocess)


def _clear(left: list[int], scores: np.ndarray, postprocess: SOLOv2Postprocess) -> list[int]:
    cuts = [postprocess.update_threshold]
    if len(scores) == postprocess.max_instances:
        cuts.append(float(scores.min()))
    return [i for i in left if min(abs(float(scores[i]) - cut) for cut in cuts) > SCORES_BOUND]


def _nudged(heads: Sequence[paddle.Tensor], index: int, difference: float) -> Iterator[list[paddle.Tensor]]:
    """Yield the heads of one image NUDGES times, each moved at random by up to a share of its scale.

    The share is the difference of two correct runtimes. It is more than a unit in the last place of each number, which
    may be a sum of large ones: a mask's pixel on the threshold falls on either side, and moves the scores of others.
    """
    rng = np.random.default_rng(index)
    arrays = [head.numpy()[index : index + 1] for head in heads]
    share = min(max(difference, ULP), ROUNDING)
    for _ in range(NUDGES):
        moved = (array + share * np.abs(array).max() * rng.uniform(-1, 1, array.shape) for array in arrays)
        yield [paddle.to_tensor(array.astype(np.float32)) for array in moved]


def _holds(answer: DetectionArrays, one: DetectionArrays, index: int, postprocess: SOLOv2Postprocess) -> bool:
    """Whether an answer contains instance `index` of another one."""
    return index not in match(one, answer, postprocess)[1]


def _differing(one: np.ndarray, other: np.ndarray, threshold: float) -> int:
    return int(np.count_nonzero((one > threshold) != (other > threshold)))


def _flat(raw: RawPredictions) -> list[paddle.Tensor]:
    return [*raw.category_logits, *raw.kernels, raw.mask_features]


def _raw(heads: Sequence[paddle.Tensor]) -> RawPredictions:
    levels = len(heads) // 2
    return RawPredictions(list(heads[:levels]), list(heads[levels : 2 * levels]), heads[-1])


def _found(postprocess: SOLOv2Postprocess, raw: RawPredictions) -> DetectionArrays:
    return DetectionArrays(*(tensor.numpy() for tensor in postprocess(raw)))


def _relative(one: paddle.Tensor, other: paddle.Tensor) -> float:
    """The largest difference of two tensors as a share of the second one's largest magnitude; NaN if either has NaN."""
    if one.shape != other.shape:
        return float("inf")
    expected = other.numpy()
    return float(np.abs(one.numpy() - expected).max() / max(np.abs(expected).max(), 1e-6))


def _worst(*values: float) -> float:
    """The largest value, or NaN if one is NaN."""
    return float(np.max(values))


def _batches(config: Config, input_shape: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield prepared batches that fit the export: float32 [N, 3, H, W]."""
    size, _, height, width = input_shape
    fixed = [side for side in (height, width) if side > 0]
    smaller = dataclasses.replace(
        config.preprocess, short_side=min([SHORT_SIDE, *fixed]), long_side=min([LONG_SIDE, *fixed])
    )
    preprocess = build_preprocess(dataclasses.replace(config, preprocess=smaller))
    rng = np.random.default_rng(0)
    for scenes in SCENES:
        images = [
            rng.integers(124, 132, (*EMPTY_SIZE, 3), np.uint8) if scene is None else draw_scene(rng, scene).image
            for scene in scenes
        ]
        batch = pad_batch(np.stack([preprocess(image)[0] for image in images]), height, width)
        yield batch[np.arange(size) % len(batch)] if size > 0 else batch
