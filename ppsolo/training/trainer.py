"""The training loop; the trainer gets the model, the loader and everything else ready-made."""

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from itertools import islice
from typing import Any, Literal

import numpy as np
import paddle
from paddle.optimizer.lr import LRScheduler

from ppsolo.data.loader import TrainingBatch, TrainingLoader
from ppsolo.data.targets import positive_counts
from ppsolo.errors import DatasetError, TrainingError
from ppsolo.models.losses import SOLOv2Criterion, Targets
from ppsolo.models.solov2 import SOLOv2
from ppsolo.processes import ALONE, Processes
from ppsolo.training.ema import ExponentialMovingAverage
from ppsolo.training.optim import clip_gradients, load_optimizer_state, optimizer_state
from ppsolo.training.precision import Precision
from ppsolo.training.sinks import Metrics, Sink
from ppsolo.training.state import TrainingState
from ppsolo.training.step_records import Step, StepRecords
from ppsolo.training.stop_request import EvaluationStopped, StopRequest

logger = logging.getLogger(__name__)

AP = "val/segm_AP"
MOST_OVERFLOWS = 20  # steps in a row; by then the loss scale has fallen from 65,536 to 1/16


class Trainer:
    """Trains a model. Read `fit`, `train_one_epoch` and `train_step` for the order of its work.

    model, criterion, optimizer, schedule, loader: ready to use; the schedule belongs to the optimizer.
    epochs: number of all epochs. accumulate: batches per step. clip_norm: largest joint norm of the gradients.
    ema: averaged weights; if given, evaluation uses them. precision: mixed or not.
    non_finite: what to do if a loss or gradient is not finite; the image ids are named in any case. "stop" raises
        TrainingError at the next check (`settle`): when losses are logged, and before an evaluation or a checkpoint.
        "skip" skips the step, before the weights change; ten skipped steps in a row raise TrainingError. It checks
        every step, so a GPU must wait after each.
    seed: the random numbers of a step (Python, numpy, Paddle) follow from seed, step and process.
    evaluate: measures the current model and returns metrics with "val/segm_AP"; called every `evaluate_every` epochs
        and after the last one. patience: training ends after so many evaluations without a better AP, 0: never;
        patience_from: the step after which evaluations count.
    checkpoint: `checkpoint(trainer, best)`: `best=True` after a new best AP, `False` for a state that training can
        resume from: after every epoch, every `checkpoint_steps` steps within it, and after a request to stop.
    sinks: get the mean losses, learning rate and times of every `log_every` steps, and the result of `evaluate`.
    stop: the request to end early; None: there is none.

    Attributes: epoch, step_in_epoch and step, the numbers already done; best_ap; stopped, whether `stop` ended `fit`.
    """

    def __init__(
        self,
        *,
        model: SOLOv2,
        criterion: SOLOv2Criterion,
        optimizer: paddle.optimizer.Momentum,
        schedule: LRScheduler,
        loader: TrainingLoader,
        epochs: int,
        precision: Precision,
        accumulate: int = 1,
        clip_norm: float | None = None,
        ema: ExponentialMovingAverage | None = None,
        non_finite: Literal["stop", "skip"] = "stop",
        seed: int = 0,
        processes: Processes = ALONE,
        evaluate: Callable[[], Metrics] | None = None,
        evaluate_every: int = 1,
        patience: int = 0,
        patience_from: int = 0,
        checkpoint: "Callable[[Trainer, bool], None] | None" = None,
        checkpoint_steps: int = 1000,
        sinks: Sequence[Sink] = (),
        log_every: int = 20,
        stop: StopRequest | None = None,
    ):
        self.model, self.criterion, self.optimizer, self.schedule = model, criterion, optimizer, schedule
        self.loader, self.epochs, self.accumulate = loader, epochs, accumulate
        self.precision, self.clip_norm, self.ema, self.non_finite = precision, clip_norm, ema, non_finite
        self.seed, self.processes = seed, processes
        self.evaluate, self.evaluate_every = evaluate, evaluate_every
        self.patience, self.patience_from = patience, patience_from
        self.checkpoint, self.checkpoint_steps = checkpoint, checkpoint_steps
        self.sinks, self.log_every = sinks, log_every
        self.stop, self.stopped = stop or StopRequest(), False
        self.steps_per_epoch = loader.batches_per_epoch // accumulate
        if self.steps_per_epoch == 0:
            raise TrainingError(
                f"an epoch has {loader.batches_per_epoch} batches, one step takes {accumulate}: lower train.accumulate"
            )
        self.epoch = self.step_in_epoch = self.step = 0
        self.best_ap = -1.0
        self._without_gain = self._overflows = 0
        self._skipped_in_all = 0  # steps for any reason; they change neither weights nor schedule
        self._trained = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
        state = model.state_dict()
        self._statistics = [state[name] for name in state if name.endswith(("._mean", "._variance"))]
        self._records = StepRecords(processes, non_finite)
        self._wishes: list[paddle.Tensor] = []  # of the newest steps: how many processes were asked to stop

    def fit(self) -> None:
        """Train from the current state to the last epoch, or until `patience` is used up.

        If `stop` asks for it, training ends after a step or during an evaluation: a state is written, and `stopped` is
        True. A run that resumes from that state continues with the next step, or repeats that evaluation.
        """
        while self.epoch < self.epochs and not self._gave_up() and not self.stopped:
            self.train_one_epoch()
            if not self.stopped:
                self.epoch, self.step_in_epoch = self.epoch + 1, 0
                last = self.epoch == self.epochs
                if (
                    self.evaluate is not None
                    and self.evaluate_every
                    and (last or self.epoch % self.evaluate_every == 0)
                ):
                    self._evaluate()
            self._checkpoint(best=False)
        if self._gave_up() and self.epoch < self.epochs:
            logger.info(
                "training ends after epoch %d of %d: %d evaluations gave no better AP (train.patience=0 trains to the "
                "end)",
                self.epoch,
                self.epochs,
                self._without_gain,
            )

    def train_one_epoch(self) -> None:
        """Train the remaining steps of the epoch; return early if `stop` asks for it."""
        self.model.train()
        first, end = self.step_in_epoch * self.accumulate, self.steps_per_epoch * self.accumulate
        with closing(self.loader.epoch(self.epoch, start=first, stop=end)) as batches:
            while self.step_in_epoch < self.steps_per_epoch and not self.stopped:
                start = time.perf_counter()
                try:
                    group = list(islice(batches, self.accumulate))
                except DatasetError:
                    if not self.stop.requested:
                        raise
                    self._end_here()  # the same signal has ended the data workers
                    return
                data_seconds = time.perf_counter() - start
                self.train_step(group)
                self.step, self.step_in_epoch = self.step + 1, self.step_in_epoch + 1
                last = self.step_in_epoch == self.steps_per_epoch
                log, save = self.step % self.log_every == 0, self.step % self.checkpoint_steps == 0 and not last
                if log or save or last:
                    self.settle()  # waits for the device; this is part of the steps' time
                self._records.add_seconds(time.perf_counter() - start, data_seconds)
                if log:
                    self._log()
                if self._asked_to_stop():
                    self._end_here()
                elif save:
                    self._checkpoint(best=False)

    def train_step(self, batches: Sequence[TrainingBatch]) -> paddle.Tensor:
        """Take an optimizer step; return float32 [3]: mask, category and total loss over all batches and processes.

        Nothing is read from the device, unless steps may be skipped. A skipped step changes nothing: neither weights,
        their average, running statistics, nor the learning rate.
        """
        skips = self.non_finite == "skip" or self.precision.level != "none"
        statistics = [(value, value.clone()) for value in self._statistics] if skips else []
        seed_step(self.seed, self.step, self.processes.rank)
        found = []
        for batch, (mask_share, category_share) in zip(batches, self._shares(batches), strict=True):
            # Copy all batches to the device first: a copy waits until the device has finished its earlier work.
            images, targets = paddle.to_tensor(batch.images), Targets.from_arrays(batch.targets)
            with self.precision.forward():
                raw = self.model(images)
            losses = self.criterion(raw, targets)
            mask, category = losses.mask * mask_share, losses.category * category_share
            total = mask + category
            self.precision.backward(total / len(batches))
            found.append(paddle.stack([mask, category, total]).detach())
        self.processes.average_gradients(self._trained)
        means = self._means(paddle.stack(found).mean(axis=0))
        image_ids = [batch.image_ids for batch in batches]
        self._records.add(Step(self.step, image_ids, found, means, self._finite(means)))
        if self.non_finite == "stop" or self.settle():
            self.precision.unscale(self.optimizer)
            if self.clip_norm is not None:
                with paddle.no_grad():
                    clip_gradients(self.model, self.clip_norm)
            taken = self.precision.step(self.optimizer)
            self._count_overflow(taken)
        else:
            taken = False
        if taken:
            if self.ema is not None:
                self.ema.update()
            self.schedule.step()
        else:
            self._skipped_in_all += 1
            for value, before in statistics:
                paddle.assign(before, value)
        self.optimizer.clear_grad(set_to_zero=False)
        return means

    def settle(self) -> bool:
        """See `StepRecords.settle`."""
        return self._records.settle()

    def published_weights(self) -> dict[str, np.ndarray]:
        """Return the weights to predict with: averaged ones if there is an average."""
        if self.ema is not None and self.ema.steps:
            return self.ema.weights()
        return {name: value.numpy() for name, value in self.model.state_dict().items()}

    def state(self) -> TrainingState:
        """Return everything that `load_state` needs to continue exactly. Raises like `settle`."""
        self.settle()
        arrays: dict[str, Mapping[str, np.ndarray]] = {
            "model": {name: value.numpy() for name, value in self.model.state_dict().items()},
            "optimizer": optimizer_state(self.optimizer, self.model),
        }
        record: dict[str, Any] = {
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "step": self.step,
            "best_ap": self.best_ap,
            "without_gain": self._without_gain,
            "skipped_in_all": self._skipped_in_all,
            "overflows": self._overflows,
            **self._records.state(),
            "precision": self.precision.state(),
            "ema": None,
        }
        if self.ema is not None:
            ema = self.ema.state_dict()
            arrays["ema"] = ema.pop("averages")
            record["ema"] = ema
        return TrainingState(arrays, record)

    def load_state(self, state: TrainingState) -> None:
        """Load a whole state. Raises TrainingError if any part is missing or does not fit."""
        record, arrays = state.record, state.arrays
        model = self.model.state_dict()
        weights = arrays.get("model", {})
        try:
            if {name: list(value.shape) for name, value in model.items()} != {
                name: list(value.shape) for name, value in weights.items()
            }:
                raise ValueError("its weights belong to another network")
            if (record["ema"] is None) != (self.ema is None):
                raise ValueError("only one of state and run has averaged weights (train.ema_decay)")
            if self.ema is not None:
                self.ema.load_state_dict({**record["ema"], "averages": arrays.get("ema", {})})
            load_optimizer_state(self.optimizer, self.model, arrays.get("optimizer", {}))
            self.precision.load_state(record["precision"])
            self.epoch, self.step_in_epoch, self.step = (record[k] for k in ("epoch", "step_in_epoch", "step"))
            self.best_ap, self._without_gain = record["best_ap"], record["without_gain"]
            self._records.load_state(record)
            self._skipped_in_all = record.get("skipped_in_all", 0)
            self._overflows = record.get("overflows", 0)
        except (KeyError, ValueError) as error:
            raise TrainingError(f"cannot resume: {error}; nothing is resumed in part") from None
        for name, value in model.items():
            value.set_value(weights[name])
        self.schedule.step(self.step - self._skipped_in_all)

    def _shares(self, batches: Sequence[TrainingBatch]) -> paddle.Tensor:
        """float32 [batches, 2]: the weights of each batch's mask and category loss in the mean over the step.

        The step's loss becomes a sum over the positives of all batches and processes, divided by their number. So it
        does not depend on how images are divided over batches and processes. With one batch the weights are 1.
        """
        counts = paddle.to_tensor([positive_counts(batch.targets) for batch in batches], dtype="float32")
        parts = len(batches) * self.processes.world_size
        masks, cells = self.processes.mean(counts.mean(axis=0))
        mask_shares = counts[:, 0] / masks.clip(min=1 / parts)
        category_shares = (counts[:, 1] + 1) / (cells + 1 / parts)
        return paddle.stack([mask_shares, category_shares], axis=1)

    def _means(self, losses: paddle.Tensor) -> paddle.Tensor:
        """float32 [3]: mean losses over processes. The same message exchanges whether they were asked to stop."""
        if self.processes.world_size == 1:
            return losses
        wish = paddle.to_tensor([float(self.stop.requested)])
        means = self.processes.mean(paddle.concat([losses, wish]))
        self._wishes.append(means[3])
        return means[:3]

    def _asked_to_stop(self) -> bool:
        """Whether any process was asked to stop: all processes get the same answer after the same step.

        On a GPU it is the answer of the step before, so that nobody waits for the device.
        """
        if self.processes.world_size == 1:
            return self.stop.requested
        late = 0 if self._wishes[0].place.is_cpu_place() else 1
        return len(self._wishes) > late and float(self._wishes.pop(0)) > 0.0

    def _end_here(self) -> None:
        self.stop.hear()
        self.stopped = True

    def _gave_up(self) -> bool:
        return self.patience > 0 and self._without_gain >= self.patience

    def _evaluate(self) -> None:
        assert self.evaluate is not None
        self.settle()
        try:
            with self._averaged():
                self.processes.share_weights(self.model)
                metrics = self.evaluate()
        except EvaluationStopped:
            self.epoch, self.step_in_epoch = self.epoch - 1, self.steps_per_epoch  # the evaluation is still to be done
            self._end_here()
            return
        ap = metrics[AP]
        if ap > self.best_ap:
            self.best_ap, self._without_gain = float(ap), 0
            self._checkpoint(best=True)
        elif self.step >= self.patience_from:
            self._without_gain += 1
        for sink in self.sinks:
            sink.log(metrics, self.step)

    def _averaged(self) -> AbstractContextManager[None]:
        return self.ema.applied() if self.ema is not None and self.ema.steps else nullcontext()

    def _checkpoint(self, *, best: bool) -> None:
        self.settle()
        if self.checkpoint is not None:
            self.checkpoint(self, best)

    def _log(self) -> None:
        means = self._records.take_means()
        if means is None:
            return
        metrics = {
            "train/loss": means.total,
            "train/loss_mask": means.mask,
            "train/loss_category": means.category,
            "train/learning_rate": float(self.optimizer.get_lr()),
            "train/step_seconds": means.step_seconds,
            "train/data_seconds": means.data_seconds,
            "train/epoch": self.epoch + 1,
        }
        if self.precision.level != "none":
            metrics["train/loss_scale"] = self.precision.loss_scale
        if self._skipped_in_all:
            metrics["train/skipped_steps"] = self._skipped_in_all
        for sink in self.sinks:
            sink.log(metrics, self.step)

    @paddle.no_grad()
    def _finite(self, losses: paddle.Tensor) -> paddle.Tensor:
        """bool []: whether losses and gradients are finite. Scaled gradients may overflow, so they are not checked.

        A kernel may turn nan into 0 in the forward pass, but not in the backward pass.
        """
        gradients = [] if self.precision.level != "none" else [parameter.grad for parameter in self._trained]
        sums = [losses.sum(), *(gradient.sum() for gradient in gradients if gradient is not None)]
        return paddle.isfinite(paddle.stack(sums)).all()

    def _count_overflow(self, taken: bool) -> None:
        """Count the steps that mixed precision skips in a row; raise TrainingError after too many."""
        self._overflows = 0 if taken else self._overflows + 1
        if self._overflows >= MOST_OVERFLOWS:
            raise TrainingError(
                f"the gradients of the last {MOST_OVERFLOWS} steps are not finite in mixed precision, down to a loss "
                f"scale of {self.precision.loss_scale:g}: lower the learning rate, or set train.amp=none"
            )


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed Python, numpy and Paddle with a number that depends only on the three arguments."""
    (number,) = np.random.SeedSequence((seed, step, rank)).generate_state(1).tolist()
    random.seed(number)
    np.random.seed(number)
    paddle.seed(number)
