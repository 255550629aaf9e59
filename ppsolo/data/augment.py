"""Random changes of a training sample: colour, crop, size, flip and turn; each is drawn first and then applied."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import cv2
import numpy as np
from numpy.typing import ArrayLike

from ppsolo.data.color import STRIP_ROWS, Adjustment, adjust_in_8_bits, adjust_in_float
from ppsolo.data.preprocess import scale_ratios
from ppsolo.data.sample import BoxConvention, TrainingSample

Window = tuple[int, int, int, int]

ADJUSTMENTS: tuple[Adjustment, ...] = ("brightness", "contrast", "saturation", "hue")
CROP_ATTEMPTS = 50


class Transform(Protocol):
    """A change of a sample in two steps, so that a decision can be recorded and applied again."""

    def decide(self, sample: TrainingSample, rng: np.random.Generator) -> Any:
        """Draw all random numbers; use only the geometry of the sample."""
        ...

    def apply(self, sample: TrainingSample, decision: Any) -> TrainingSample:
        """Apply a decision without random numbers."""
        ...


def augment(sample: TrainingSample, transforms: Sequence[Transform], rng: np.random.Generator) -> TrainingSample:
    """Apply all transforms in order; `rng` is the only source of random numbers."""
    for transform in transforms:
        sample = transform.apply(sample, transform.decide(sample, rng))
    return sample


@dataclass(frozen=True)
class ColorDistort:
    """Brightness, contrast, saturation and hue in random order, each with probability 1/2.

    arithmetic: "hsv" computes in 8 bits (2.x recipe): it blends towards black, mean grey and own grey, clips,
        truncates, and turns the hue in HSV. "yiq" computes in float32 without clipping (0.5 recipe): it adds the
        brightness, scales the contrast, blends towards own grey, and turns the hue in YIQ.
    """

    arithmetic: Literal["hsv", "yiq"]

    def decide(self, sample: TrainingSample, rng: np.random.Generator) -> tuple[tuple[Adjustment, float], ...]:
        """Return the adjustments in order, with factors in 0.5 .. 1.5; for hue an angle in -18 .. 18."""
        chosen = []
        for index in rng.permutation(len(ADJUSTMENTS)):
            if rng.uniform(0.0, 1.0) >= 0.5:
                name = ADJUSTMENTS[index]
                low, high = (-18, 18) if name == "hue" else (0.5, 1.5)
                chosen.append((name, float(rng.uniform(low, high))))
        return tuple(chosen)

    def apply(self, sample: TrainingSample, decision: tuple[tuple[Adjustment, float], ...]) -> TrainingSample:
        """Return a float32 image; with "yiq" and no adjustment it stays uint8. "hsv" takes only uint8 images."""
        return self._ended(self._adjusted(sample, decision))

    def apply_cropped(
        self,
        sample: TrainingSample,
        decision: tuple[tuple[Adjustment, float], ...],
        crop: Callable[[TrainingSample], TrainingSample],
    ) -> TrainingSample:
        """Compute `crop(self.apply(sample, decision))` with less work on pixels that are cut off.

        In 8 bits, each adjustment except contrast uses one pixel at a time; contrast needs the mean of all. In
        float32, the last bit depends on the position of a pixel in its row, so no work can be saved.
        """
        names = [name for name, _ in decision]
        whole = names.index("contrast") + 1 if "contrast" in names else 0
        if self.arithmetic == "yiq":
            whole = len(decision)
        return self._ended(self._adjusted(crop(self._adjusted(sample, decision[:whole])), decision[whole:]))

    def _adjusted(self, sample: TrainingSample, adjustments: Sequence[tuple[Adjustment, float]]) -> TrainingSample:
        adjust = adjust_in_8_bits if self.arithmetic == "hsv" else adjust_in_float
        image = sample.image
        for name, amount in adjustments:
            image = adjust(image, name, amount)
        return replace(sample, image=image)

    def _ended(self, sample: TrainingSample) -> TrainingSample:
        return sample if self.arithmetic == "yiq" else replace(sample, image=sample.image.astype(np.float32))


@dataclass(frozen=True)
class RandomCrop:
    """Crop to a random window that has at least a random IoU with some box and contains some box's centre.

    The least IoU is one of `thresholds` or "no crop", in random order; each gets 50 tries. An instance is kept if the
    centre of its box is inside. Boxes are cut to the window, not fitted to masks.

    drop_empty_masks: also drop instances without a pixel in the window, and do not crop if no instance would be left
        (0.5 recipe, which used cut polygons instead of pixels). The 2.x recipe keeps them.
    thresholds: least IoU of the window with the best box.
    scales, aspect_ratios: height and width of the window are those of the image, times scale / sqrt(aspect) and
        scale * sqrt(aspect).
    """

    drop_empty_masks: bool
    thresholds: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
    scales: tuple[float, float] = (0.3, 1.0)
    aspect_ratios: tuple[float, float] = (0.5, 2.0)

    def decide(self, sample: TrainingSample, rng: np.random.Generator) -> Window | None:
        """Return (left, top, right, bottom) in pixels, right and bottom excluded, or None for no crop."""
        if len(sample.boxes) == 0:
            return None
        for index in rng.permutation(len(self.thresholds) + 1):
            if index == len(self.thresholds):
                return None
            for _ in range(CROP_ATTEMPTS):
                window = self._draw_window(sample.size, rng)
                if box_ious(sample.boxes, window).max() < self.thresholds[index]:
                    continue
                if _centred_in(sample.boxes, window).any():
                    return window if self._kept(sample, window).any() else None
        return None

    def apply(self, sample: TrainingSample, decision: Window | None) -> TrainingSample:
        if decision is None:
            return sample
        left, top, right, bottom = decision
        kept = self._kept(sample, decision)
        return replace(
            sample,
            image=sample.image[top:bottom, left:right],
            boxes=_cut_boxes(sample.boxes[kept], decision),
            labels=sample.labels[kept],
            masks=sample.masks.some(kept).cut(decision),
        )

    def _draw_window(self, size: tuple[int, int], rng: np.random.Generator) -> Window:
        scale = rng.uniform(*self.scales)
        low, high = self.aspect_ratios
        aspect = rng.uniform(max(low, scale**2), min(high, scale**-2))
        height = int(size[0] * (scale / math.sqrt(aspect)))
        width = int(size[1] * (scale * math.sqrt(aspect)))
        top = int(rng.integers(0, max(1, size[0] - height)))
        left = int(rng.integers(0, max(1, size[1] - width)))
        return left, top, left + width, top + height

    def _kept(self, sample: TrainingSample, window: Window) -> np.ndarray:
        kept = _centred_in(sample.boxes, window)
        if self.drop_empty_masks:
            kept = kept & sample.masks.cut(window).any()
        return kept


@dataclass(frozen=True)
class DistortAndCrop:
    """`ColorDistort`, then `RandomCrop`: equal random numbers and an equal sample, in less time."""

    color: ColorDistort
    crop: RandomCrop

    def decide(
        self, sample: TrainingSample, rng: np.random.Generator
    ) -> tuple[tuple[tuple[Adjustment, float], ...], Window | None]:
        """Return the decisions of both."""
        return self.color.decide(sample, rng), self.crop.decide(sample, rng)

    def apply(
        self, sample: TrainingSample, decision: tuple[tuple[tuple[Adjustment, float], ...], Window | None]
    ) -> TrainingSample:
        colours, window = decision
        return self.color.apply_cropped(sample, colours, lambda part: self.crop.apply(part, window))


@dataclass(frozen=True)
class Resize:
    """Scale the shorter side to one of `short_sides`, or less if the longer side would exceed `long_side`.

    Images are scaled bilinearly (uint8 stays uint8), masks by nearest neighbour; boxes are scaled and cut to the image.

    short_sides, long_side: pixels.
    round_sides: round the scaled sides and use each side's own ratio (2.x), or use one exact ratio (0.5).
    box_convention: boxes are cut to 0 .. width ("exclusive", 2.x) or 0 .. width - 1 ("inclusive", 0.5).
    """

    short_sides: tuple[int, ...]
    long_side: int
    round_sides: bool
    box_convention: BoxConvention

    def decide(self, sample: TrainingSample, rng: np.random.Generator) -> int:
        """Return the short side; a single choice needs no random number."""
        if len(self.short_sides) == 1:
            return self.short_sides[0]
        return self.short_sides[int(rng.integers(0, len(self.short_sides)))]

    def apply(self, sample: TrainingSample, decision: int) -> TrainingSample:
        scale_y, scale_x = self.scales(sample.size, decision)
        image = cv2.resize(sample.image, None, fx=scale_x, fy=scale_y, interpolation=cv2.INTER_LINEAR)
        masks = sample.masks.resized(scale_y, scale_x, (image.shape[0], image.shape[1]))
        boxes = self.scale_boxes(sample.boxes, sample.size, (scale_y, scale_x))
        return replace(sample, image=image, boxes=boxes, masks=masks)

    def scales(self, size: tuple[int, int], short_side: int) -> tuple[float, float]:
        """Return the (vertical, horizontal) ratio for an image of `size` (height, width); sides stay at least 1."""
        ratios = scale_ratios(size, short_side, self.long_side, round_sides=self.round_sides)
        return max(ratios[0], 1 / size[0]), max(ratios[1], 1 / size[1])

    def scale_boxes(self, boxes: np.ndarray, size: ArrayLike, scales: ArrayLike) -> np.ndarray:
        """Scale boxes, float32 [n, 4] xyxy, and cut them to the image.

        size: (height, width) of the image before scaling. scales: from `scales`. Both may be [n, 2].
        """
        factors = np.asarray(scales, np.float64)[..., ::-1]
        # With one exact ratio, boxes are cut to the unrounded width.
        sides = np.asarray(size)[..., ::-1] * factors
        last = np.concatenate([sides, sides], axis=-1) - (self.box_convention == "inclusive")
        scaled = boxes * np.concatenate([factors, factors], axis=-1).astype(np.float32)
        return scaled.clip(0, last).astype(np.float32)


@dataclass(frozen=True)
class RandomFlip:
    """Mirror the image horizontally with probability 1/2.

    box_convention: x becomes width - x ("exclusive", 2.x) or width - 1 - x ("inclusive", 0.5).
    """

    box_convention: BoxConvention

    def decide(self, sample: TrainingSample, rng: np.random.Generator) -> bool:
        return bool(rng.uniform(0, 1) < 0.5)

    def apply(self, sample: TrainingSample, decision: bool) -> TrainingSample:
        if not decision:
            return sample
        last = np.float32(sample.size[1] - (self.box_convention == "inclusive"))
        boxes = sample.boxes.copy()
        boxes[:, [0, 2]] = last - sample.boxes[:, [2, 0]]
        return replace(sample, image=cv2.flip(sample.image, 1), boxes=boxes, masks=sample.masks.mirrored())


@dataclass(frozen=True)
class RandomTurn:
    """Turn the image by 0, 90, 180 or 270 degrees counter-clockwise, each with probability 1/4.

    box_convention: see `RandomFlip`.
    """

    box_convention: BoxConvention

    def decide(self, sample: TrainingSample, rng: np.random.Generator) -> int:
        """Return the number of quarter turns."""
        return int(rng.integers(0, 4))

    def apply(self, sample: TrainingSample, decision: int) -> TrainingSample:
        boxes, (height, width) = sample.boxes, sample.size
        for _ in range(decision):
            last = np.float32(width - (self.box_convention == "inclusive"))
            boxes = np.stack([boxes[:, 1], last - boxes[:, 2], boxes[:, 3], last - boxes[:, 0]], axis=1)
            height, width = width, height
        return replace(
            sample,
            image=np.ascontiguousarray(np.rot90(sample.image, decision)),
            boxes=boxes,
            masks=sample.masks.turned(decision),
        )


@dataclass(frozen=True)
class Normalize:
    """(image / 255 - mean) / std per channel, and channels first: float32 [3, h, w]."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def decide(self, sample: TrainingSample, rng: np.random.Generator) -> None:
        return None

    def apply(self, sample: TrainingSample, decision: None) -> TrainingSample:
        image = np.empty((3, *sample.size), np.float32)
        self.fill(image, sample.image)
        return replace(sample, image=image)

    def fill(self, normalized: np.ndarray, image: np.ndarray) -> None:
        """Normalise `image`, [h, w, 3], into `normalized`, float32 [3, h, w]."""
        tables = np.empty((3, 256), np.float32)
        for table, mean, std in zip(tables, self.mean, self.std, strict=True):
            _normalize(np.arange(256, dtype=np.float32), mean, std, table, np.empty(256))
        exact = np.empty((STRIP_ROWS, image.shape[1]))
        for top in range(0, len(image), STRIP_ROWS):
            planes = cv2.split(image[top : top + STRIP_ROWS])
            for plane, table, mean, std, channel in zip(planes, tables, self.mean, self.std, normalized, strict=True):
                strip = channel[top : top + STRIP_ROWS]
                if plane.dtype == np.uint8:
                    strip[:] = cv2.LUT(plane, table)
                else:
                    _normalize(plane, mean, std, strip, exact[: len(strip)])


def _normalize(values: np.ndarray, mean: float, std: float, result: np.ndarray, exact: np.ndarray) -> None:
    """Normalise float32 `values` into float32 `result`; `exact` is a buffer of as many float64.

    Each step is computed in float64, with unrounded mean and std, and stored as float32.
    """
    np.multiply(values, np.float32(1 / 255), out=result)
    np.subtract(result, mean, out=exact, dtype=np.float64)
    result[:] = exact
    np.divide(result, std, out=exact, dtype=np.float64)
    result[:] = exact


def box_ious(boxes: np.ndarray, window: Window) -> np.ndarray:
    """IoU float32 [n] of boxes float32 [n, 4] xyxy with one window; 0 if they only touch."""
    x1, y1, x2, y2 = boxes.T
    left, top, right, bottom = window
    width = np.maximum(np.minimum(x2, right) - np.maximum(x1, left), 0)
    shared = width * np.maximum(np.minimum(y2, bottom) - np.maximum(y1, top), 0)
    union = (x2 - x1) * (y2 - y1) + np.float32((right - left) * (bottom - top)) - shared
    return shared / (union + np.float32(1e-10))


def _cut_boxes(boxes: np.ndarray, window: Window) -> np.ndarray:
    """Cut boxes to the window, in its coordinates; a box outside gets right < left or bottom < top."""
    crop = np.array(window, np.float32)
    corners = np.maximum(boxes[:, :2], crop[:2]), np.minimum(boxes[:, 2:], crop[2:])
    return np.concatenate(corners, axis=1) - np.tile(crop[:2], 2)


def _centred_in(boxes: np.ndarray, window: Window) -> np.ndarray:
    """bool [n]: the box's centre lies in the window, and part of the box is left in it."""
    crop = np.array(window, np.float32)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    cut = _cut_boxes(boxes, window)
    return np.all((crop[:2] <= centres) & (centres < crop[2:]) & (cut[:, :2] < cut[:, 2:]), axis=1)
