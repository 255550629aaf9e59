"""The masks of one image in training, each kept inside a box: thousands of small objects fit into memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ppsolo.results.rle import Rle, decode_window, mask_boxes_xywh

Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels, x2 and y2 excluded
NOTHING: Box = (0, 0, 0, 0)


@dataclass(frozen=True)
class CroppedMasks:
    """n masks of an image; its arrays must not be changed.

    size: (height, width) of the image.
    boxes: n boxes within the image; a mask is 0 outside of its box.
    parts: n arrays uint8 [y2 - y1, x2 - x1], 0 or 1: the masks inside their boxes.

    >>> masks = CroppedMasks.from_array(np.eye(3, dtype=np.uint8)[None])
    >>> masks.mirrored().to_array()[0].tolist()
    [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    """

    size: tuple[int, int]
    boxes: tuple[Box, ...]
    parts: tuple[np.ndarray, ...]

    @staticmethod
    def from_rles(rles: Sequence[Rle], size: tuple[int, int]) -> "CroppedMasks":
        """Decode checked compressed COCO RLEs of an image of `size` (height, width)."""
        boxes: list[Box] = []
        for left, top, width, height in mask_boxes_xywh(rles).astype(int).tolist():
            boxes.append((left, top, left + width, top + height) if width else NOTHING)
        parts = tuple(decode_window(rle, box).view(np.uint8) for rle, box in zip(rles, boxes, strict=True))
        return CroppedMasks(size, tuple(boxes), parts)

    @staticmethod
    def from_array(masks: np.ndarray) -> "CroppedMasks":
        """masks: uint8 [n, h, w], 0 or 1. Raises ValueError for another type or number of axes."""
        if masks.ndim != 3 or masks.dtype != np.uint8:
            raise ValueError(f"masks must be uint8 [n, h, w], not {masks.dtype} {list(masks.shape)}")
        boxes = [_bounds(mask) for mask in masks]
        parts = [mask[y1:y2, x1:x2].copy() for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True)]
        return CroppedMasks((masks.shape[1], masks.shape[2]), tuple(boxes), tuple(parts))

    def __len__(self) -> int:
        return len(self.parts)

    def to_array(self) -> np.ndarray:
        """Return uint8 [n, h, w], 0 or 1."""
        masks = np.zeros((len(self), *self.size), np.uint8)
        for mask, part, (x1, y1, x2, y2) in zip(masks, self.parts, self.boxes, strict=True):
            mask[y1:y2, x1:x2] = part
        return masks

    def some(self, chosen: np.ndarray) -> "CroppedMasks":
        """Return the masks where `chosen`, bool [n]."""
        rows = np.flatnonzero(chosen).tolist()
        return CroppedMasks(self.size, tuple(self.boxes[i] for i in rows), tuple(self.parts[i] for i in rows))

    def cut(self, window: Box) -> "CroppedMasks":
        """Return the masks of the image inside a window of it."""
        left, top, right, bottom = window
        boxes, parts = [], []
        for part, (x1, y1, x2, y2) in zip(self.parts, self.boxes, strict=True):
            inner = max(x1, left), max(y1, top), min(x2, right), min(y2, bottom)
            if inner[0] >= inner[2] or inner[1] >= inner[3]:
                boxes.append(NOTHING)
                parts.append(part[:0, :0])
            else:
                boxes.append((inner[0] - left, inner[1] - top, inner[2] - left, inner[3] - top))
                parts.append(part[inner[1] - y1 : inner[3] - y1, inner[0] - x1 : inner[2] - x1])
        return CroppedMasks((bottom - top, right - left), tuple(boxes), tuple(parts))

    def any(self) -> np.ndarray:
        """Say which masks have a pixel: bool [n]."""
        return np.array([part.any() for part in self.parts], bool)

    def resized(self, scale_y: float, scale_x: float, size: tuple[int, int]) -> "CroppedMasks":
        """Scale by nearest neighbour: the pixels that cv2.resize would take from whole masks.

        size: (height, width) that cv2.resize gives with these ratios.
        """
        if size == self.size:
            return self  # cv2.resize copies then, whatever the ratios
        height, width = self.size
        # A column and a row of indices; the other axis changes its size too, so that nothing is just copied.
        column, row = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
        rows = cv2.resize(column, None, fx=2, fy=scale_y, interpolation=cv2.INTER_NEAREST)[:, 0].astype(np.int64)
        columns = cv2.resize(row, None, fx=scale_x, fy=2, interpolation=cv2.INTER_NEAREST)[0].astype(np.int64)
        boxes, parts = [], []
        for part, (x1, y1, x2, y2) in zip(self.parts, self.boxes, strict=True):
            top, bottom = np.searchsorted(rows, (y1, y2)).tolist()
            left, right = np.searchsorted(columns, (x1, x2)).tolist()
            boxes.append((left, top, right, bottom))
            parts.append(part.take(rows[top:bottom] - y1, axis=0).take(columns[left:right] - x1, axis=1))
        return CroppedMasks(size, tuple(boxes), tuple(parts))

    def mirrored(self) -> "CroppedMasks":
        """Mirror the masks horizontally."""
        width = self.size[1]
        boxes = tuple((width - x2, y1, width - x1, y2) for x1, y1, x2, y2 in self.boxes)
        return CroppedMasks(self.size, boxes, tuple(part[:, ::-1] for part in self.parts))

    def turned(self, quarters: int) -> "CroppedMasks":
        """Turn the masks counter-clockwise by quarter turns, 0 to 3."""
        masks = self
        for _ in range(quarters):
            height, width = masks.size
            boxes = tuple((y1, width - x2, y2, width - x1) for x1, y1, x2, y2 in masks.boxes)
            masks = CroppedMasks((width, height), boxes, tuple(np.rot90(part) for part in masks.parts))
        return masks


def _bounds(mask: np.ndarray) -> Box:
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(mask)) if mask.size else NOTHING
    return x, y, x + width, y + height
