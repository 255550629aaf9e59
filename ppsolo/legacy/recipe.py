"""Translates PaddleDetection's training recipe: data, readers, schedule, optimizer."""

from collections.abc import Mapping
from typing import Any

from ppsolo.legacy.sections import Note, Section, transforms
from ppsolo.legacy.yaml_files import TAG
from ppsolo.schema import PreprocessConfig

GPUS = 8  # number of GPUs that the published learning rates assume
COCO_IMAGES = 120_000  # images per epoch in the published schedules of 0.5: 90000 steps of 16 images are 12 epochs
COLOR = {"ColorDistort": "yiq", "RandomDistort": "hsv"}  # in 0.5 and in 2.x
# Transforms that ppsolo always applies.
PLAIN = ("DecodeImage", "Decode", "Poly2Mask", "Permute")
READ_KEYS = ("inputs_def", "shuffle", "drop_last", "drop_empty", "use_shared_memory", "collate_batch", "use_process")


def read_recipe(top: Section, *, static: bool, num_grids: list[Any]) -> dict[str, Any]:
    """The sections `preprocess`, `data` and `train` of a configuration. Raises ConfigError."""
    train = top.section("TrainReader")
    batch_size = train.number("batch_size", 1 if static else 2, least=1)
    augment, targets, means = _training_transforms(train, num_grids)
    for section in (top, train):
        section.note(
            "worker_num",
            "data.num_workers sets the number of reading processes; it depends on the machine",
        )
    preprocess, order = _evaluation(top, static)
    usual = PreprocessConfig()  # where EvalReader does not normalise
    if means and means != {key: preprocess.get(key, list(getattr(usual, key))) for key in means}:
        raise train.refusal("sample_transforms", "normalises differently from EvalReader: make mean and std equal")
    for key in READ_KEYS:
        train.take(key)
    data = {"box_convention": "inclusive" if static else "exclusive"}
    data |= _datasets(top, train, static)
    train.finish()
    images_per_step = batch_size * GPUS
    epochs, schedule = _schedule(top, images_per_step, static)
    ema = top.take("use_ema", False)
    decay = top.number("ema_decay", 0.9998)
    top.note("ema_decay_type", "the decay rises with the steps up to ema_decay", unless=("threshold",))
    top.expect("metric", "COCO", instead="convert annotations with `ppsolo import-data`")
    top.note("snapshot_iter", "a state is written after every epoch and every train.checkpoint_steps")
    return {
        "preprocess": {**preprocess, "normalize_first": order, "round_sides": not static},
        "data": data,
        "train": {
            "output_dir": top.take("save_dir", "output"),
            "epochs": epochs,
            "batch_size": batch_size,
            "ema_decay": decay if ema else None,
            "evaluate_every": top.take("snapshot_epoch", 1),
            "log_every": top.take("log_iter", 20),
            "augment": augment,
            "targets": targets,
            "optimizer": {**_optimizer(top), "free_neck_bias": static},
            "schedule": schedule,
        },
    }


def _training_transforms(
    reader: Section, num_grids: list[Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Translate the transforms of training images into the sections `augment` and `targets`, and mean and std."""
    augment: dict[str, Any] = {"color": "none", "crop": "none", "flip": False}
    targets: dict[str, Any] = {}
    means: dict[str, Any] = {}
    steps = {**transforms(reader, "sample_transforms"), **transforms(reader, "batch_transforms")}
    for name, step in steps.items():
        if name in COLOR:
            augment["color"] = COLOR[name]
        elif name == "RandomCrop":
            augment["crop"] = "drop_empty_masks" if step.take("is_mask_crop", False) else "keep_empty_masks"
        elif name in ("ResizeImage", "Resize", "RandomResize"):
            sides, augment["long_side"] = _sizes(step, name)
            augment["short_sides"] = sides
        elif name in ("RandomFlipImage", "RandomFlip"):
            step.expect("prob", 0.5)
            augment["flip"] = True
        elif name == "NormalizeImage":
            means = _normalize(step)
        elif name == "PadBatch":
            _pad(step)
        elif name == "Gt2Solov2Target":
            step.expect("num_grids", num_grids, instead="SOLOv2Head.num_grids is used for both")
            targets["scale_ranges"] = step.take("scale_ranges")
            targets["sampling_radius"] = step.number("coord_sigma", 0.2)
        elif name in PLAIN:
            for key in ("to_rgb", "to_bgr", "channel_first"):
                step.take(key)
        else:
            reader.notes.append(_without_counterpart(step, "left out of training"))
            continue
        step.finish()
    return augment, {key: value for key, value in targets.items() if value is not None}, means


def _evaluation(top: Section, static: bool) -> tuple[dict[str, Any], bool]:
    """Return size, mean and std of images to predict on, and whether they are normalised before the resize."""
    reader, test = top.section("EvalReader"), top.section("TestReader")
    steps = transforms(reader, "sample_transforms") or transforms(test, "sample_transforms")
    preprocess: dict[str, Any] = {}
    for name, step in steps.items():
        if name in ("ResizeImage", "Resize"):
            sides, long_side = _sizes(step, name)
            preprocess |= {"short_side": sides[0], "long_side": long_side}
        elif name == "NormalizeImage":
            preprocess |= _normalize(step)
        elif name in PLAIN:
            for key in ("to_rgb", "to_bgr", "channel_first"):
                step.take(key)
        else:
            reader.notes.append(_without_counterpart(step, "left out of evaluation"))
            continue
        step.finish()
    for step in transforms(reader, "batch_transforms").values():
        _pad(step)
    reader.note("batch_size", "give `ppsolo eval --batch_size`", unless=(1,))
    order = list(steps)
    resize = next((name for name in order if name.startswith("Resize")), "")
    first = not static
    if resize and "NormalizeImage" in order:
        first = order.index("NormalizeImage") < order.index(resize)
    return preprocess, first


def _sizes(step: Section, name: str) -> tuple[list[int], int]:
    """Return the shorter sides to draw from, and the limit of the longer side."""
    step.expect("interp", 1, instead="images are resized bilinearly")
    step.expect("keep_ratio", True)
    for key in ("use_cv2", "resize_box"):
        step.take(key)
    target = step.take("target_size", 800)
    pairs = [target] if isinstance(target, list) and target and isinstance(target[0], int) else target
    if name == "ResizeImage":  # in 0.5, the longer side is a separate key
        sides = target if isinstance(target, list) else [target]
        if not sides or not all(isinstance(side, int) for side in sides):
            raise step.refusal("target_size", f"must be shorter sides, got {target!r}")
        return sides, step.number("max_size", 1333)
    if isinstance(pairs, int):
        pairs = [[pairs, pairs]]
    if not isinstance(pairs, list) or not pairs or not all(map(_is_pair, pairs)):
        raise step.refusal("target_size", f"must be [shorter, longer] sides, got {target!r}")
    longest = {max(pair) for pair in pairs}
    if len(longest) > 1:
        raise step.refusal("target_size", "has several longer sides: ppsolo takes one")
    return [min(pair) for pair in pairs], longest.pop()


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(side, int) for side in value)


def _normalize(step: Section) -> dict[str, Any]:
    step.expect("is_scale", True)
    step.expect("is_channel_first", False)
    step.expect("norm_type", "mean_std")
    return {"mean": step.numbers("mean", (0.485, 0.456, 0.406)), "std": step.numbers("std", (0.229, 0.224, 0.225))}


def _pad(step: Section) -> None:
    step.expect("pad_to_stride", 32)
    step.take("use_padded_im_info")
    step.take("pad_gt")


def _datasets(top: Section, train: Section, static: bool) -> dict[str, Any]:
    """Return the files of both data sets; 0.5 names them in its readers."""
    evaluation = top.section("EvalReader")
    ours = train.section("dataset") if static else top.section("TrainDataset")
    theirs = evaluation.section("dataset") if static else top.section("EvalDataset")
    found: dict[str, Any] = {}
    roots: list[Any] = []
    for prefix, dataset in (("train", ours), ("val", theirs)):
        dataset.expect("name", "COCODataSet", instead="convert annotations with `ppsolo import-data`")
        if "dataset_dir" in dataset:
            roots.append(dataset.take("dataset_dir"))
        for key, word in (("anno_path", "annotations"), ("image_dir", "images")):
            if key in dataset:
                found[f"{prefix}_{word}"] = dataset.take(key)
        dataset.take("data_fields")
        dataset.take("with_background")
        dataset.note("sample_num", "all images are used", unless=(-1,))
        if prefix == "train" and "allow_empty" in dataset:
            found["keep_empty"] = bool(dataset.take("allow_empty"))
        dataset.note("empty_ratio", "data.keep_empty keeps all empty images or none", unless=(1.0, 1))
        dataset.note("allow_empty", "evaluation uses every image", unless=(False, True))
        dataset.finish()
    if any(root != roots[0] for root in roots):
        raise theirs.refusal("dataset_dir", "differs from the training data's: give one folder that contains both")
    return found | ({"root": roots[0]} if roots else {})


def _schedule(top: Section, images_per_step: int, static: bool) -> tuple[int, dict[str, Any]]:
    """Return the epochs, and the section `schedule`."""
    rate = top.section("LearningRate")
    schedule: dict[str, Any] = {
        "learning_rate": rate.number("base_lr", 0.01),
        "images_per_step": images_per_step,
    }
    steps = COCO_IMAGES / images_per_step if "max_iters" in top else 1.0
    epochs = _epochs(top.number("max_iters") if "max_iters" in top else top.number("epoch", 12), steps)
    if "max_iters" in top:
        top.note("max_iters", f"{epochs} epochs of COCO's size; set train.epochs for a data set of another size")
    entries = rate.take("schedulers", [])
    if not isinstance(entries, list):
        raise rate.refusal("schedulers", "must be a list")
    for entry in entries:
        if not isinstance(entry, Mapping) or not (entry.get(TAG) or entry.get("name")):
            raise rate.refusal("schedulers", f"holds {entry!r}, which is not a scheduler")
        kind = str(entry.get(TAG) or entry.get("name"))
        step = Section(f"LearningRate.{kind}", entry, where=top.where, notes=top.notes)
        step.take("name")
        step.take("use_warmup")
        if kind == "PiecewiseDecay":
            schedule["type"] = "steps"
            schedule["milestones"] = [_epochs(value, steps) for value in step.numbers("milestones")]
            schedule["gamma"] = _gamma(step)
        elif kind == "CosineDecay":
            schedule["type"] = "cosine"
            step.note("max_epochs", "the cosine ends with the last epoch", unless=(epochs,))
            step.note("max_iters", "the cosine ends with the last epoch")
            step.expect("min_lr_ratio", 0.0, 0)
        elif kind == "LinearWarmup":
            schedule["warmup_steps"] = step.number("steps", 500)
            step.note("start_factor", "the warm-up starts at 0", unless=(0, 0.0))
        else:
            raise rate.refusal("schedulers", f"has {kind}; ppsolo has PiecewiseDecay, CosineDecay and LinearWarmup")
        step.finish()
    rate.finish()
    return epochs, schedule


def _epochs(value: float, steps: float) -> int:
    """Convert steps to whole epochs, rounded to the nearest, at least 1."""
    return max(1, int(value / steps + 0.5))


def _gamma(step: Section) -> float:
    """Return the one factor for all milestones; 2.x may list factors of the base rate instead."""
    if not isinstance(step.take("gamma"), list):
        return float(step.number("gamma", 0.1))
    gamma = step.numbers("gamma")
    first = float(gamma[0]) if gamma else 0.1
    if any(abs(value - first ** (place + 1)) > 1e-9 for place, value in enumerate(gamma)):
        raise step.refusal("gamma", f"is {gamma}: ppsolo lowers the rate by one factor at every milestone")
    return first


def _optimizer(top: Section) -> dict[str, Any]:
    builder = top.section("OptimizerBuilder")
    optimizer, regularizer = builder.section("optimizer"), builder.section("regularizer")
    optimizer.expect("type", "Momentum")
    optimizer.expect("use_nesterov", False)
    regularizer.expect("type", "L2")
    tree = {
        "momentum": optimizer.number("momentum", 0.9),
        "weight_decay": regularizer.number("factor", 1e-4),
    }
    norm = builder.take("clip_grad_by_norm")
    builder.expect("clip_grad_by_value", None, instead="use train.optimizer.clip_norm")
    for section in (optimizer, regularizer, builder):
        section.finish()
    return tree if norm is None else {**tree, "clip_norm": norm}


def _without_counterpart(step: Section, instead: str) -> Note:
    return Note(step.path, f"ppsolo has no such transform; {instead}")
