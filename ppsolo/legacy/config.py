"""Translates SOLOv2 configurations of PaddleDetection 0.5 and 2.x into configurations of ppsolo."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ppsolo.errors import ConfigError
from ppsolo.legacy.recipe import read_recipe
from ppsolo.legacy.sections import Note, Section
from ppsolo.legacy.yaml_files import merge, read_files

# Published backbones; in a configuration, the address ends with one of these.
BACKBONE_SUFFIXES = (".pdparams", ".tar")
# Keys of the section SOLOv2 in 0.5 and 2.x, and the parts that ppsolo has.
_PARTS = {
    "backbone": ("ResNet", "MobileNetV3RCNN"),
    **dict.fromkeys(("fpn", "neck"), ("FPN",)),
    **dict.fromkeys(("bbox_head", "solov2_head"), ("SOLOv2Head",)),
    "mask_head": ("SOLOv2MaskHead",),
}


class Imported(NamedTuple):
    """A translated configuration. tree: for `config_from_dict`. notes: differences from PaddleDetection."""

    tree: dict[str, Any]
    notes: tuple[Note, ...]


def import_config(file: Path, changes: Mapping[str, Any] | None = None) -> Imported:
    """Read a SOLOv2 configuration of PaddleDetection 0.5 or 2.x.

    file: its YAML file, with the files that it names at their usual places. changes: PaddleDetection's keys with new
    values, nested. Raises ConfigError for another architecture, and for a value that ppsolo cannot reproduce. Every
    other key without counterpart is in the notes.
    """
    return translate(merge(read_files(file), changes or {}), file.stem, file.name)


def translate(theirs: Mapping[str, Any], name: str, where: str) -> Imported:
    """Translate a result of `read_files`. name: of the system. where: the file, for errors."""
    notes: list[Note] = []
    top = Section("", theirs, where=where, notes=notes)
    architecture = top.take("architecture", "SOLOv2")
    if architecture != "SOLOv2":
        raise ConfigError(f"{where}: architecture is {architecture}: ppsolo has only SOLOv2")
    solo = top.section("SOLOv2")
    static = "bbox_head" in solo or "fpn" in solo or "max_iters" in top or "dataset" in top.section("TrainReader")
    for key, names in _PARTS.items():
        solo.expect(key, *names)
    mobile = solo.take("backbone") == "MobileNetV3RCNN"
    solo.finish()
    classes = top.number("num_classes", 81 if static else 80)
    head, head_tree, postprocess = _head(top)
    backbone, optimizer = _mobilenet(top) if mobile else _resnet(top, static)
    mask_head = _mask_head(top, head)
    head.finish()
    tree: dict[str, Any] = {
        "name": name,
        **_start(top),
        "num_classes": classes - 1 if static else classes,  # 0.5 counts the background
        "model": {
            "backbone": backbone,
            "neck": {"channels": _neck(top)},
            "mask_feature_head": mask_head,
            "head": head_tree,
            "dcn_bias": not static,
        },
        "postprocess": postprocess,
    }
    loss = top.section("SOLOv2Loss")
    recipe = read_recipe(top, static=static, num_grids=head_tree["num_grids"])
    recipe["train"]["loss"] = {
        "mask_weight": loss.number("ins_loss_weight", 3.0),
        "focal_alpha": loss.number("focal_loss_alpha", 0.25),
        "focal_gamma": loss.number("focal_loss_gamma", 2.0),
    }
    loss.finish()
    recipe["train"]["optimizer"] |= optimizer
    _machine(top)
    top.finish()
    return Imported(merge(tree, recipe), tuple(notes))


def backbone_or_weights(source: str) -> tuple[str, str]:
    """Return ppsolo's key and value for PaddleDetection's `pretrain_weights`.

    A file whose name ends in "_pretrained" is an ImageNet backbone, any other file a whole checkpoint. Published
    addresses become published names.
    """
    stem = source.rsplit("/", 1)[-1]
    for suffix in BACKBONE_SUFFIXES:
        stem = stem.removesuffix(suffix)
    published = "bcebos.com/" in source
    key = "pretrained_backbone" if stem.endswith("_pretrained") else "weights"
    return key, stem if published else source


def _start(top: Section) -> dict[str, Any]:
    """Return the weights that training starts from."""
    top.note("weights", "it is the start of a training; give -o weights=... to evaluate, predict or export")
    source = top.take("pretrain_weights")
    if not source:
        return {"pretrained_backbone": None}
    key, value = backbone_or_weights(str(source))
    return {key: value}


def _resnet(top: Section, static: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    net = top.section("ResNet")
    first = 2 if static else 0  # res2 is 2 in 0.5 and 0 in 2.x
    net.expect("feature_maps", [2, 3, 4, 5])
    net.expect("return_idx", [0, 1, 2, 3])
    net.expect("num_stages", 4)
    net.expect("groups", 1)
    net.expect("norm_decay", 0.0, 0)
    for key in ("nonlocal_stages", "gcb_stages"):
        net.expect(key, [])
    depth = net.number("depth", 50)
    if depth not in (50, 101):
        raise net.refusal("depth", f"is {depth}: choose 50 or 101")
    norm = net.take("norm_type", "affine_channel" if static else "bn")
    if norm not in ("bn", "sync_bn"):
        raise net.refusal("norm_type", f"is {norm!r}: set bn, or sync_bn on several GPUs")
    # The stem is 1 in 0.5; stem and res2 are 0 in 2.x; the stem is 0 in ppsolo.
    freeze_at = net.number("freeze_at", 2 if static else 0)
    frozen = freeze_at - 1 if static else (-1 if freeze_at < 0 else freeze_at + 1)
    backbone = {
        "type": "resnet",
        "depth": depth,
        "variant": net.take("variant", "b"),
        "dcn_stages": [stage - first + 1 for stage in net.numbers("dcn_v2_stages")],
        "norm": norm,
        "freeze_norm": net.take("freeze_norm", True),
        "frozen_stages": frozen,
    }
    factors = net.numbers("lr_mult_list")
    net.finish()
    return backbone, {"backbone_lr_factors": [] if all(factor == 1 for factor in factors) else factors}


def _mobilenet(top: Section) -> tuple[dict[str, Any], dict[str, Any]]:
    net = top.section("MobileNetV3RCNN")
    net.expect("feature_maps", [2, 3, 4, 6])
    net.expect("model_name", "large")
    net.expect("norm_decay", 0.0, 0)
    backbone = {
        "type": "mobilenetv3",
        "scale": net.number("scale", 1.0),
        "norm": net.take("norm_type", "bn"),
        "freeze_norm": net.take("freeze_norm", True),
    }
    optimizer = {
        "backbone_weight_decay": net.number("conv_decay", 0.0),
        "backbone_lr_factors": net.numbers("lr_mult_list"),
    }
    net.finish()
    return backbone, optimizer


def _neck(top: Section) -> int:
    neck = top.section("FPN")
    neck.expect("min_level", 2)
    neck.expect("max_level", 6)
    neck.expect("spatial_scale", [0.03125, 0.0625, 0.125, 0.25])
    neck.expect("spatial_scales", [0.25, 0.125, 0.0625, 0.03125])
    neck.expect("reverse_out", True)
    neck.expect("has_extra_convs", False)
    neck.expect("extra_stage", 1)
    neck.expect("norm_type", None)
    channels = neck.number("out_channel", neck.number("num_chan", 256))
    neck.finish()
    return channels


def _head(top: Section) -> tuple[Section, dict[str, Any], dict[str, Any]]:
    """Return the section of the head, its tree, and the tree of postprocessing."""
    head, nms = top.section("SOLOv2Head"), top.section("MaskMatrixNMS")
    head.expect("solov2_loss", "SOLOv2Loss")
    head.expect("mask_nms", "MaskMatrixNMS")
    tree = {
        "channels": head.number("seg_feat_channels", 256),
        "num_convs": head.number("stacked_convs", 4),
        "dcn_layers": head.numbers("dcn_v2_stages"),
        "drop_block": head.take("drop_block", False),
        "num_grids": head.numbers("num_grids", (40, 36, 24, 16, 12)),
    }
    postprocess = {
        "strides": head.numbers("segm_strides", (8, 8, 16, 32, 32)),
        "score_threshold": head.number("score_threshold", 0.1),
        "mask_threshold": head.number("mask_threshold", 0.5),
        "update_threshold": nms.number("update_threshold", 0.05),
        "pre_nms_top_n": nms.number("pre_nms_top_n", 500),
        "max_instances": nms.number("post_nms_top_n", 100),
        "nms_kernel": nms.take("kernel", "gaussian"),
        "nms_sigma": nms.number("sigma", 2.0),
    }
    nms.finish()
    return head, tree, postprocess


def _mask_head(top: Section, head: Section) -> dict[str, Any]:
    mask = top.section("SOLOv2MaskHead")
    mask.expect("start_level", 0)
    mask.expect("end_level", 3)
    out = mask.number("out_channels", 256)
    kernels = head.number("kernel_out_channels", 256)
    if out != kernels:
        raise mask.refusal("out_channels", f"is {out}, SOLOv2Head.kernel_out_channels {kernels}: make them equal")
    tree = {
        "mid_channels": mask.number("mid_channels", mask.number("in_channels", 128)),
        "out_channels": out,
        "deformable": mask.take("use_dcn_in_tower", False),
    }
    mask.finish()
    return tree


def _machine(top: Section) -> None:
    """Note keys about the machine, and keys for other tools."""
    gpu = "ppsolo uses a GPU if Paddle has one; use_gpu=false on the command line forces the CPU"
    top.note("use_gpu", gpu, unless=(True,))
    for key in ("use_xpu", "use_mlu", "use_npu", "use_gcu"):
        top.note(key, "ppsolo runs on CPUs and NVIDIA GPUs", unless=(False,))
    for key in ("print_flops", "print_params"):
        top.note(key, "not printed", unless=(False,))
    top.note("log_smooth_window", "losses are logged as means over log_every steps")
    top.note("find_unused_parameters", "gradients of unused parameters need no setting", unless=(False,))
    top.note("TestDataset", "class names come from the training annotations, or from class_names")
    export = top.section("export")
    export.note("post_process", "export --graph network leaves postprocessing out", unless=(True,))
    export.note("nms", "export --graph network leaves postprocessing out", unless=(True,))
    export.note("benchmark", "export --graph network leaves postprocessing out", unless=(False,))
    export.note("fuse_conv_bn", "norms are always folded into convolutions", unless=(True, False))
    export.finish()
