"""From configuration to objects: the one place where config meets code."""

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
from ppsolo.data.classes import default_category_ids, default_class_names
from ppsolo.data.coco import CocoDataset, ImageRecord
from ppsolo.data.loader import BatchMaker, TrainingLoader
from ppsolo.data.preprocess import Preprocess
from ppsolo.models.fpn import FPN
from ppsolo.models.head import SOLOv2Head
from ppsolo.models.losses import SOLOv2Criterion
from ppsolo.models.mask_feature import MaskFeatureHead
from ppsolo.models.mobilenetv3 import MobileNetV3
from ppsolo.models.postprocess import SOLOv2Postprocess
from ppsolo.models.resnet import ResNet
from ppsolo.models.solov2 import SOLOv2
from ppsolo.schema import BackboneConfig, Config

RESNET_BLOCKS = {14: (1, 1, 1, 1), 26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def build_model(config: Config) -> SOLOv2:
    """The network of `config`, freshly initialised, in train mode.

    backbone: image [N, 3, H, W] -> C2..C5, strides 4..32
    neck: C2..C5 -> P2..P6, strides 4..64
    mask_feature_head: P2..P5 -> [N, E, H/4, W/4]
    head: P2..P6 -> per level category logits [N, C, S, S] and kernels [N, E, S, S]
    """
    model = config.model
    backbone = build_backbone(model.backbone)
    return SOLOv2(
        backbone=backbone,
        neck=FPN(backbone.out_channels, model.neck.channels),
        mask_feature_head=MaskFeatureHead(
            in_channels=model.neck.channels,
            mid_channels=model.mask_feature_head.mid_channels,
            out_channels=model.mask_feature_head.out_channels,
            norm_groups=model.norm_groups,
            deformable=model.mask_feature_head.deformable,
            dcn_bias=model.dcn_bias,
        ),
        head=SOLOv2Head(
            num_classes=config.num_classes,
            in_channels=model.neck.channels,
            channels=model.head.channels,
            num_convs=model.head.num_convs,
            kernel_channels=model.mask_feature_head.out_channels,
            num_grids=model.head.num_grids,
            dcn_layers=model.head.dcn_layers,
            dcn_bias=model.dcn_bias,
            norm_groups=model.norm_groups,
            drop_block=model.head.drop_block,
        ),
    )


def build_backbone(config: BackboneConfig) -> ResNet | MobileNetV3:
    """The backbone alone, with `out_channels` of C2..C5."""
    if config.type == "mobilenetv3":
        return MobileNetV3(
            scale=config.scale, norm=config.norm, freeze_norm=config.freeze_norm, norm_groups=config.norm_groups
        )
    return ResNet(
        blocks=RESNET_BLOCKS[config.depth],
        variant=config.variant,
        dcn_stages=config.dcn_stages,
        norm=config.norm,
        freeze_norm=config.freeze_norm,
        frozen_stages=config.frozen_stages,
        width=config.width,
        norm_groups=config.norm_groups,
    )


def build_preprocess(config: Config) -> Preprocess:
    """What turns an image into the network's input."""
    preprocess = config.preprocess
    return Preprocess(
        short_side=preprocess.short_side,
        long_side=preprocess.long_side,
        mean=preprocess.mean,
        std=preprocess.std,
        normalize_first=preprocess.normalize_first,
        round_sides=preprocess.round_sides,
    )


def build_postprocess(config: Config) -> SOLOv2Postprocess:
    """What turns raw predictions into detections."""
    postprocess = config.postprocess
    return SOLOv2Postprocess(
        strides=postprocess.strides,
        score_threshold=postprocess.score_threshold,
        mask_threshold=postprocess.mask_threshold,
        update_threshold=postprocess.update_threshold,
        pre_nms_top_n=postprocess.pre_nms_top_n,
        max_instances=postprocess.max_instances,
        nms_kernel=postprocess.nms_kernel,
        nms_sigma=postprocess.nms_sigma,
    )


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


def class_names(config: Config) -> tuple[str, ...]:
    """One name per label."""
    return config.class_names or default_class_names(config.num_classes)


def category_ids(config: Config) -> tuple[int, ...]:
    """One COCO category id per label."""
    return config.category_ids or default_category_ids(config.num_classes)
