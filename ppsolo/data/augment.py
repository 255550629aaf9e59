"""Random changes of a training sample: colour, crop, size, flip and turn, each decided first and then applied."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import cv2
import numpy as np

BoxConvention = Literal["exclusive", "inclusive"]
Adjustment = Literal["brightness", "contrast", "saturation", "hue"]
Window = tuple[int, int, int, int]

ADJUSTMENTS: tuple[Adjustment, ...] = ("brightness", "contrast", "saturation", "hue")
CROP_ATTEMPTS = 50
STRIP_ROWS = 32  # of an image at a time, so that what is between stays in the cache


@dataclass(frozen=True)
class TrainingSample:
    """One image with its n instances; arrays are not written to once they are in a sample.

    Attributes:
        image: uint8 or float32 [h, w, 3], RGB in 0 .. 255; after `Normalize` float32 [3, h, w].
        boxes: float32 [n, 4], xyxy in pixels of `image`.
        labels: int64 [n], classes from 0.
        masks: uint8 [n, h, w], 0 or 1.
        image_id: as in the annotation file.
        original_size: (height, width) of the image file.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    image_id: int
    original_size: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image as it is now."""
        return self.masks.shape[1], self.masks.shape[2]


class Transform(Protocol):
    """A change of a sample, in two steps, so that a decision can be recorded and applied again."""

    def decide(self, sample: TrainingSample, rng: np.random.Generator) -> Any:
        """Draw everything random; looks at the geometry of the sample only."""
        ...

    def apply(self, sample: TrainingSample, decision: Any) -> TrainingSample:
        """Carry out a decision; nothing random."""
        ...


def augment(sample: TrainingSample, transforms: Sequence[Transform], rng: np.random.Generator) -> TrainingSample:
    """The sample after all transforms in order; `rng` is the only source of randomness."""
    for transform in transforms:
        sample = transform.apply(sample, transform.decide(sample, rng))
    return sample


@dataclass(frozen=True)
class ColorDistort:
    """Brightness, contrast, saturation and hue in random order, each with probability 1/2.

    arithmetic: "hsv" works in 8 bits (2.x recipe): blends towards black, mean grey and own grey, clipped and
        truncated, and turns the hue in HSV. "yiq" works in unclipped float32 (0.5 recipe): adds the
        brightness, scales the contrast, blends towards own grey, and turns the hue in YIQ.
    """

    arithmetic: Literal["hsv", "yiq"]

    def decide(self, sample: TrainingSample, rng: np.random.Generator) -> tuple[tuple[Adjustment, float], ...]:
        """The adjustments in order, with factors in 0.5 .. 1.5; for hue an angle in -18 .. 18."""
        chosen = []
        for index in rng.permutation(len(ADJUSTMENTS)):
            if rng.uniform(0.0, 1.0) >= 0.5:
                name = ADJUSTMENTS[index]
                low, high = (-18, 18) if name == "hue" else (0.5, 1.5)
                chosen.append((name, float(rng.uniform(low, high))))
        return tuple(chosen)

    def apply(self, sample: TrainingSample, decision: tuple[tuple[Adjustment, float], ...]) -> TrainingSample:
        """-> image float32; with "yiq" and no adjustment it stays uint8. "hsv" takes uint8 images only."""
        adjust = adjust_in_8_bits if self.arithmetic == "hsv" else adjust_in_float
        image = sample.image
        for name, amount in decision:
            image = adjust(image, name, amount)
        return replace(sample, image=image if self.arithmetic == "yiq" else image.astype(np.float32))


@dataclass(frozen=True)
class RandomCrop:
    """Cut out a random window that overlaps some box by a random IoU at least, and holds some box's centre.

    The least IoU is one of `thresholds` or "no crop", in random order; 50 windows are tried for each.
    Instances are kept when their box's centre lies inside; boxes are cut to the window, not fitted to masks.

    drop_empty_masks: also leave out instances without a pixel in the window, and do not crop at all if none
        would stay (0.5 recipe, which looked at cut polygons instead of pixels). The 2.x recipe keeps them.
    thresholds: least IoU of the window with the best box.
    scales, aspect_ratios: the window's sides are those of the image times scale / sqrt(aspect) (height) and
        scale * sqrt(aspect) (width).
    """

    drop_empty_masks: bool
    thresholds: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
    scales: tuple[float, float] = (0.3, 1.0)
    aspect_ratios: tuple[float, float] = (0.5, 2.0)

    def decide(self, sample: TrainingSample, rng: np.random.Generator) -> Window | None:
        """-> (left, top, right, bottom) in pixels, right and bottom excluded, or None: no crop."""
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
            masks=sample.masks[:, top:bottom, left:right][kept],
        )

    def _draw_window(self, size: tuple[int, int], rng: np.random.Generator) -> Window:
        scale = rng.uniform(*self.scales)
        low, high = self.aspect_ratios
        aspect = rng.uniform(max(low, scale**2), min(high, scale**-2))
        height = int(size[0] * (scale / np.sqrt(aspect)))
        width = int(size[1] * (scale * np.sqrt(aspect)))
        top = int(rng.integers(0, max(1, size[0] - height)))
        left = int(rng.integers(0, max(1, size[1] - width)))
        return left, top, left + width, top + height

    def _kept(self, sample: TrainingSample, window: Window) -> np.ndarray:
        kept = _centred_in(sample.boxes, window)
        if self.drop_empty_masks:
            left, top, right, bottom = window
            kept = kept & sample.masks[:, top:bottom, left:right].any(axis=(1, 2))
        return kept


@dataclass(frozen=True)
class Resize:
    """Scale so that the shorter side is one of `short_sides`, unless the longer one would exceed `long_side`.

    Images bilinear (uint8 stays uint8), masks nearest, boxes scaled and cut to the image.

    short_sides, long_side: pixels.
    round_sides: round the scaled sides and use each side's own ratio (2.x), else one exact ratio (0.5).
    box_convention: boxes are cut to 0 .. width ("exclusive", 2.x) or 0 .. width - 1 ("inclusive", 0.5).
    """

    short_sides: tuple[int, ...]
    long_side: int
    round_sides: bool
    box_convention: BoxConvention

    def decide(self, sample: TrainingSample, rng: np.random.Generator) -> int:
        """The short side; nothing is drawn where there is no choice."""
        if len(self.short_sides) == 1:
            return self.short_sides[0]
        return self.short_sides[int(rng.integers(0, len(self.short_sides)))]

    def apply(self, sample: TrainingSample, decision: int) -> TrainingSample:
        height, width = sample.size
        scale_y, scale_x = self._ratios(height, width, decision)
        image = cv2.resize(sample.image, None, fx=scale_x, fy=scale_y, interpolation=cv2.INTER_LINEAR)
        masks = np.empty((len(sample.masks), *image.shape[:2]), np.uint8)
        for index, mask in enumerate(sample.masks):
            masks[index] = cv2.resize(mask, None, fx=scale_x, fy=scale_y, interpolation=cv2.INTER_NEAREST)
        # With one exact ratio, the width that boxes are cut to is the unrounded one.
        last = np.array([width * scale_x, height * scale_y] * 2) - (self.box_convention == "inclusive")
        boxes = sample.boxes * np.array([scale_x, scale_y] * 2, np.float32)
        return replace(sample, image=image, boxes=boxes.clip(0, last).astype(np.float32), masks=masks)

    def _ratios(self, height: int, width: int, short_side: int) -> tuple[float, float]:
        """-> (vertical, horizontal)"""
        short, long = min(height, width), max(height, width)
        if self.round_sides:
            ratio = min(short_side / short, self.long_side / long)
            return max(1, int(ratio * height + 0.5)) / height, max(1, int(ratio * width + 0.5)) / width
        ratio = short_side / short
        if np.round(ratio * long) > self.long_side:
            ratio = self.long_side / long
        return max(ratio, 1 / height), max(ratio, 1 / width)


@dataclass(frozen=True)
class RandomFlip:
    """Mirror left and right with probability 1/2.

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
        masks = np.empty_like(sample.masks, order="C")
        for index, mask in enumerate(sample.masks):
            masks[index] = cv2.flip(mask, 1)
        return replace(sample, image=cv2.flip(sample.image, 1), boxes=boxes, masks=masks)


@dataclass(frozen=True)
class RandomTurn:
    """Turn by 0, 90, 180 or 270 degrees, counter-clockwise, each with probability 1/4.

    box_convention: as in `RandomFlip`.
    """

    box_convention: BoxConvention

    def decide(self, sample: TrainingSample, rng: np.random.Generator) -> int:
        """The number of quarter turns."""
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
            masks=np.ascontiguousarray(np.rot90(sample.masks, decision, axes=(1, 2))),
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
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            if sample.image.dtype == np.uint8:
                image[channel] = _normalized(np.arange(256), mean, std)[sample.image[:, :, channel]]
            else:
                image[channel] = _normalized(sample.image[:, :, channel], mean, std)
        return replace(sample, image=image)


def _normalized(values: np.ndarray, mean: float, std: float) -> np.ndarray:
    """Each step is computed in float64, with the mean and std unrounded, and stored as float32."""
    scaled = values.astype(np.float32) * np.float32(1 / 255)
    centred = np.subtract(scaled, mean, dtype=np.float64).astype(np.float32)
    return np.divide(centred, std, dtype=np.float64).astype(np.float32)


def box_ious(boxes: np.ndarray, window: Window) -> np.ndarray:
    """IoU float32 [n] of boxes float32 [n, 4] xyxy with one window; 0 where they only touch."""
    crop = np.array(window, np.float32)
    overlap = np.minimum(boxes[:, 2:], crop[2:]) - np.maximum(boxes[:, :2], crop[:2])
    shared = overlap.prod(axis=1) * (overlap > 0).all(axis=1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (crop[2:] - crop[:2]).prod() - shared
    return shared / (union + np.float32(1e-10))


def _cut_boxes(boxes: np.ndarray, window: Window) -> np.ndarray:
    """Boxes cut to the window, in its coordinates; a box outside has right < left or bottom < top."""
    crop = np.array(window, np.float32)
    corners = np.maximum(boxes[:, :2], crop[:2]), np.minimum(boxes[:, 2:], crop[2:])
    return np.concatenate(corners, axis=1) - np.tile(crop[:2], 2)


def _centred_in(boxes: np.ndarray, window: Window) -> np.ndarray:
    """bool [n]: the box's centre lies in the window, and something of the box is left in it."""
    crop = np.array(window, np.float32)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    cut = _cut_boxes(boxes, window)
    return np.all((crop[:2] <= centres) & (centres < crop[2:]) & (cut[:, :2] < cut[:, 2:]), axis=1)


def adjust_in_8_bits(image: np.ndarray, name: Adjustment, amount: float) -> np.ndarray:
    """uint8 [h, w, 3] RGB -> the same, in the arithmetic of Pillow's ImageEnhance and HSV conversion."""
    if name == "hue":
        return _turn_hsv_hue(image, amount)
    if name == "saturation":
        return _blend(_grey(image)[:, :, None], image, amount)
    base = np.uint8(0) if name == "brightness" else np.uint8(_grey(image).mean() + 0.5)
    return cv2.LUT(image, _blend(base, np.arange(256, dtype=np.uint8), amount))


def adjust_in_float(image: np.ndarray, name: Adjustment, amount: float) -> np.ndarray:
    """uint8 or float32 [h, w, 3] RGB -> float32, not clipped. The hue turns by `amount` half circles."""
    if name == "brightness":
        return np.add(image, np.float32(amount), dtype=np.float32)
    if name == "contrast":
        return np.multiply(image, np.float32(amount), dtype=np.float32)
    image = image.astype(np.float32)
    if name == "saturation":
        to_grey = np.tile(np.array([0.299, 0.587, 0.114]) * (1 - amount), (3, 1))
        return cv2.transform(image, to_grey + amount * np.eye(3))
    cos, sin = np.cos(amount * np.pi), np.sin(amount * np.pi)
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
    to_rgb = np.array([[1, 0.956, 0.621], [1, -0.272, -0.647], [1, -1.107, 1.705]])
    return cv2.transform(image, to_rgb @ turn @ to_yiq)


def _grey(image: np.ndarray) -> np.ndarray:
    """uint8 [h, w]: ITU-R 601 luma in 16-bit fixed point, rounded; sums below 2^24 are exact in float32."""
    weighted = cv2.transform(image.astype(np.float32), np.array([[19595, 38470, 7471, 32768]], np.float32))
    return (weighted * np.float32(1 / 65536)).astype(np.uint8)


def _blend(base: np.ndarray | np.uint8, image: np.ndarray, factor: float) -> np.ndarray:
    """base + factor * (image - base), in float32, clipped to 0 .. 255 and truncated to uint8."""
    mixed = np.subtract(image, base, dtype=np.float32)
    mixed *= np.float32(factor)
    mixed += base
    return mixed.clip(0, 255, out=mixed).astype(np.uint8)


def _turn_hsv_hue(image: np.ndarray, amount: float) -> np.ndarray:
    """Add `amount` to the hue, 0 .. 255 for the full circle: truncated to a whole number, then modulo 256."""
    turned = np.trunc(np.arange(256) + amount).astype(np.int64) % 256
    parts, kept = _hue_tables()
    result = np.empty_like(image)
    for top in range(0, len(image), STRIP_ROWS):
        strip = slice(top, top + STRIP_ROWS)
        hue, saturation, value = _hsv(image[strip])
        result[strip] = _rgb(turned.take(hue), saturation, value, parts, kept)
    return result


def _hsv(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue, saturation and value of uint8 RGB, each uint8 [h, w], truncated; float64 steps kept as float32."""
    red, green, blue = cv2.split(image)
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    is_red, is_green = red == value, green == value
    # Distances from the largest channel in units of the chroma; grey has distances 0, hence hue 0.
    unit = np.maximum(chroma, 1).astype(np.float32)
    before = (value - np.where(is_red, blue, np.where(is_green, red, green))) / unit
    after = (value - np.where(is_red, green, np.where(is_green, blue, red))) / unit
    sixths = (np.where(is_red, 0.0, np.where(is_green, 2.0, 4.0)) + before - after).astype(np.float32)
    turns = sixths.astype(np.float64) / 6.0 + 1.0
    hue = (turns - np.floor(turns)).astype(np.float32).astype(np.float64) * 255.0
    saturation = (chroma / np.maximum(value, 1).astype(np.float32)).astype(np.float64) * 255.0
    return hue.astype(np.uint8), saturation.astype(np.uint8), value


def _hue_tables() -> tuple[np.ndarray, np.ndarray]:
    """What a hue means for red, green and blue: parts uint8 [3, 256] and kept float64 [257, 256].

    `parts[channel, hue]` tells whether the channel is the largest (0), the middle (1) or the least (2).
    `kept[hue, saturation]` times the value is the middle one, `kept[256, saturation]` times it the least.
    """
    position = np.arange(256) * 6.0 / 255.0
    sector = np.floor(position).astype(np.int64)
    fraction = (position - sector).astype(np.float32)[:, None]
    share = (np.arange(256) / 255.0).astype(np.float32)
    falling = (share * fraction).astype(np.float64)
    rising = share * (1.0 - fraction.astype(np.float64))
    middle = np.where(sector[:, None] % 2 == 1, falling, rising)
    order = np.array([[0, 1, 2, 2, 1, 0], [1, 0, 0, 1, 2, 2], [2, 2, 1, 0, 0, 1]], np.uint8)
    return order[:, sector % 6], 1.0 - np.concatenate([middle, share[None].astype(np.float64)])


def _rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray, parts: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """uint8 RGB [h, w, 3] of int64 hue, uint8 saturation and value, rounded; parts, kept: `_hue_tables`."""
    middle = (value * kept.take(hue * 256 + saturation) + 0.5).astype(np.uint8)
    least = (value * kept[256].take(saturation) + 0.5).astype(np.uint8)
    channels = []
    for table in parts:
        part = table.take(hue)
        channels.append(np.where(part == 0, value, np.where(part == 1, middle, least)))
    return cv2.merge(channels)
