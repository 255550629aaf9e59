"""PaddleDetection's keys that users type, and ppsolo's keys for them."""

from typing import Any

from ppsolo.legacy.yaml_files import ITS_KEYS

# PaddleDetection's key -> ppsolo's key, or a hint in words if there is no such key.
NEW_KEYS = {
    "epoch": "train.epochs",
    "max_iters": "train.epochs",
    "snapshot_epoch": "train.evaluate_every",
    "snapshot_iter": "train.checkpoint_steps",
    "log_iter": "train.log_every",
    "save_dir": "train.output_dir",
    "worker_num": "data.num_workers",
    "pretrain_weights": "pretrained_backbone (ImageNet) or weights (a whole checkpoint)",
    "finetune_exclude_pretrained_params": "weights (a class layer for other classes always starts from random weights)",
    "use_ema": "train.ema_decay (null: no average)",
    "ema_decay": "train.ema_decay",
    "metric": "nothing: COCO's metric is the only one",
    "architecture": "nothing: SOLOv2 is the only one",
    "use_gpu": "CUDA_VISIBLE_DEVICES= in the environment, which forces the CPU",
    "LearningRate.base_lr": "train.schedule.learning_rate",
    "LearningRate.schedulers": "train.schedule",
    "LearningRate": "train.schedule",
    "OptimizerBuilder.optimizer.momentum": "train.optimizer.momentum",
    "OptimizerBuilder.regularizer.factor": "train.optimizer.weight_decay",
    "OptimizerBuilder.clip_grad_by_norm": "train.optimizer.clip_norm",
    "OptimizerBuilder": "train.optimizer",
    "TrainReader.batch_size": "train.batch_size",
    "TrainReader.worker_num": "data.num_workers",
    "TrainReader.sample_transforms": "train.augment",
    "TrainReader": "train.augment, train.targets or train.batch_size",
    "EvalReader.batch_size": "`ppsolo eval --batch_size`",
    "EvalReader": "preprocess",
    "TestReader": "preprocess",
    "TrainDataset.dataset_dir": "data.root",
    "TrainDataset.anno_path": "data.train_annotations",
    "TrainDataset.image_dir": "data.train_images",
    "TrainDataset.allow_empty": "data.keep_empty",
    "TrainDataset": "data.root, data.train_annotations, data.train_images",
    "EvalDataset.dataset_dir": "data.root",
    "EvalDataset.anno_path": "data.val_annotations",
    "EvalDataset.image_dir": "data.val_images",
    "EvalDataset": "data.root, data.val_annotations, data.val_images",
    "TestDataset.anno_path": "class_names",
    "TestDataset": "class_names",
    "ResNet.depth": "model.backbone.depth",
    "ResNet.norm_type": "model.backbone.norm",
    "ResNet.freeze_at": "model.backbone.frozen_stages",
    "ResNet.freeze_norm": "model.backbone.freeze_norm",
    "ResNet.lr_mult_list": "train.optimizer.backbone_lr_factors",
    "ResNet": "model.backbone",
    "MobileNetV3RCNN": "model.backbone",
    "FPN": "model.neck.channels",
    "SOLOv2Head.score_threshold": "postprocess.score_threshold",
    "SOLOv2Head.mask_threshold": "postprocess.mask_threshold",
    "SOLOv2Head": "model.head",
    "SOLOv2MaskHead": "model.mask_feature_head",
    "SOLOv2Loss": "train.loss",
    "MaskMatrixNMS.post_nms_top_n": "postprocess.max_instances",
    "MaskMatrixNMS.update_threshold": "postprocess.update_threshold",
    "MaskMatrixNMS": "postprocess",
    "export": "the flags of `ppsolo export`",
    "export.post_process": "`ppsolo export --graph network`",
    "export.benchmark": "`ppsolo export --graph network`",
}


def new_key(key: str) -> str | None:
    """Return ppsolo's name for a dotted key of PaddleDetection; None if PaddleDetection has no such key."""
    parts = key.split(".")
    known = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((NEW_KEYS[prefix] for prefix in known if prefix in NEW_KEYS), None)


def split_changes(changes: list[tuple[str, Any]]) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    """Split changes into those of PaddleDetection's keys and those of ppsolo's keys, each in order."""
    names = ITS_KEYS | {"export", "ema_decay", "finetune_exclude_pretrained_params", "use_xpu", "use_npu", "use_mlu"}
    theirs = [(key, value) for key, value in changes if key.split(".")[0] in names]
    return theirs, [change for change in changes if change not in theirs]
