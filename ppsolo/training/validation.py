"""Validation during training: the AP on the validation images, and pictures of a few of them."""

from contextlib import ExitStack
from typing import Any, TextIO

import numpy as np

from ppsolo.evaluation.evaluate import EvaluationSet, evaluate
from ppsolo.predictor import Predictor
from ppsolo.processes import ALONE, Processes
from ppsolo.progress import ProgressBar
from ppsolo.training.sinks import Metrics
from ppsolo.training.stop_request import EvaluationStopped, StopRequest

IOU_TYPES = ("segm", "bbox")
SHOWN_STATS = {"AP": 0, "AP50": 1, "AP75": 2}
PICTURE_THRESHOLD = 0.3  # least score of a drawn instance
GAP = 8  # pixels between prediction and truth


class Validation:
    """Called by the trainer; returns the metrics "val/segm_AP", ..., "val/bbox_AP", ..., in [0, 1], and pictures.

    predictor: holds the model in training. pictures: number of images to draw, prediction left, annotations right;
        always the same images, spread evenly over the annotated ones.
    console: shows progress; None: silent. stop: a request during the evaluation raises EvaluationStopped.
    """

    def __init__(
        self,
        predictor: Predictor,
        dataset: EvaluationSet,
        *,
        pictures: int = 0,
        processes: Processes = ALONE,
        console: TextIO | None = None,
        stop: StopRequest | None = None,
    ):
        self.predictor = predictor
        self.dataset = dataset
        self.processes = processes
        self.console = console
        self.stop = stop
        annotated = set(dataset.truth.image.tolist())
        candidates = [entry for index, entry in enumerate(dataset.images) if index in annotated]
        count = min(pictures, len(candidates))
        self.pictured = [candidates[i * len(candidates) // count] for i in range(count)]

    def __call__(self) -> Metrics:
        self.predictor.model.eval()
        with ExitStack() as stack:
            shown = None
            if self.console is not None:
                shown = stack.enter_context(ProgressBar("evaluate", stream=self.console))

            def progress(done: int, total: int | None) -> None:
                if self.stop is not None and self.stop.requested:
                    raise EvaluationStopped
                if shown is not None:
                    shown.update(done, total)

            report = evaluate(
                self.predictor, self.dataset, iou_types=IOU_TYPES, processes=self.processes, progress=progress
            ).report
        metrics: dict[str, float | np.ndarray] = {
            f"val/{kind}_{name}": report[kind]["stats"][index]
            for kind in IOU_TYPES
            for name, index in SHOWN_STATS.items()
        }
        if self.processes.is_main:
            metrics |= {f"val/image_{image_id}": self._picture(image_id, path) for image_id, path in self.pictured}
        return metrics

    def _picture(self, image_id: Any, path: Any) -> np.ndarray:
        """Return uint8 RGB [H, 2 W + gap, 3]."""
        image = self.predictor.read(path)
        predicted = self.predictor(image)
        truth = self.dataset.truth_of(image_id, predicted)
        gap = np.full((image.shape[0], GAP, 3), 255, np.uint8)
        left = predicted.draw(image, score_threshold=PICTURE_THRESHOLD, color_by="class")
        return np.concatenate([left, gap, truth.draw(image, color_by="class")], axis=1)
