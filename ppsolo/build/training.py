"""Builds everything that training needs: data set, loader, criterion, schedule, optimizer, trainer."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

import paddle
from paddle.optimizer.lr import LRScheduler

from ppsolo.build.network import build_model
from ppsolo.build.pipeline import build_reader
from ppsolo.data.augment import (
    ColorDistort,
    DistortAndCrop,
    Normalize,
    RandomCrop,
    RandomFlip,
    RandomTurn,
    Resize,
    Transform,
)
from ppsolo.data.coco import CocoDataset, ImageRecord
from ppsolo.data.loader import BatchMaker, TrainingLoader
from ppsolo.errors import ConfigError
from ppsolo.evaluation.evaluate import EvaluationSet
from ppsolo.models.losses import SOLOv2Criterion
from ppsolo.models.solov2 import SOLOv2
from ppsolo.predictor import Predictor
from ppsolo.processes import Processes
from ppsolo.schema import Config, OptimizerConfig, ScheduleConfig
from ppsolo.training import optim
from ppsolo.training.ema import ExponentialMovingAverage
from ppsolo.training.precision import Precision
from ppsolo.training.schedule import WarmupCosine, WarmupPiecewise
from ppsolo.training.sinks import Sink
from ppsolo.training.stop_request import StopRequest
from ppsolo.training.trainer import Trainer
from ppsolo.training.validation import Validation

logger = logging.getLogger(__name__)

LONGEST_AUTO_WARMUP = 1000  # steps, as in the published systems


def build_criterion(config: Config) -> SOLOv2Criterion:
    """Return the criterion: the losses of raw predictions."""
    loss = config.train.loss
    return SOLOv2Criterion(
        mask_loss_weight=loss.mask_weight, focal_alpha=loss.focal_alpha, focal_gamma=loss.focal_gamma
    )


def build_dataset(config: Config) -> CocoDataset:
    """Return the training images. Raises DatasetError."""
    data = config.data
    root = Path(data.root)
    return CocoDataset(
        root / data.train_annotations,
        root / data.train_images,
        box_convention=data.box_convention,
        keep_empty=data.keep_empty,
    )


def build_transforms(config: Config) -> tuple[Transform, ...]:
    """Return the augmentation of a training sample, in order; normalisation follows it."""
    recipe, boxes = config.train.augment, config.data.box_convention
    color = None if recipe.color == "none" else ColorDistort(recipe.color)
    crop = None if recipe.crop == "none" else RandomCrop(drop_empty_masks=recipe.crop == "drop_empty_masks")
    transforms: list[Transform] = [transform for transform in (color, crop) if transform is not None]
    if color is not None and crop is not None:
        transforms = [DistortAndCrop(color, crop)]
    transforms.append(Resize(recipe.short_sides, recipe.long_side, config.preprocess.round_sides, boxes))
    if recipe.flip:
        transforms.append(RandomFlip(boxes))
    if recipe.turn:
        transforms.append(RandomTurn(boxes))
    return tuple(transforms)


def build_loader(
    config: Config, records: Sequence[ImageRecord], *, rank: int = 0, world_size: int = 1
) -> TrainingLoader:
    """Return batches of the records for process `rank` of `world_size`. Raises DatasetError for too few records."""
    train = config.train
    (r_mean, g_mean, b_mean), (r_std, g_std, b_std) = config.preprocess.mean, config.preprocess.std
    make_batch = BatchMaker(
        records=records,
        transforms=build_transforms(config),
        normalize=Normalize((r_mean, g_mean, b_mean), (r_std, g_std, b_std)),
        num_grids=config.model.head.num_grids,
        scale_ranges=tuple((lowest, highest) for lowest, highest in train.targets.scale_ranges),
        sampling_radius=train.targets.sampling_radius,
        largest_side=train.augment.long_side + 1,  # allow for rounding
        seed=train.seed,
        read=build_reader(config),
    )
    return TrainingLoader(
        make_batch,
        batch_size=train.batch_size,
        rank=rank,
        world_size=world_size,
        num_workers=config.data.num_workers,
    )


def scaled_rate(config: ScheduleConfig, images_per_step: int) -> tuple[float, str]:
    """Return the base learning rate for steps of so many images, and a line that explains it."""
    rate = config.learning_rate
    if not config.scale_to_batch:
        return rate, f"learning rate {rate:g} as given, {images_per_step} images a step"
    scaled = rate * images_per_step / config.images_per_step
    if images_per_step == config.images_per_step:
        return rate, f"learning rate {rate:g} for {images_per_step} images a step"
    return scaled, (
        f"learning rate {scaled:g}: {rate:g} is for {config.images_per_step} images a step, and this run has "
        f"{images_per_step} (train.schedule.scale_to_batch=false keeps it)"
    )


def warmup_steps(config: ScheduleConfig, *, total_steps: int) -> int:
    """Return the number of warm-up steps in a run of `total_steps`."""
    if config.warmup_steps == "auto":
        return min(LONGEST_AUTO_WARMUP, total_steps // 10)
    return config.warmup_steps


def build_schedule(config: ScheduleConfig, *, rate: float, steps_per_epoch: int, epochs: int) -> LRScheduler:
    """Return the schedule of a run with the base learning rate `rate`."""
    warmup = warmup_steps(config, total_steps=steps_per_epoch * epochs)
    if config.type == "cosine":
        return WarmupCosine(base=rate, warmup_steps=warmup, total_steps=steps_per_epoch * epochs)
    return WarmupPiecewise(
        base=rate,
        warmup_steps=warmup,
        milestones=config.milestones,
        steps_per_epoch=steps_per_epoch,
        gamma=config.gamma,
    )


def build_optimizer(config: OptimizerConfig, model: SOLOv2, schedule: LRScheduler) -> paddle.optimizer.Momentum:
    """Return the optimizer of the model's trainable parameters. Raises ConfigError."""
    try:
        return optim.build_optimizer(
            model,
            schedule,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            backbone_weight_decay=config.backbone_weight_decay,
            backbone_lr_factors=config.backbone_lr_factors,
            free_neck_bias=config.free_neck_bias,
        )
    except ValueError as error:
        raise ConfigError(f"train.optimizer: {error}") from None


def build_trainer(
    config: Config,
    loader: TrainingLoader,
    processes: Processes,
    *,
    validation_set: EvaluationSet | None = None,
    checkpoint: Callable[[Trainer, bool], None] | None = None,
    sinks: Sequence[Sink] = (),
    console: TextIO | None = None,
    stop: StopRequest | None = None,
) -> Trainer:
    """Return the trainer of a run; its model has random weights drawn with `train.seed`.

    validation_set: evaluated every `train.evaluate_every` epochs. checkpoint, sinks: see `Trainer`.
    console: shows the progress of evaluations. stop: a request to end training early.
    """
    train = config.train
    paddle.seed(train.seed)
    model = build_model(config)
    rate, line = scaled_rate(train.schedule, train.batch_size * train.accumulate * processes.world_size)
    logger.info(line)
    steps_per_epoch = max(1, loader.batches_per_epoch // train.accumulate)
    schedule = build_schedule(train.schedule, rate=rate, steps_per_epoch=steps_per_epoch, epochs=train.epochs)
    validation = None
    if validation_set is not None:
        predictor = Predictor(config, model=model)
        validation = Validation(
            predictor, validation_set, pictures=train.pictures, processes=processes, console=console, stop=stop
        )
    return Trainer(
        model=model,
        criterion=build_criterion(config),
        optimizer=build_optimizer(train.optimizer, model, schedule),
        schedule=schedule,
        loader=loader,
        epochs=train.epochs,
        precision=Precision(train.amp),
        accumulate=train.accumulate,
        clip_norm=train.optimizer.clip_norm,
        ema=None if train.ema_decay is None else ExponentialMovingAverage(model, decay=train.ema_decay),
        non_finite=train.non_finite,
        seed=train.seed,
        processes=processes,
        evaluate=validation,
        evaluate_every=train.evaluate_every,
        patience=train.patience,
        patience_from=warmup_steps(train.schedule, total_steps=steps_per_epoch * train.epochs),
        checkpoint=checkpoint,
        checkpoint_steps=train.checkpoint_steps,
        sinks=sinks,
        log_every=train.log_every,
        stop=stop,
    )
