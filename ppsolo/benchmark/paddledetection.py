"""PaddleDetection's own training, for comparison; it needs its package `ppdet`."""

import contextlib
import importlib
import importlib.util
import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ppsolo.build.training import build_dataset
from ppsolo.data.sample import TrainingSample
from ppsolo.errors import DatasetError
from ppsolo.schema import Config

Batch = dict[str, Any]


def has_paddledetection() -> bool:
    """Whether `ppdet` is installed. Raises DatasetError if it is, but lacks a package that it needs."""
    if importlib.util.find_spec("ppdet") is None:
        return False
    try:
        with without_output():
            importlib.import_module("ppdet.modeling")
    except ImportError as error:
        raise DatasetError(f"PaddleDetection (ppdet) cannot be imported: {error}; install that or remove it") from error
    return True


def without_output() -> contextlib.AbstractContextManager[Any]:
    """Silence PaddleDetection's own output."""
    return contextlib.redirect_stdout(io.StringIO())


def paddledetection_targets(config: Config) -> Callable[[list[Batch]], Any]:
    """Its operator for targets, with the settings of a configuration; it takes samples from the next function."""
    from ppdet.data.transform.batch_operators import Gt2Solov2Target  # type: ignore[import-not-found]

    return Gt2Solov2Target(**_target_settings(config))


def paddledetection_sample(sample: TrainingSample, size: tuple[int, int]) -> Batch:
    """Convert a sample for its target operator; masks are padded to the size of the batch."""
    rows, columns = (padded - side for padded, side in zip(size, sample.size, strict=True))
    return {
        "image": np.zeros((3, *size), np.float32),
        "gt_bbox": sample.boxes.astype(np.float32),
        "gt_class": sample.labels.reshape(-1, 1).astype(np.int32),
        "gt_segm": np.pad(sample.masks.to_array(), ((0, 0), (0, rows), (0, columns))),
        "gt_poly": [],
        "is_crowd": np.zeros((len(sample.labels), 1), np.int32),
    }


def paddledetection_batches(config: Config) -> Iterator[Batch]:
    """Endless batches of its training reader, in this process, with the images and sizes of `config`."""
    from ppdet.data.reader import TrainReader  # type: ignore[import-not-found]
    from ppdet.data.source.coco import COCODataSet  # type: ignore[import-not-found]

    root, train = Path(config.data.root).resolve(), config.train
    dataset = COCODataSet(
        dataset_dir=str(root),
        image_dir=str(root / config.data.train_images),
        anno_path=str(root / config.data.train_annotations),
        data_fields=["image", "gt_bbox", "gt_class", "gt_poly", "is_crowd"],
    )
    dataset.parse_dataset()
    sizes = [[short, train.augment.long_side] for short in train.augment.short_sides]
    transforms: list[Batch] = [{"Decode": {}}, {"Poly2Mask": {}}]
    if train.augment.color != "none":
        transforms.append({"RandomDistort": {}})
    if train.augment.crop != "none":
        transforms.append({"RandomCrop": {}})
    transforms += [
        {"RandomResize": {"target_size": sizes, "keep_ratio": True, "interp": 1}},
        {"RandomFlip": {}},
        {"NormalizeImage": {"mean": list(config.preprocess.mean), "std": list(config.preprocess.std)}},
        {"Permute": {}},
    ]
    reader = TrainReader(
        sample_transforms=transforms,
        batch_transforms=[{"PadBatch": {"pad_to_stride": 32}}, {"Gt2Solov2Target": _target_settings(config)}],
        batch_size=train.batch_size,
        shuffle=True,
        drop_last=True,
    )
    return itertools.chain.from_iterable(itertools.repeat(reader(dataset, worker_num=0)))


def paddledetection_step(config: Config) -> Callable[[Batch], None]:
    """Return one training step: its network, loss, momentum and weight average, from random weights, on one batch."""
    from ppdet.optimizer import ModelEMA  # type: ignore[import-not-found]

    model = paddledetection_model(config)
    model.train()
    ema = ModelEMA(model, decay=config.train.ema_decay) if config.train.ema_decay else None
    settings = config.train.optimizer
    optimizer = paddle.optimizer.Momentum(
        1e-3,
        settings.momentum,
        parameters=model.parameters(),
        weight_decay=paddle.regularizer.L2Decay(settings.weight_decay),
    )

    def step(batch: Batch) -> None:
        model(batch)["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()
        if ema is not None:
            ema.update()

    return step


def _target_settings(config: Config) -> dict[str, Any]:
    return {
        "num_grids": list(config.model.head.num_grids),
        "scale_ranges": [list(scales) for scales in config.train.targets.scale_ranges],
        "coord_sigma": config.train.targets.sampling_radius,
    }


def paddledetection_model(config: Config) -> Any:
    """Its network for a configuration with a ResNet whose stem is frozen, and perhaps more stages."""
    from ppdet.modeling.architectures import SOLOv2  # type: ignore[import-not-found]
    from ppdet.modeling.backbones import ResNet  # type: ignore[import-not-found]
    from ppdet.modeling.heads.solov2_head import SOLOv2Head, SOLOv2MaskHead  # type: ignore[import-not-found]
    from ppdet.modeling.layers import MaskMatrixNMS  # type: ignore[import-not-found]
    from ppdet.modeling.losses import SOLOv2Loss  # type: ignore[import-not-found]
    from ppdet.modeling.necks import FPN  # type: ignore[import-not-found]

    backbone, features, head = config.model.backbone, config.model.mask_feature_head, config.model.head
    return SOLOv2(
        backbone=ResNet(
            depth=backbone.depth,
            variant=backbone.variant,
            norm_type="bn",  # the norm of a training with one process
            freeze_norm=backbone.freeze_norm,
            freeze_at=backbone.frozen_stages - 1,
            return_idx=[0, 1, 2, 3],
            dcn_v2_stages=[stage - 1 for stage in backbone.dcn_stages] or [-1],
        ),
        neck=FPN(in_channels=[256, 512, 1024, 2048], out_channel=config.model.neck.channels),
        mask_head=SOLOv2MaskHead(
            mid_channels=features.mid_channels,
            out_channels=features.out_channels,
            start_level=0,
            end_level=3,
            use_dcn_in_tower=features.deformable,
        ),
        solov2_head=SOLOv2Head(
            num_classes=len(build_dataset(config).category_ids),
            in_channels=config.model.neck.channels,
            seg_feat_channels=head.channels,
            stacked_convs=head.num_convs,
            num_grids=list(head.num_grids),
            kernel_out_channels=features.out_channels,
            dcn_v2_stages=list(head.dcn_layers),
            drop_block=head.drop_block,
            solov2_loss=SOLOv2Loss(),
            mask_nms=MaskMatrixNMS(),
        ),
    )
