"""PaddleDetection's configurations of both generations become the shipped ones; files of its shape are written here."""

import dataclasses
import os
from pathlib import Path

import pytest
import yaml

from ppsolo.cli import main
from ppsolo.config import config_to_dict, import_theirs, load_config
from ppsolo.errors import ConfigError
from ppsolo.legacy.yaml_files import is_paddledetection

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
GRIDS = [40, 36, 24, 16, 12]
RANGES = {
    "plain": [[1, 96], [48, 192], [96, 384], [192, 768], [384, 2048]],
    "light": [[1, 64], [32, 128], [64, 256], [128, 512], [256, 2048]],
    "mobile": [[1, 56], [28, 112], [56, 224], [112, 448], [224, 896]],
}
STATIC = {
    "solov2_r50_fpn_1x": {"iters": 90000, "milestones": [60000, 80000], "sides": 800},
    "solov2_r50_fpn_3x": {},
    "solov2_r101_vd_fpn_3x": {
        "net": {"depth": 101, "dcn_v2_stages": [3, 4, 5], "variant": "d"},
        "backbone": "ResNet101_vd_pretrained",
        "head": {"dcn_v2_stages": [0, 1, 2, 3]},
        "mask": {"use_dcn_in_tower": True},
        "ema": True,
    },
    "solov2_light_r50_vd_fpn_dcn_512_3x": {
        "net": {
            "depth": 50, "dcn_v2_stages": [3, 4, 5], "variant": "d", "freeze_at": 0, "freeze_norm": False,
            "norm_type": "sync_bn", "lr_mult_list": [0.05, 0.05, 0.1, 0.15],
        },
        "backbone": "ResNet50_vd_ssld_pretrained",
        "head": {"seg_feat_channels": 256, "stacked_convs": 3, "kernel_out_channels": 128, "dcn_v2_stages": [2],
                 "drop_block": True},
        "mask": {"out_channels": 128},
        "ema": True, "sides": [352, 384, 416, 448, 480, 512], "size": (512, 852), "ranges": "light", "crop": True,
    },
    "solov2_mobilenetv3_fpn_448_3x": {
        "mobile": True, "iters": 135000, "milestones": [90000, 120000], "rate": 0.02, "batch": 4,
        "backbone": "MobileNetV3_large_x1_0_ssld_pretrained",
        "head": {"seg_feat_channels": 256, "stacked_convs": 2, "kernel_out_channels": 128, "drop_block": True},
        "mask": {"out_channels": 128},
        "ema": True, "sides": [352, 384, 416, 448, 480, 512], "size": (448, 768), "ranges": "mobile", "crop": True,
    },
}  # fmt: skip


class _Dumper(yaml.SafeDumper):
    """Writes a value that occurs twice out twice."""

    def ignore_aliases(self, data):
        return True


def dumped(tree: dict, **style) -> str:
    return yaml.dump(tree, Dumper=_Dumper, **style)


def tagged(name: str, values: dict) -> str:
    """`!Name` with its keys, as YAML in flow style."""
    return f"!{name} {dumped(values, default_flow_style=True, width=1000).strip()}"


def static_transforms(facts: dict) -> list[str]:
    _, long = facts.get("size", (800, 1333))
    sides = facts.get("sides", [640, 672, 704, 736, 768, 800])
    extra = [tagged("ColorDistort", {}), tagged("RandomCrop", {"is_mask_crop": True})] if facts.get("crop") else []
    return [
        tagged("DecodeImage", {"to_rgb": True}),
        tagged("Poly2Mask", {}),
        *extra,
        tagged(
            "ResizeImage",
            {"target_size": sides, "max_size": long, "interp": 1, "use_cv2": True, "resize_box": True},
        ),
        tagged("RandomFlipImage", {"prob": 0.5}),
        tagged("NormalizeImage", {"is_channel_first": False, "is_scale": True, "mean": MEAN, "std": STD}),
        tagged("Permute", {"to_bgr": False, "channel_first": True}),
    ]


def write_static(folder: Path, name: str, facts: dict) -> Path:
    """The configuration of a 0.5 system, and its reader."""
    short, long = facts.get("size", (800, 1333))
    mobile = facts.get("mobile", False)
    net = {"depth": 50, "feature_maps": [2, 3, 4, 5], "freeze_at": 2, "norm_type": "bn", **facts.get("net", {})}
    if mobile:
        net = {
            "norm_type": "bn", "freeze_norm": True, "norm_decay": 0.0, "feature_maps": [2, 3, 4, 6], "scale": 1.0,
            "conv_decay": 0.00001, "lr_mult_list": [0.25, 0.25, 0.5, 0.5, 0.75], "model_name": "large",
        }  # fmt: skip
    kind = "MobileNetV3RCNN" if mobile else "ResNet"
    top = {
        "architecture": "SOLOv2",
        "use_gpu": True,
        "max_iters": facts.get("iters", 270000),
        "snapshot_iter": 30000,
        "log_smooth_window": 20,
        "save_dir": "output",
        "pretrain_weights": "https://paddle-imagenet-models-name.bj.bcebos.com/"
        f"{facts.get('backbone', 'ResNet50_cos_pretrained')}.tar",
        "metric": "COCO",
        "weights": f"output/{name}/model_final",
        "num_classes": 81,
        **({"use_ema": True, "ema_decay": 0.9998} if facts.get("ema") else {}),
        "SOLOv2": {"backbone": kind, "fpn": "FPN", "bbox_head": "SOLOv2Head", "mask_head": "SOLOv2MaskHead"},
        kind: net,
        "FPN": {
            "max_level": 6, "min_level": 2, "num_chan": 256, "spatial_scale": [0.03125, 0.0625, 0.125, 0.25],
            "reverse_out": True,
        },
        "SOLOv2Head": {
            "seg_feat_channels": 512, "stacked_convs": 4, "num_grids": GRIDS, "kernel_out_channels": 256,
            "solov2_loss": "SOLOv2Loss", "mask_nms": "MaskMatrixNMS", **facts.get("head", {}),
        },
        "SOLOv2MaskHead": {
            "in_channels": 128, "out_channels": 256, "start_level": 0, "end_level": 3, **facts.get("mask", {}),
        },
        "SOLOv2Loss": {"ins_loss_weight": 3.0, "focal_loss_gamma": 2.0, "focal_loss_alpha": 0.25},
        "MaskMatrixNMS": {"pre_nms_top_n": 500, "post_nms_top_n": 100},
        "OptimizerBuilder": {
            "optimizer": {"momentum": 0.9, "type": "Momentum"},
            "regularizer": {"factor": 0.0001, "type": "L2"},
        },
        "_READER_": f"{name}_reader.yml",
    }  # fmt: skip
    steps = tagged("PiecewiseDecay", {"gamma": 0.1, "milestones": facts.get("milestones", [180000, 240000])})
    warmup = tagged("LinearWarmup", {"start_factor": 0.0, "steps": 1000})
    rate = f"LearningRate:\n  base_lr: {facts.get('rate', 0.01)}\n  schedulers:\n  - {steps}\n  - {warmup}\n"
    (folder / f"{name}.yml").write_text(dumped(top) + rate)
    targets = {"num_grids": GRIDS, "scale_ranges": RANGES[facts.get("ranges", "plain")], "coord_sigma": 0.2}
    lists = {
        "train": [*static_transforms(facts)],
        "batch": [tagged("PadBatch", {"pad_to_stride": 32}), tagged("Gt2Solov2Target", targets)],
        "eval": [
            tagged("DecodeImage", {"to_rgb": True}),
            tagged("ResizeImage", {"interp": 1, "max_size": long, "target_size": short, "use_cv2": True}),
            tagged("NormalizeImage", {"is_channel_first": False, "is_scale": True, "mean": MEAN, "std": STD}),
            tagged("Permute", {"channel_first": True, "to_bgr": False}),
        ],
    }
    shown = {key: "".join(f"  - {line}\n" for line in lines) for key, lines in lists.items()}
    data = {
        part: tagged(
            "COCODataSet",
            {
                "dataset_dir": "dataset/coco",
                "anno_path": f"annotations/instances_{part}2017.json",
                "image_dir": f"{part}2017",
            },
        )
        for part in ("train", "val")
    }
    (folder / f"{name}_reader.yml").write_text(
        f"TrainReader:\n  batch_size: {facts.get('batch', 2)}\n  worker_num: 2\n"
        "  inputs_def: {fields: [image, im_id, gt_segm]}\n"
        f"  dataset: {data['train']}\n  sample_transforms:\n{shown['train']}  batch_transforms:\n{shown['batch']}"
        f"  shuffle: true\nEvalReader:\n  dataset: {data['val']}\n  sample_transforms:\n{shown['eval']}"
        "  batch_transforms:\n  - !PadBatch {pad_to_stride: 32, use_padded_im_info: false}\n"
        "  batch_size: 1\n  drop_empty: false\n  worker_num: 2\n"
    )
    return folder / f"{name}.yml"


DYGRAPH = {
    "solov2_r50_fpn_1x_coco": {"sides": [800], "epoch": 12},
    "solov2_r50_fpn_3x_coco": {},
    "solov2_r101_vd_fpn_3x_coco": {
        "net": {"depth": 101, "variant": "d", "dcn_v2_stages": [1, 2, 3]},
        "backbone": "ResNet101_vd_pretrained",
        "head": {"dcn_v2_stages": [0, 1, 2, 3]},
        "mask": {"use_dcn_in_tower": True},
        "ema": True,
        "warmup": 2000,
    },
    "solov2_r50_enhance_coco": {
        "net": {
            "variant": "d", "freeze_norm": False, "norm_type": "sync_bn", "dcn_v2_stages": [1, 2, 3],
            "lr_mult_list": [0.05, 0.05, 0.1, 0.15],
        },
        "backbone": "ResNet50_vd_ssld_v2_pretrained",
        "head": {"seg_feat_channels": 256, "stacked_convs": 3, "kernel_out_channels": 128, "dcn_v2_stages": [2],
                 "drop_block": True},
        "mask": {"out_channels": 128, "use_dcn_in_tower": True},
        "ema": True, "sides": [352, 384, 416, 448, 480, 512], "size": [512, 852], "crop": True,
    },
}  # fmt: skip


def write_dygraph(folder: Path, name: str, facts: dict) -> Path:
    """The configuration of a 2.x system, and its bases in folders beside and above it."""
    (folder / "solov2" / "_base_").mkdir(parents=True)
    (folder / "datasets").mkdir()
    data = {
        f"{kind}Dataset": {
            "name": "COCODataSet",
            "image_dir": f"{part}2017",
            "anno_path": f"annotations/instances_{part}2017.json",
            "dataset_dir": "dataset/coco",
        }
        for kind, part in (("Train", "train"), ("Eval", "val"))
    }
    base = "https://paddledet.bj.bcebos.com/models/pretrained/"
    net = {"depth": 50, "freeze_at": 0, "return_idx": [0, 1, 2, 3], "num_stages": 4}
    model = {
        "architecture": "SOLOv2",
        "pretrain_weights": f"{base}ResNet50_cos_pretrained.pdparams",
        "SOLOv2": {"backbone": "ResNet", "neck": "FPN", "solov2_head": "SOLOv2Head", "mask_head": "SOLOv2MaskHead"},
        "ResNet": net,
        "FPN": {"out_channel": 256},
        "SOLOv2Head": {
            "seg_feat_channels": 512, "stacked_convs": 4, "num_grids": GRIDS, "kernel_out_channels": 256,
            "solov2_loss": "SOLOv2Loss", "mask_nms": "MaskMatrixNMS",
        },
        "SOLOv2MaskHead": {"mid_channels": 128, "out_channels": 256, "start_level": 0, "end_level": 3},
        "SOLOv2Loss": {"ins_loss_weight": 3.0, "focal_loss_gamma": 2.0, "focal_loss_alpha": 0.25},
        "MaskMatrixNMS": {"pre_nms_top_n": 500, "post_nms_top_n": 100},
    }  # fmt: skip
    optimizer = {
        "epoch": 12,
        "OptimizerBuilder": {
            "optimizer": {"momentum": 0.9, "type": "Momentum"},
            "regularizer": {"factor": 0.0001, "type": "L2"},
        },
    }
    normalize = {"NormalizeImage": {"is_scale": True, "mean": MEAN, "std": STD}}
    size = facts.get("size", [800, 1333])
    sides = facts.get("sides", [640, 672, 704, 736, 768, 800])
    resize = {"RandomResize": {"interp": 1, "target_size": [[s, size[1]] for s in sides], "keep_ratio": True}}
    if len(sides) == 1:
        resize = {"Resize": {"interp": 1, "target_size": size, "keep_ratio": True}}
    target = {"num_grids": GRIDS, "scale_ranges": RANGES["plain"], "coord_sigma": 0.2}
    color = [{"RandomDistort": {}}, {"RandomCrop": {}}] if facts.get("crop") else []
    evaluation = {
        "sample_transforms": [
            {"Decode": {}},
            normalize,
            {"Resize": {"interp": 1, "target_size": size, "keep_ratio": True}},
            {"Permute": {}},
        ],
        "batch_transforms": [{"PadBatch": {"pad_to_stride": 32}}],
        "batch_size": 1,
    }
    reader = {
        "worker_num": 8,
        "TrainReader": {
            "sample_transforms": [
                {"Decode": {}}, {"Poly2Mask": {}}, *color, resize, {"RandomFlip": {}}, normalize, {"Permute": {}},
            ],
            "batch_transforms": [{"PadBatch": {"pad_to_stride": 32}}, {"Gt2Solov2Target": target}],
            "batch_size": 2,
            "shuffle": True,
            "drop_last": True,
        },
        "EvalReader": evaluation,
        "TestReader": evaluation,
    }  # fmt: skip
    epoch = facts.get("epoch", 36)
    steps = tagged("PiecewiseDecay", {"gamma": 0.1, "milestones": [8, 11] if epoch == 12 else [24, 33]})
    warmup = tagged("LinearWarmup", {"start_factor": 0.0, "steps": facts.get("warmup", 1000)})
    rate = f"LearningRate:\n  base_lr: 0.01\n  schedulers:\n  - {steps}\n  - {warmup}\n"
    files = {
        "datasets/coco.yml": dumped({"metric": "COCO", "num_classes": 80, **data}),
        "runtime.yml": dumped({"use_gpu": True, "log_iter": 20, "save_dir": "output", "snapshot_epoch": 1}),
        "solov2/_base_/net.yml": dumped(model),
        "solov2/_base_/optimizer.yml": dumped(optimizer) + rate,
        "solov2/_base_/reader.yml": dumped(reader, default_flow_style=None),
    }
    for path, text in files.items():
        (folder / path).write_text(text)
    own = {
        "_BASE_": [
            "../datasets/coco.yml",
            "../runtime.yml",
            "_base_/net.yml",
            "_base_/optimizer.yml",
            "_base_/reader.yml",
        ],
        "weights": f"output/{name}/model_final",
    }
    if epoch != 12:
        own["epoch"] = epoch
    for key, section in (("net", "ResNet"), ("head", "SOLOv2Head"), ("mask", "SOLOv2MaskHead")):
        if key in facts:
            own[section] = facts[key]
    if "backbone" in facts:
        own["pretrain_weights"] = f"{base}{facts['backbone']}.pdparams"
    if facts.get("ema"):
        own |= {"use_ema": True, "ema_decay": 0.9998}
    (folder / "solov2" / f"{name}.yml").write_text(dumped(own))
    return folder / "solov2" / f"{name}.yml"


def write_theirs(folder: Path, name: str) -> Path:
    return write_static(folder, name, STATIC[name]) if name in STATIC else write_dygraph(folder, name, DYGRAPH[name])


@pytest.mark.parametrize("name", [*STATIC, *DYGRAPH])
def test_a_published_configuration_becomes_the_shipped_one(tmp_path, name):
    file = write_theirs(tmp_path, name)
    assert is_paddledetection(file)
    config = load_config(file)
    assert config.data.root == "dataset/coco"
    shipped = load_config(name)
    assert dataclasses.replace(config, data=dataclasses.replace(config.data, root=shipped.data.root)) == shipped


def test_no_shipped_configuration_is_taken_for_one_of_paddledetection():
    folder = Path(__file__).parents[2] / "configs"
    assert not [file for file in folder.rglob("*.yml") if is_paddledetection(file)]


def test_its_keys_and_ours_override_it(tmp_path):
    file = write_theirs(tmp_path, "solov2_r50_fpn_1x_coco")
    its = ["epoch=5", "snapshot_epoch=2", "worker_num=3", "pretrain_weights=output/x/model_final", "use_gpu=false"]
    its += ["LearningRate.base_lr=0.005", "TrainReader.batch_size=1", "TrainDataset.dataset_dir=d", "num_classes=3"]
    ours = ["EvalDataset.dataset_dir=d", "TrainDataset.image_dir=pictures", "train.seed=7", "name=mine"]
    config = load_config(file, its + ours)
    assert (config.train.epochs, config.train.evaluate_every, config.data.num_workers) == (5, 2, 3)
    assert (config.weights, config.pretrained_backbone) == ("output/x/model_final", None)
    assert (config.train.schedule.learning_rate, config.train.schedule.images_per_step) == (0.005, 8)
    assert (config.train.batch_size, config.data.root, config.data.train_images) == (1, "d", "pictures")
    assert (config.train.seed, config.name, config.num_classes) == (7, "mine", 3)


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("epoch", "train.epochs"),
        ("snapshot_epoch", "train.evaluate_every"),
        ("worker_num", "data.num_workers"),
        ("pretrain_weights", "pretrained_backbone"),
        ("LearningRate.base_lr", "train.schedule.learning_rate"),
        ("TrainReader.batch_size", "train.batch_size"),
        ("TrainDataset.dataset_dir", "data.root"),
        ("TrainDataset.anything", "data.root"),
        ("use_gpu", "CUDA_VISIBLE_DEVICES="),
        ("learning_rate", "train.schedule.learning_rate"),
        ("batch_sise", "train.batch_size"),
        ("model.score_threshold", "postprocess.score_threshold"),
    ],
)
def test_an_old_key_on_our_configuration_is_answered_with_the_new_one(key, ours):
    with pytest.raises(ConfigError) as caught:
        load_config("solov2_r50_fpn_1x", [f"{key}=1"])
    assert ours in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (["architecture=YOLOv3"], "architecture is YOLOv3"),
        (["ResNet.depth=34"], "ResNet.depth is 34: choose 50 or 101"),
        (["OptimizerBuilder.optimizer.type=Adam"], "type 'Adam' is not supported, only 'Momentum'"),
        (["FPN.has_extra_convs=true"], "FPN.has_extra_convs True is not supported"),
        (["SOLOv2MaskHead.out_channels=64"], "SOLOv2Head.kernel_out_channels 256: make them equal"),
        (["metric=VOC"], "ppsolo import-data"),
        (["TrainReader.batch_size=two"], "TrainReader.batch_size must be a number, got 'two'"),
        (["TrainReader.batch_size=0"], "TrainReader.batch_size is 0: give at least 1"),
        (["epoch=.inf"], "epoch must be a number, got inf"),
        (["epoch='nan'"], "epoch must be a number, got nan"),
        (["LearningRate.base_lr=1.0e+300"], "LearningRate.base_lr must be a number, got 1e+300"),
        (["SOLOv2.backbone=FPN"], "SOLOv2.backbone 'FPN' is not supported, only 'ResNet' or 'MobileNetV3RCNN'"),
        (["TrainDataset.dataset_dir=[a]"], "dataset_dir differs from the training data's"),
        (["SOLOv2=x"], "SOLOv2 must be a mapping"),
    ],
)
def test_what_changes_the_computation_is_refused(tmp_path, changes, reason):
    with pytest.raises(ConfigError) as caught:
        load_config(write_theirs(tmp_path, "solov2_r50_fpn_1x_coco"), changes)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_what_has_no_counterpart_is_listed(tmp_path):
    file = write_theirs(tmp_path, "solov2_r50_fpn_1x_coco")
    notes = {str(note) for note in import_theirs(file, ["ResNet.colour=red", "OptimizerBuilder.speed=1"])[1]}
    assert "ResNet.colour: ppsolo has no such key and ignores it" in notes
    assert "OptimizerBuilder.speed: ppsolo has no such key and ignores it" in notes
    assert any(note.startswith("weights=output/solov2_r50_fpn_1x_coco/model_final: ") for note in notes)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("architecture: !!python/object/apply:os.system [true]", "not valid YAML"),
        ("architecture: [", "not valid YAML"),
        ("architecture: SOLOv2\n_BASE_: [nowhere.yml]", "nowhere.yml does not exist"),
        ("architecture: SOLOv2\n_BASE_: [mine.yml]", "leads back to this file"),
        ("architecture: SOLOv2\n_BASE_: [3]", "must be a list of file names"),
        ("architecture: SOLOv2\nResNet: &a {depth: 50}\nFPN: *a", "aliases"),
        ("LearningRate:\n  schedulers: [!ExpWarmup {steps: 3}]", "has ExpWarmup"),
        ("TrainReader:\n  sample_transforms: [3]", "is not a transform"),
        *(
            (f"LearningRate:\n  schedulers: [{{name: PiecewiseDecay, milestones: [8], gamma: {gamma}}}]", reason)
            for gamma, reason in (
                ("abc", "LearningRate.PiecewiseDecay.gamma must be a number, got 'abc'"),
                ("{}", "LearningRate.PiecewiseDecay.gamma must be a number, got {}"),
                ("[0.1, a]", "LearningRate.PiecewiseDecay.gamma must be a list of numbers"),
            )
        ),
    ],
)
def test_a_broken_file_is_refused_in_one_line(tmp_path, text, reason):
    (tmp_path / "mine.yml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "mine.yml")
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_import_config_writes_what_load_config_reads(tmp_path, capsys):
    file = write_theirs(tmp_path, "solov2_r50_enhance_coco")
    assert main(["import-config", str(file), "-o", "epoch=4"]) == 0
    out, err = capsys.readouterr()
    (tmp_path / "mine.yml").write_text(out)
    expected = load_config(file, ["epoch=4"])
    assert config_to_dict(load_config(tmp_path / "mine.yml")) == config_to_dict(expected)
    assert all(line.startswith("ppsolo: note: ") for line in err.splitlines()) and err
    assert main(["import-config", str(tmp_path / "mine.yml")]) == 2
    assert "not a configuration of PaddleDetection" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("num_classes: 3", "use it as it is, with -c {file}"),
        ("a: [", "not valid YAML"),
        ("- a", "expected 'key: value' lines"),
        ("hello: 1", "unknown key 'hello'"),
    ],
)
def test_import_config_advises_to_take_only_what_ppsolo_reads(tmp_path, capsys, text, advice):
    file = tmp_path / "mine.yml"
    file.write_text(text)
    assert main(["import-config", str(file)]) == 2
    said = capsys.readouterr().err
    assert advice.format(file=file) in said and said.count("\n") == 1
    assert ("use it as it is" in said) == (advice.startswith("use it"))


def test_use_gpu_false_hides_the_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    file = write_theirs(tmp_path, "solov2_r50_fpn_1x_coco")
    command = ["check-data", "-c", str(file), "--annotations", "none.json", "--images", str(tmp_path)]
    assert main([*command, "-o", "use_gpu=false"]) == 2
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
