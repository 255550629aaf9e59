"""The settings of a run of inference: its outputs, and when to stop reading a video or a stream."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ppsolo.results.instances import Instances


@dataclass(frozen=True)
class InferSettings:
    """What a run of inference writes.

    Attributes:
        output_dir: the folder to write to; it may not hold the pictures to read.
        draw_threshold: least score of drawn instances. Results hold every instance that postprocessing keeps.
        batch_size: images per run of the network.
        save: formats of the results, see `RunFiles`.
        pixel_size: micrometres per pixel, for tables; None: the value in each picture.
        drawings: whether to write drawings.
        text: label of a drawn instance: name and score, the score, or nothing.
        color: one colour per instance or per class; None: per instance in pictures, per class in videos.
        save_threshold: least score in results.
        legend: whether drawings list the classes with their colours; needs color "class".
        track: whether objects of a video get numbers, see `ppsolo.tracking.Tracker`.
    """

    output_dir: Path
    draw_threshold: float = 0.5
    batch_size: int = 1
    save: Sequence[str] = ()
    pixel_size: float | None = None
    drawings: bool = True
    text: Literal["labels", "scores", "none"] = "labels"
    color: Literal["class", "instance"] | None = None
    legend: bool = False
    save_threshold: float = 0.0
    track: bool = False

    @property
    def needs_pixels(self) -> bool:
        """Whether the picture's pixels are needed after prediction: for drawings and mean intensities."""
        return self.drawings or not {"csv", "parquet"}.isdisjoint(self.save)

    def draw(
        self,
        instances: Instances,
        image: np.ndarray,
        *,
        color: Literal["class", "instance"],
        track_ids: np.ndarray | None = None,
    ) -> np.ndarray:
        """Draw the instances on a copy of the image; `color` is used if the settings have none."""
        return instances.draw(
            image,
            score_threshold=self.draw_threshold,
            color_by=self.color or color,
            write_labels=self.text != "none",
            write_names=False if self.text == "scores" else None,
            legend=self.legend,
            track_ids=track_ids,
        )

    def count_drawn(self, instances: Instances) -> int:
        """Count the instances that `draw` shows: those with a sufficient score and at least one pixel."""
        return int((instances.above(self.draw_threshold).areas > 0).sum())


@dataclass(frozen=True)
class StreamLimits:
    """When to stop reading a video or a stream. None: no limit.

    Attributes:
        frames: most frames to predict on.
        seconds: most seconds to run.
        timeout: seconds to wait for a stream to open, and for each of its frames.
        reconnect: how many times in a row to open a broken stream again.
        every_frame: predict on every frame of a live source, even if it is late.
    """

    frames: int | None = None
    seconds: float | None = None
    timeout: float = 10.0
    reconnect: int = 3
    every_frame: bool = False


NO_LIMITS = StreamLimits()
