"""A training sample: one image with its instances."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ppsolo.data.masks import CroppedMasks

BoxConvention = Literal["exclusive", "inclusive"]


@dataclass(frozen=True)
class TrainingSample:
    """One image with its n instances; its arrays must not be changed.

    Attributes:
        image: uint8 or float32 [h, w, 3], RGB in 0 .. 255; after `Normalize` float32 [3, h, w].
        boxes: float32 [n, 4], xyxy in pixels of `image`.
        labels: int64 [n], classes from 0.
        masks: n masks of the current image.
        image_id: as in the annotation file.
        original_size: (height, width) of the image file.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: CroppedMasks
    image_id: int | str
    original_size: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the current image."""
        return self.masks.size
