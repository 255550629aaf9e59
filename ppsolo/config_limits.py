"""The limits of a configuration; impossible values are refused."""

from ppsolo.errors import ConfigError
from ppsolo.schema import Config
from ppsolo.text import counted

MAX_NAME_BYTES = 255  # limit for a directory's name


def check_config(config: Config, where: str) -> None:
    """Raise ConfigError for a value that no system can have. where: names the file in the message."""
    model, head = config.model, config.model.head
    # The limits exceed any useful network; they keep a typing error from filling the memory.
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
            raise ConfigError(f"{where}: {key} must be a number from {lowest} to {highest}, got {value!r}")
    for key in ("score_threshold", "mask_threshold", "update_threshold"):
        value = getattr(config.postprocess, key)
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"{where}: postprocess.{key} must be a number from 0 to 1, got {value!r}")
    for key in ("class_names", "category_ids"):
        values = getattr(config, key)
        if values and len(values) != config.num_classes:
            given = f"{key} is for {counted(len(values), 'class')}"
            raise ConfigError(f"{where}: {given}, but num_classes is {config.num_classes}; make them equal")
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
            raise ConfigError(f"{where}: {key} must have {expected} values, got {len(values)}")
    for key, channels in (
        ("model.head.channels", head.channels),
        ("model.mask_feature_head.mid_channels", model.mask_feature_head.mid_channels),
        ("model.mask_feature_head.out_channels", model.mask_feature_head.out_channels),
    ):
        if channels % model.norm_groups:
            raise ConfigError(f"{where}: {key} {channels} is not a multiple of norm_groups {model.norm_groups}")
    _check_thresholds(config, where)
    _check_backbone(config, where)
    _check_training(config, where)


def _check_thresholds(config: Config, where: str) -> None:
    thresholds = config.postprocess.class_thresholds
    if thresholds and len(thresholds) != config.num_classes:
        raise ConfigError(
            f"{where}: postprocess.class_thresholds has {len(thresholds)} entries, "
            f"but num_classes is {config.num_classes}"
        )
    for i, value in enumerate(thresholds):
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"{where}: postprocess.class_thresholds[{i}] must be a number from 0 to 1, got {value!r}")


def _check_backbone(config: Config, where: str) -> None:
    backbone = config.model.backbone
    narrowest = {"resnet": backbone.width // (2 if backbone.variant == "d" else 1), "mobilenetv3": 8}[backbone.type]
    if backbone.norm == "gn" and (backbone.norm_groups < 1 or narrowest % backbone.norm_groups):
        raise ConfigError(
            f"{where}: the backbone has layers of {narrowest} channels, not a multiple of "
            f"model.backbone.norm_groups {backbone.norm_groups}"
        )


def _check_training(config: Config, where: str) -> None:
    train, warmup = config.train, config.train.schedule.warmup_steps
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
        **({} if warmup == "auto" else {"train.schedule.warmup_steps": (warmup, 0)}),
        "train.optimizer.weight_decay": (train.optimizer.weight_decay, 0),
        "train.targets.sampling_radius": (train.targets.sampling_radius, 0),
    }
    for key, (value, lowest) in least.items():
        if not value >= lowest:
            raise ConfigError(f"{where}: {key} must be at least {lowest}, got {value!r}")
    below_one = {"train.ema_decay": train.ema_decay, "train.optimizer.momentum": train.optimizer.momentum}
    for key, value in below_one.items():
        if value is not None and not 0.0 <= value < 1.0:
            raise ConfigError(f"{where}: {key} must be a number from 0 to below 1, got {value!r}")
    positive = {
        "train.schedule.learning_rate": train.schedule.learning_rate,
        "train.optimizer.clip_norm": train.optimizer.clip_norm,
    }
    for key, value in positive.items():
        if value is not None and not 0.0 < value < float("inf"):
            raise ConfigError(f"{where}: {key} must be above zero, got {value!r}")
    if not train.augment.short_sides:
        raise ConfigError(f"{where}: train.augment.short_sides must have at least one size")
    plain = config.name.isprintable() and "/" not in config.name and len(config.name.encode()) <= MAX_NAME_BYTES
    if not plain or config.name in ("", ".", ".."):
        raise ConfigError(f"{where}: name {config.name!r} cannot be the name of a run's directory")
    _check_scale_ranges(config, where)


def _check_scale_ranges(config: Config, where: str) -> None:
    ranges = config.train.targets.scale_ranges
    if len(ranges) != len(config.model.head.num_grids):
        raise ConfigError(f"{where}: train.targets.scale_ranges must have a range for each of the 5 levels")
    for level, bounds in enumerate(ranges):
        if len(bounds) != 2 or not bounds[0] <= bounds[1]:
            raise ConfigError(
                f"{where}: train.targets.scale_ranges[{level}] must be [smallest, largest], got {list(bounds)}"
            )
