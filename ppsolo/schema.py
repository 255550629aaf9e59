"""The schema of a configuration: frozen dataclasses with the defaults, and what no system can be built from."""

from dataclasses import dataclass, field
from typing import Literal

from ppsolo.errors import ConfigError

MAX_NAME_BYTES = 255  # of a directory


@dataclass(frozen=True)
class BackboneConfig:
    """type resnet: depth, variant, dcn_stages, width, frozen_stages as in `ResNet`; mobilenetv3: scale.

    norm_groups: of norm gn, where freeze_norm means nothing.
    """

    type: Literal["resnet", "mobilenetv3"] = "resnet"
    depth: Literal[14, 26, 50, 101] = 50
    variant: Literal["b", "d"] = "b"
    dcn_stages: tuple[int, ...] = ()
    width: int = 64
    scale: float = 1.0
    norm: Literal["bn", "sync_bn", "gn"] = "bn"
    norm_groups: int = 32
    freeze_norm: bool = True
    frozen_stages: int = 1


@dataclass(frozen=True)
class NeckConfig:
    """channels of every pyramid level."""

    channels: int = 256


@dataclass(frozen=True)
class MaskFeatureHeadConfig:
    """out_channels is also the length of every predicted kernel."""

    mid_channels: int = 128
    out_channels: int = 256
    deformable: bool = False


@dataclass(frozen=True)
class HeadConfig:
    """The towers of the SOLOv2 head, and the grid of each of its five levels."""

    channels: int = 512
    num_convs: int = 4
    dcn_layers: tuple[int, ...] = ()
    drop_block: bool = False
    num_grids: tuple[int, ...] = (40, 36, 24, 16, 12)


@dataclass(frozen=True)
class ModelConfig:
    """The network; norm_groups and dcn_bias hold for both heads."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    neck: NeckConfig = field(default_factory=NeckConfig)
    mask_feature_head: MaskFeatureHeadConfig = field(default_factory=MaskFeatureHeadConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    norm_groups: int = 32
    dcn_bias: bool = False


@dataclass(frozen=True)
class PreprocessConfig:
    """How an image becomes the network's input; see `ppsolo.data.preprocess.Preprocess`."""

    short_side: int = 800
    long_side: int = 1333
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    normalize_first: bool = False
    round_sides: bool = False


@dataclass(frozen=True)
class PostprocessConfig:
    """Thresholds and limits; see `ppsolo.models.postprocess.SOLOv2Postprocess`."""

    strides: tuple[int, ...] = (8, 8, 16, 32, 32)
    score_threshold: float = 0.1
    mask_threshold: float = 0.5
    update_threshold: float = 0.05
    pre_nms_top_n: int = 500
    max_instances: int = 100
    nms_kernel: Literal["gaussian", "linear"] = "gaussian"
    nms_sigma: float = 2.0


@dataclass(frozen=True)
class DataConfig:
    """A COCO-format data set; its paths are relative to `root`. See `ppsolo.data.coco.CocoDataset`.

    val_annotations may be empty: then training goes on without evaluation. num_workers: processes that prepare
    batches, for each training process; 0 prepares them in between.
    """

    root: str = "data/coco"
    train_annotations: str = "annotations/instances_train2017.json"
    train_images: str = "train2017"
    val_annotations: str = "annotations/instances_val2017.json"
    val_images: str = "val2017"
    box_convention: Literal["exclusive", "inclusive"] = "exclusive"
    keep_empty: bool = False
    num_workers: int = 4


@dataclass(frozen=True)
class AugmentConfig:
    """What happens to a training image, in this order; see `ppsolo.data.augment`.

    color: arithmetic of `ColorDistort`. crop: `RandomCrop`, and what it does with instances that lose every pixel.
    flip: `RandomFlip`. turn: `RandomTurn`. One of short_sides is drawn for each image.
    """

    color: Literal["none", "hsv", "yiq"] = "none"
    crop: Literal["none", "keep_empty_masks", "drop_empty_masks"] = "none"
    short_sides: tuple[int, ...] = (800,)
    long_side: int = 1333
    flip: bool = True
    turn: bool = False


@dataclass(frozen=True)
class TargetsConfig:
    """Which instance is learned on which level; see `ppsolo.data.targets.make_targets`."""

    scale_ranges: tuple[tuple[float, ...], ...] = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))
    sampling_radius: float = 0.2


@dataclass(frozen=True)
class LossConfig:
    """See `ppsolo.models.losses.SOLOv2Criterion`."""

    mask_weight: float = 3.0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0


@dataclass(frozen=True)
class OptimizerConfig:
    """Momentum and decay; see `ppsolo.training.optim.build_optimizer`. clip_norm: largest joint norm of gradients."""

    momentum: float = 0.9
    weight_decay: float = 1e-4
    backbone_weight_decay: float | None = None
    backbone_lr_factors: tuple[float, ...] = ()
    free_neck_bias: bool = False
    clip_norm: float | None = None


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate. It is meant for steps of `images_per_step` images; scale_to_batch fits it to others.

    steps: times gamma at every milestone, in epochs. cosine: down to 0 along half a cosine. Both warm up linearly.
    """

    type: Literal["steps", "cosine"] = "steps"
    learning_rate: float = 0.01
    images_per_step: int = 16
    scale_to_batch: bool = True
    warmup_steps: int = 1000
    milestones: tuple[int, ...] = (8, 11)
    gamma: float = 0.1


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    output_dir: the run's directory is made in it, under the configuration's name.
    batch_size: images that a process takes through the network at once; accumulate: how many such batches make
        one step of the optimizer.
    ema_decay: average the weights, and evaluate and publish the average; null: do not.
    amp: automatic mixed precision, "O1" or "O2", on a GPU; parameters stay float32.
    non_finite: "stop" at a loss that is no number, at the latest when losses are next logged and before anything is
        written, or "skip" the step, which on a GPU costs a wait at every one; either way the images are named.
    evaluate_every: epochs from one evaluation to the next, 0: none. patience: evaluations without a better AP
        after which training ends, 0: never. pictures: validation images drawn at every evaluation.
    checkpoint_steps: steps from one checkpoint to the next within an epoch; one is written at its end anyway.
        keep_checkpoints: how many, newest first, stay. log_every: steps from one record to the next.
    """

    output_dir: str = "output"
    epochs: int = 12
    batch_size: int = 2
    accumulate: int = 1
    seed: int = 0
    ema_decay: float | None = None
    amp: Literal["none", "O1", "O2"] = "none"
    non_finite: Literal["stop", "skip"] = "stop"
    evaluate_every: int = 1
    patience: int = 0
    pictures: int = 4
    checkpoint_steps: int = 1000
    keep_checkpoints: int = 2
    log_every: int = 20
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)


@dataclass(frozen=True)
class Config:
    """One system. name: set by the reader to the file's stem. weights: a file, or a published name.

    pretrained_backbone: a file with ImageNet weights that training starts from, where `weights` is not given.

    class_names may be empty: then 80 classes are COCO's, any other number is numbered.
    category_ids: the ids written to COCO results; empty means COCO's own for 80 classes, else 1..n.
    """

    name: str = ""
    weights: str | None = None
    pretrained_backbone: str | None = None
    num_classes: int = 80
    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    model: ModelConfig = field(default_factory=ModelConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def check_config(config: Config, where: str) -> None:
    """Refuse what no system can be built from or trained, in the words of the file: ConfigError."""
    model, head = config.model, config.model.head
    # No network of use lies outside; a slip of the keyboard should not take all memory.
    limits = {
        "num_classes": (config.num_classes, 1, 100_000),
        "model.backbone.width": (model.backbone.width, 2, 1024),
        "model.backbone.scale": (model.backbone.scale, 0.01, 16),
        "model.backbone.frozen_stages": (model.backbone.frozen_stages, -1, 4),
        "model.neck.channels": (model.neck.channels, 1, 8192),
        "model.mask_feature_head.mid_channels": (model.mask_feature_head.mid_channels, 1, 8192),
        "model.mask_feature_head.out_channels": (model.mask_feature_head.out_channels, 1, 8192),
        "model.head.channels": (head.channels, 1, 8192),
        "model.head.num_convs": (head.num_convs, 1, 64),
        "model.norm_groups": (model.norm_groups, 1, 8192),
        "preprocess.short_side": (config.preprocess.short_side, 1, 16384),
        "preprocess.long_side": (config.preprocess.long_side, 1, 16384),
        "postprocess.pre_nms_top_n": (config.postprocess.pre_nms_top_n, 1, 100_000),
        "postprocess.max_instances": (config.postprocess.max_instances, 1, 100_000),
        "postprocess.nms_sigma": (config.postprocess.nms_sigma, 1e-6, 1e6),
        **{f"preprocess.std[{i}]": (std, 1e-6, 1e6) for i, std in enumerate(config.preprocess.std)},
        **{f"postprocess.strides[{i}]": (value, 0, 4096) for i, value in enumerate(config.postprocess.strides)},
        **{f"model.head.num_grids[{i}]": (grid, 1, 512) for i, grid in enumerate(head.num_grids)},
        **{f"model.head.dcn_layers[{i}]": (layer, 0, head.num_convs - 1) for i, layer in enumerate(head.dcn_layers)},
        **{f"model.backbone.dcn_stages[{i}]": (stage, 1, 4) for i, stage in enumerate(model.backbone.dcn_stages)},
    }
    for key, (value, lowest, highest) in limits.items():
        if not lowest <= value <= highest:
            raise ConfigError(f"{where}: {key} takes a number from {lowest} to {highest}, got {value!r}")
    for key in ("score_threshold", "mask_threshold", "update_threshold"):
        value = getattr(config.postprocess, key)
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"{where}: postprocess.{key} takes a number from 0 to 1, got {value!r}")
    for key in ("class_names", "category_ids"):
        values = getattr(config, key)
        if values and len(values) != config.num_classes:
            raise ConfigError(f"{where}: {key} has {len(values)} entries, num_classes is {config.num_classes}")
        if len(set(values)) != len(values):
            raise ConfigError(f"{where}: {key} has the same entry twice")
    fixed = {
        "model.head.num_grids": (head.num_grids, 5),
        "postprocess.strides": (config.postprocess.strides, 5),
        "preprocess.mean": (config.preprocess.mean, 3),
        "preprocess.std": (config.preprocess.std, 3),
    }
    for key, (values, expected) in fixed.items():
        if len(values) != expected:
            raise ConfigError(f"{where}: {key} takes {expected} values, got {len(values)}")
    for key, channels in (
        ("model.head.channels", head.channels),
        ("model.mask_feature_head.mid_channels", model.mask_feature_head.mid_channels),
        ("model.mask_feature_head.out_channels", model.mask_feature_head.out_channels),
    ):
        if channels % model.norm_groups:
            raise ConfigError(f"{where}: {key} {channels} is no multiple of norm_groups {model.norm_groups}")
    _check_backbone(config, where)
    _check_training(config, where)


def _check_backbone(config: Config, where: str) -> None:
    backbone = config.model.backbone
    narrowest = {"resnet": backbone.width // (2 if backbone.variant == "d" else 1), "mobilenetv3": 8}[backbone.type]
    if backbone.norm == "gn" and (backbone.norm_groups < 1 or narrowest % backbone.norm_groups):
        raise ConfigError(
            f"{where}: the backbone has layers of {narrowest} channels, no multiple of "
            f"model.backbone.norm_groups {backbone.norm_groups}"
        )


def _check_training(config: Config, where: str) -> None:
    train = config.train
    least = {
        "data.num_workers": (config.data.num_workers, 0),
        "train.epochs": (train.epochs, 1),
        "train.batch_size": (train.batch_size, 1),
        "train.accumulate": (train.accumulate, 1),
        "train.seed": (train.seed, 0),
        "train.evaluate_every": (train.evaluate_every, 0),
        "train.patience": (train.patience, 0),
        "train.pictures": (train.pictures, 0),
        "train.checkpoint_steps": (train.checkpoint_steps, 1),
        "train.keep_checkpoints": (train.keep_checkpoints, 1),
        "train.log_every": (train.log_every, 1),
        "train.augment.long_side": (train.augment.long_side, 1),
        **{f"train.augment.short_sides[{i}]": (side, 1) for i, side in enumerate(train.augment.short_sides)},
        "train.schedule.images_per_step": (train.schedule.images_per_step, 1),
        "train.schedule.warmup_steps": (train.schedule.warmup_steps, 0),
        "train.optimizer.weight_decay": (train.optimizer.weight_decay, 0),
        "train.targets.sampling_radius": (train.targets.sampling_radius, 0),
    }
    for key, (value, lowest) in least.items():
        if not value >= lowest:
            raise ConfigError(f"{where}: {key} must be at least {lowest}, got {value!r}")
    below_one = {"train.ema_decay": train.ema_decay, "train.optimizer.momentum": train.optimizer.momentum}
    for key, value in below_one.items():
        if value is not None and not 0.0 <= value < 1.0:
            raise ConfigError(f"{where}: {key} takes a number from 0 to below 1, got {value!r}")
    positive = {
        "train.schedule.learning_rate": train.schedule.learning_rate,
        "train.optimizer.clip_norm": train.optimizer.clip_norm,
    }
    for key, value in positive.items():
        if value is not None and not 0.0 < value < float("inf"):
            raise ConfigError(f"{where}: {key} must be above zero, got {value!r}")
    if not train.augment.short_sides:
        raise ConfigError(f"{where}: train.augment.short_sides takes one size or more")
    plain = config.name.isprintable() and "/" not in config.name and len(config.name.encode()) <= MAX_NAME_BYTES
    if not plain or config.name in ("", ".", ".."):
        raise ConfigError(f"{where}: name {config.name!r} cannot be the name of a run's directory")
    _check_scale_ranges(config, where)


def _check_scale_ranges(config: Config, where: str) -> None:
    ranges = config.train.targets.scale_ranges
    if len(ranges) != len(config.model.head.num_grids):
        raise ConfigError(f"{where}: train.targets.scale_ranges takes a range for each of the 5 levels")
    for level, bounds in enumerate(ranges):
        if len(bounds) != 2 or not bounds[0] <= bounds[1]:
            raise ConfigError(
                f"{where}: train.targets.scale_ranges[{level}] takes [smallest, largest], got {list(bounds)}"
            )
