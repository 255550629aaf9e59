"""The records of steps: losses are read from the device together, and losses that are not finite are handled."""

import logging
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import paddle

from ppsolo.errors import TrainingError
from ppsolo.processes import Processes

logger = logging.getLogger(__name__)

MOST_SKIPPED = 10  # steps in a row; beyond it, the weights themselves must be broken


class Step(NamedTuple):
    """Results of a step that stay on the device until they are read."""

    number: int  # from 0
    image_ids: list[tuple[int | str, ...]]  # of each batch
    found: list[paddle.Tensor]  # float32 [3] of each batch: mask, category and total loss
    losses: paddle.Tensor  # float32 [3], their mean over batches and processes
    finite: paddle.Tensor  # bool [], whether losses and gradients are


class StepMeans(NamedTuple):
    """Means over the steps since the last log: three losses, and seconds of a step and of its data."""

    mask: float
    category: float
    total: float
    step_seconds: float
    data_seconds: float


class StepRecords:
    """The steps since the last log. Their losses stay on the device until `settle` reads them back together."""

    def __init__(self, processes: Processes, non_finite: Literal["stop", "skip"]):
        """non_finite: see `Trainer`."""
        self._processes, self._non_finite = processes, non_finite
        self._skipped = 0  # steps in a row
        self._unsettled: list[Step] = []
        self._losses: list[np.ndarray] = []
        self._seconds: list[tuple[float, float]] = []

    def add(self, step: Step) -> None:
        """Take a step whose losses may not be there yet."""
        self._unsettled.append(step)

    def add_seconds(self, step_seconds: float, data_seconds: float) -> None:
        """Take the time of a step, and how much of it was spent on data."""
        self._seconds.append((step_seconds, data_seconds))

    def settle(self) -> bool:
        """Read the losses since the last call from the device; return whether they and the gradients were finite.

        Raises TrainingError for the first step that was not finite, unless it may be skipped.
        """
        steps, self._unsettled = self._unsettled, []
        if not steps:
            return True
        finite = paddle.stack([step.finite for step in steps]).numpy()
        losses = paddle.stack([step.losses for step in steps]).numpy()
        for step, good, means in zip(steps, finite, losses, strict=True):
            if good:
                self._skipped = 0
                self._losses.append(means)
            else:
                self._pass_over(step)
        return bool(finite.all())

    def take_means(self) -> StepMeans | None:
        """The means over the settled steps, which are then forgotten; None where none was finite."""
        if not self._losses:
            return None
        means = StepMeans(*(float(mean) for part in (self._losses, self._seconds) for mean in np.mean(part, axis=0)))
        self._losses.clear()
        self._seconds.clear()
        return means

    def state(self) -> dict[str, Any]:
        """What `load_state` needs."""
        return {"skipped": self._skipped, "recent_losses": [losses.tolist() for losses in self._losses]}

    def load_state(self, record: Mapping[str, Any]) -> None:
        """Load a state. Raises KeyError if a part is missing."""
        self._skipped = record["skipped"]
        self._losses = [np.array(losses, np.float32) for losses in record["recent_losses"]]
        self._unsettled.clear()

    def _pass_over(self, step: Step) -> None:
        """Name the images of a step that was not finite; raise TrainingError unless it may be skipped."""
        self._skipped += 1
        guilty = [
            ids for ids, losses in zip(step.image_ids, step.found, strict=True) if not np.isfinite(losses.numpy()).all()
        ]
        shares = self._processes.gather((guilty, step.image_ids))
        chosen = [ids for share, _ in shares for ids in share] or [ids for _, share in shares for ids in share]
        ids = ", ".join(str(image_id) for batch in chosen for image_id in batch)
        message = f"the loss or gradient of step {step.number + 1} is not finite; its images: {ids}"
        if self._non_finite == "stop":
            raise TrainingError(f"{message}; check these, lower the learning rate, or set train.non_finite=skip")
        if self._skipped >= MOST_SKIPPED:
            raise TrainingError(f"{message}; nor were the {MOST_SKIPPED - 1} steps before: lower the learning rate")
        logger.warning("%s; the step is skipped", message)
