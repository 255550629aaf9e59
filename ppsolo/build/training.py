"""Everything that training needs: data set, transforms, loader, criterion, optimizer, schedule, trainer."""

from collections.abc import Sequence
from pathlib import Path

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
from ppsolo.models.losses import SOLOv2Criterion
from ppsolo.schema import Config


def build_criterion(config: Config) -> SOLOv2Criterion:
    """What raw predictions and targets are judged by."""
    loss = config.train.loss
    return SOLOv2Criterion(
        mask_loss_weight=loss.mask_weight, focal_alpha=loss.focal_alpha, focal_gamma=loss.focal_gamma
    )


def build_dataset(config: Config) -> CocoDataset:
    """The training images. Raises DatasetError."""
    data = config.data
    root = Path(data.root)
    return CocoDataset(
        root / data.train_annotations,
        root / data.train_images,
        box_convention=data.box_convention,
        keep_empty=data.keep_empty,
    )


def build_transforms(config: Config) -> tuple[Transform, ...]:
    """What happens to a training sample before it is normalised, in order."""
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
    """Batches of the records for the process `rank` of `world_size`. Raises DatasetError for too few records."""
    train = config.train
    (r_mean, g_mean, b_mean), (r_std, g_std, b_std) = config.preprocess.mean, config.preprocess.std
    make_batch = BatchMaker(
        records=records,
        transforms=build_transforms(config),
        normalize=Normalize((r_mean, g_mean, b_mean), (r_std, g_std, b_std)),
        num_grids=config.model.head.num_grids,
        scale_ranges=tuple((lowest, highest) for lowest, highest in train.targets.scale_ranges),
        sampling_radius=train.targets.sampling_radius,
        largest_side=train.augment.long_side + 1,  # sides are rounded
        seed=train.seed,
    )
    return TrainingLoader(
        make_batch,
        batch_size=train.batch_size,
        rank=rank,
        world_size=world_size,
        num_workers=config.data.num_workers,
    )
