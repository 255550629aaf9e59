"""The instances of one image as plain values, with a description of the image: the input of every writer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ppsolo.results.rle import Rle


@dataclass(frozen=True)
class ImageResults:
    """n instances of one image.

    Attributes:
        rles: n compressed COCO RLEs.
        scores: float32 [n], in [0, 1].
        labels: int64 [n], index into `class_names`.
        size: (height, width) in pixels.
        class_names: of all classes.
        category_ids: the COCO category id of each class.
        image: the pixels, uint8 RGB [height, width, 3], to measure intensities.
        image_path: the image's file, for formats that refer to it.
        image_name: the image's name in tables.
        image_id: its id in COCO results and tables.
        pixel_size: micrometres per pixel.
        track_ids: int64 [n], the number of each object in a video, from 1; -1 for none.
        extra: more values for each row of a table, such as the time of a video's frame.
    """

    rles: Sequence[Rle]
    scores: np.ndarray
    labels: np.ndarray
    size: tuple[int, int]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    image: np.ndarray | None = None
    image_path: Path | None = None
    image_name: str = ""
    image_id: int | str = 0
    pixel_size: float | None = None
    extra: Mapping[str, float | int | str] | None = None
    track_ids: np.ndarray | None = None

    @property
    def names(self) -> list[str]:
        """The class name of each instance."""
        return [self.class_names[label] for label in self.labels]
