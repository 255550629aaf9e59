"""Configurations, descriptions of exports, and text from files."""

import hashlib
import json
from pathlib import Path

import yaml

from fuzzing.target import Target
from ppsolo.errors import PpsoloError

ROOT = Path(__file__).parents[2]

PADDLEDETECTION = b"""architecture: SOLOv2
pretrain_weights: https://paddledet.bj.bcebos.com/models/pretrained/ResNet50_cos_pretrained.pdparams
weights: output/model_final
epoch: 12
num_classes: 80
SOLOv2: {backbone: ResNet, neck: FPN, solov2_head: SOLOv2Head, mask_head: SOLOv2MaskHead}
ResNet: {depth: 50, norm_type: bn, freeze_at: 0, return_idx: [0, 1, 2, 3], num_stages: 4}
FPN: {out_channel: 256}
SOLOv2Head: {seg_feat_channels: 512, stacked_convs: 4, num_grids: [40, 36, 24, 16, 12], kernel_out_channels: 256}
SOLOv2MaskHead: {mid_channels: 128, out_channels: 256, start_level: 0, end_level: 3}
SOLOv2Loss: {ins_loss_weight: 3.0, focal_loss_gamma: 2.0, focal_loss_alpha: 0.25}
MaskMatrixNMS: {pre_nms_top_n: 500, post_nms_top_n: 100}
LearningRate:
  base_lr: 0.01
  schedulers:
  - !PiecewiseDecay {gamma: 0.1, milestones: [8, 11]}
  - !LinearWarmup {start_factor: 0., steps: 1000}
OptimizerBuilder:
  optimizer: {momentum: 0.9, type: Momentum}
  regularizer: {factor: 0.0001, type: L2}
worker_num: 2
TrainReader:
  sample_transforms:
  - Decode: {}
  - Poly2Mask: {}
  - Resize: {interp: 1, target_size: [800, 1333], keep_ratio: True}
  - RandomFlip: {}
  - NormalizeImage: {is_scale: true, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}
  - Permute: {}
  batch_transforms:
  - PadBatch: {pad_to_stride: 32}
  - Gt2Solov2Target: {num_grids: [40, 36, 24, 16, 12], coord_sigma: 0.2}
  batch_size: 2
  shuffle: true
TrainDataset:
  !COCODataSet {image_dir: train2017, anno_path: annotations/train.json, dataset_dir: dataset/coco}
EvalDataset:
  !COCODataSet {image_dir: val2017, anno_path: annotations/val.json, dataset_dir: dataset/coco}
"""


def _yaml(data: bytes, folder: Path) -> None:
    from ppsolo.config import load_config

    (folder / "x.yml").write_bytes(data)
    try:
        load_config(folder / "x.yml")
    except PpsoloError:
        load_config("solov2_r50_fpn_1x", [data.decode("utf-8", "surrogateescape")[:2000]])


def _yaml_seeds() -> list[bytes]:
    texts = [file.read_bytes() for file in sorted((ROOT / "configs").glob("*.yml"))[:6]]
    return [
        *texts,
        b"train.epochs=3",
        b"name: {a: 1}",
        b"!!set {a}",
        b"a: 2020-01-01",
        b"class_names: [a, 'b', \"\\u00e9\"]",
    ]


def _paddledetection(data: bytes, folder: Path) -> None:
    from ppsolo.config import config_from_dict
    from ppsolo.legacy.config import import_config
    from ppsolo.legacy.yaml_files import is_paddledetection

    (folder / "base.yml").write_bytes(b"num_classes: 3\n_BASE_: [x.yml]\n")
    (folder / "x.yml").write_bytes(data)
    is_paddledetection(folder / "x.yml")
    config_from_dict(import_config(folder / "x.yml").tree, "x.yml")


def _paddledetection_seeds() -> list[bytes]:
    lines = PADDLEDETECTION.splitlines(keepends=True)
    static = b"max_iters: 90000\nLearningRate: {base_lr: 0.01, schedulers: [!PiecewiseDecay {milestones: [6000]}]}\n"
    return [PADDLEDETECTION, b"_BASE_: [base.yml]\n" + b"".join(lines[:12]), b"".join(lines[:11]) + static]


def _export(data: bytes, folder: Path) -> None:
    from ppsolo.config import parse_yaml
    from ppsolo.deploy.directory import check_files, read_info

    text = data.decode("utf-8", "replace")
    (folder / "infer_cfg.yml").write_text(text)
    try:
        check_files(folder, read_info(folder))
    except PpsoloError:
        block = parse_yaml(text, "x")
        if isinstance(block, dict):
            block.pop("sha256", None)
            try:
                digest = hashlib.sha256(json.dumps(block, sort_keys=True).encode()).hexdigest()
            except TypeError:  # keys of several types
                digest = "0" * 64
            content = yaml.safe_dump({"ppsolo": {**block, "sha256": digest}})
            (folder / "infer_cfg.yml").write_text(content)
            check_files(folder, read_info(folder))  # a block with the checksum that fits


def _export_seeds() -> list[bytes]:
    tensor = {"name": "image", "dtype": "float32", "shape": ["N", 3, "H", "W"], "meaning": "x"}
    block = {
        "layout": 1,
        "format": "onnx",
        "graph": "network",
        "config": {"name": "x", "num_classes": 2, "model": {}, "preprocess": {}, "postprocess": {}},
        "input_shape": [-1, 3, -1, -1],
        "inputs": [tensor],
        "outputs": [tensor],
        "checkpoint": {},
        "ppsolo": "1",
        "paddle": "3",
        "verified": None,
        "files": {"model.onnx": "0" * 64},
        "device": None,
    }
    return [json.dumps(block).encode(), json.dumps({"ppsolo": block}).encode()]


def _text(data: bytes, folder: Path) -> None:
    from ppsolo.text import one_line, printable

    text = data.decode("utf-8", "surrogateescape")
    if not (printable(text).isprintable() and one_line(text).isprintable()):
        raise ValueError("a character that is not printable is left")
    one_line(text).encode()


TARGETS = {
    "yaml": Target(_yaml, _yaml_seeds),
    "paddledetection": Target(_paddledetection, _paddledetection_seeds),
    "export": Target(_export, _export_seeds),
    "text": Target(_text, lambda: [b"name", "caf\u00e9".encode(), b"\xff\x1b[2J"]),
}
