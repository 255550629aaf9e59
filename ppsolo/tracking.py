"""Tracking: gives an object in a video the same number in every frame, with ByteTrack."""

import itertools
from typing import Any

import numpy as np

from ppsolo.errors import ConfigError
from ppsolo.results.instances import Instances

UNTRACKED = -1
LEAST_SCORE = 0.3  # an instance below it gets no new number, but can keep one
PATIENCE = 1.0  # seconds that an unseen object keeps its number


class Tracker:
    """Numbers the instances of successive frames, class by class.

    The package `trackers` does the work with ByteTrack (Zhang et al., arXiv 2110.06864) on the boxes of masks. An
    object has its number from its second frame on. If its class changes, it gets another number.
    """

    def __init__(self, *, frame_rate: float = 25.0):
        """frame_rate: frames per second. Raises ConfigError if the package is missing."""
        try:
            import supervision
            from trackers import ByteTrackTracker
        except ImportError as error:
            raise ConfigError("--track needs the package trackers: pip install 'ppsolo[track]'") from error
        self._detections = supervision.Detections
        self._make = lambda: ByteTrackTracker(
            frame_rate=frame_rate,
            lost_track_buffer=max(1, round(30 * PATIENCE)),  # in frames at 30 per second; the tracker scales it
            track_activation_threshold=LEAST_SCORE,
            high_conf_det_threshold=LEAST_SCORE,
            minimum_consecutive_frames=1,
        )
        self._trackers: dict[int, Any] = {}
        self._numbers: dict[tuple[int, int], int] = {}
        self._next = itertools.count(1)

    def update(self, instances: Instances) -> np.ndarray:
        """Return the number of each instance of the next frame: int64 [n], from 1; -1 for none.

        Call it for every frame, also for a frame without instances.
        """
        numbers = np.full(len(instances), UNTRACKED, np.int64)
        for label in sorted({*instances.labels.tolist(), *self._trackers}):
            rows = np.flatnonzero((instances.labels == label) & (instances.areas > 0))
            if label not in self._trackers:
                self._trackers[label] = self._make()
            found = self._trackers[label].update(
                self._detections(
                    xyxy=instances.boxes[rows].astype(np.float32),
                    confidence=instances.scores[rows].astype(np.float32),
                    class_id=instances.labels[rows].astype(int),
                    data={"row": rows},
                )
                if len(rows)
                else self._detections.empty()
            )
            for row, own in zip(found.data.get("row", ()), found.tracker_id, strict=False):
                if own >= 0:
                    numbers[int(row)] = self._number(label, int(own))
        return numbers

    def _number(self, label: int, own: int) -> int:
        """Return the number of an identity, unique over all classes."""
        if (label, own) not in self._numbers:
            self._numbers[label, own] = next(self._next)
        return self._numbers[label, own]
