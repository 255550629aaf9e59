"""The configuration reader: merging, types, and refusals in the user's words."""

import dataclasses

import pytest

from ppsolo.config import Config, config_from_dict, config_to_dict, find_config, load_answering_config, load_config
from ppsolo.errors import ConfigError


def written(folder, text: str, name: str = "mine.yml"):
    path = folder / name
    path.write_text(text)
    return path


def refusal(*arguments) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_bases_merge_in_order_and_the_file_comes_last(tmp_path):
    written(tmp_path, "num_classes: 4\nmodel: {head: {channels: 64, num_convs: 2}}", "a.yml")
    written(tmp_path, "model: {head: {channels: 96}}\npostprocess: {strides: [1, 2, 3, 4, 5]}", "b.yml")
    path = written(tmp_path, "_BASE_: [a.yml, b.yml]\nmodel: {head: {num_convs: 3}}")
    config = load_config(path)
    assert (config.num_classes, config.model.head.channels, config.model.head.num_convs) == (4, 96, 3)
    assert config.postprocess.strides == (1, 2, 3, 4, 5)
    assert config.name == "mine"


def test_a_base_may_be_a_shipped_configuration(tmp_path):
    path = written(tmp_path, "_BASE_: solov2_light_r50_vd_fpn_dcn_512_3x\nnum_classes: 3")
    shipped = load_config("solov2_light_r50_vd_fpn_dcn_512_3x")
    assert load_config(path) == dataclasses.replace(shipped, name="mine", num_classes=3)
    written(tmp_path, "num_classes: 5", "solov2_light_r50_vd_fpn_dcn_512_3x")  # a file beside it comes first
    assert load_config(path).model == Config().model


def test_overrides_merge_and_lists_are_replaced(tmp_path):
    path = written(tmp_path, "num_classes: 4")
    config = load_config(
        path,
        [
            "model.head.channels=64",
            "model.head={num_convs: 2}",
            "model.head.num_grids=[5, 4, 3, 2, 1]",
            "weights=a=b.pdparams",
            "postprocess.score_threshold=1e-2",
        ],
    )
    assert (config.model.head.channels, config.model.head.num_convs) == (64, 2)
    assert config.model.head.num_grids == (5, 4, 3, 2, 1)
    assert config.weights == "a=b.pdparams"
    assert config.postprocess.score_threshold == 0.01
    assert load_config(path, {"model.head.channels": 32}).model.head.channels == 32


def test_an_empty_file_is_the_default(tmp_path):
    assert load_config(written(tmp_path, "")) == Config(name="mine")


def test_a_resolved_configuration_can_be_written_and_read_again():
    config = load_config("solov2_r101_vd_fpn_3x", ["weights=x.pdparams"])
    assert config_from_dict(config_to_dict(config), "memory") == config


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_config("solov2_r50_fpn_1x").num_classes = 3


def test_shipped_configurations_are_found_by_name():
    assert find_config("solov2_r50_fpn_1x").name == "solov2_r50_fpn_1x.yml"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("num_clases: 3", "unknown key 'num_clases', did you mean 'num_classes'?"),
        ("model: {head: {chanels: 3}}", "unknown key 'model.head.chanels', did you mean 'channels'?"),
        ("num_grids: [1, 2, 3, 4, 5]", "unknown key 'num_grids', did you mean 'model.head.num_grids'?"),
        ("train: {short_side: 640}", "unknown key 'train.short_side', did you mean 'preprocess.short_side'?"),
        ("num_classes: three", "num_classes must be an integer, got 'three'"),
        ("num_classes: true", "num_classes must be an integer, got True"),
        ("num_classes: 0", "num_classes must be a number from 1 to 100000, got 0"),
        ("num_classes: 2\nclass_names: [a]", "class_names is for 1 class, but num_classes is 2; make them equal"),
        ("num_classes: 2\nclass_names: [a, a]", "the same entry twice"),
        ("model: {backbone: {depth: 51}}", "model.backbone.depth is 51: choose one of 14, 26, 50, 101"),
        ("model: {backbone: {freeze_norm: 1}}", "freeze_norm must be true or false, got 1"),
        ("model: {head: {num_grids: [1, 2]}}", "num_grids must have 5 values, got 2"),
        ("model: {head: {num_grids: [1, 2, 3, 4, x]}}", "num_grids[4] must be an integer, got 'x'"),
        ("model: {head: {num_grids: 40}}", "num_grids must be a list, got 40"),
        ("model: {head: {channels: 48}}", "model.head.channels 48 is not a multiple of norm_groups 32"),
        ("model: 3", "model must be a mapping of keys, got 3"),
        ("weights: 3", "weights must be text, got 3"),
        ("- a", "expected 'key: value' lines"),
        ("a: [", "is not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "is not supported"),
        ("num_classes: 3\nnum_classes: 4", "key 'num_classes' is given twice (line 2)"),
        ("_BASE_: other.yml", "_BASE_ file other.yml does not exist"),
        ("_BASE_: solov2_r50_fpn1x", "no configuration named 'solov2_r50_fpn1x', did you mean 'solov2_r50_fpn_1x'?"),
        ("_BASE_: " + "x" * 5000, "File name too long"),
        ("_BASE_: [" + "a.yml, " * 11 + "]", "_BASE_ names more than 10 files"),
        ("_BASE_: mine.yml", "_BASE_ leads back to this file"),
        ("_BASE_: 3", "_BASE_ must be a file name"),
        ("_BASE_: [solov2_r50_fpn_1x, solov2_r50_fpn_1x]", "_BASE_ names a file twice"),
        ("a: &a [1]\nb: *a", "aliases (*name) are not supported"),
        ("num_classes: !!bool maybe", "is not valid YAML"),
        ("num_classes: 0x" + "f" * 5000, "num_classes is a number with more than 63 bits"),
        ("num_classes: [0x" + "f" * 5000 + "]", "num_classes must be an integer, got an endless number"),
        ("num_classes: 3" + " " * (1 << 20), "larger than 1048576 bytes"),
        ("3: 4", "must be words, not numbers"),
        ("postprocess: {score_threshold: high}", "score_threshold must be a finite number, got 'high'"),
        ("postprocess: {score_threshold: '0.5'}", "score_threshold must be a finite number, got '0.5'"),
        ("postprocess: {score_threshold: .nan}", "score_threshold must be a finite number"),
        ("postprocess: {score_threshold: 1.5}", "score_threshold must be a number from 0 to 1, got 1.5"),
        ("postprocess: {nms_sigma: .inf}", "nms_sigma must be a finite number"),
        ("preprocess: {std: [0, 1, 1]}", "preprocess.std[0] must be a number from 1e-06"),
        ("model: {backbone: {frozen_stages: -3}}", "frozen_stages must be a number from -1 to 4, got -3"),
        ("model: {backbone: {dcn_stages: [5]}}", "dcn_stages[0] must be a number from 1 to 4, got 5"),
        ("model: {head: {dcn_layers: [4]}}", "dcn_layers[0] must be a number from 0 to 3, got 4"),
        ("model: {neck: {channels: 1000000000}}", "model.neck.channels must be a number from 1 to 8192"),
    ],
)
def test_refusals_name_the_key_and_the_remedy(tmp_path, text, expected):
    message = refusal(written(tmp_path, text))
    assert expected in message
    assert "mine.yml" in message


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("num_grids", "'model.head.num_grids'"),
        ("head.num_grid", "'model.head.num_grids'"),
        ("epochs", "'train.epochs'"),
        ("train.learning_rte", "'train.schedule.learning_rate'"),
        ("postproces.score_treshold", "'postprocess.score_threshold'"),
        ("channels", "'model.neck.channels' or 'model.head.channels' or 'preprocess.channels'"),
    ],
)
def test_the_nearest_key_is_found_by_its_last_part(key, nearest):
    assert f"-o {key}: unknown key, did you mean {nearest}?" in refusal("solov2_r50_fpn_1x", [f"{key}=3"])


@pytest.mark.parametrize("override", ["weights", "=3", "model.head.channels=[", "model.hed.channels=3"])
def test_broken_overrides_are_refused(override):
    refusal("solov2_r50_fpn_1x", [override])


def test_missing_files_and_names():
    assert "did you mean 'solov2_r50_fpn_1x'?" in refusal("solov2_r50_fpn1x")
    assert "no such configuration file" in refusal("nowhere/x.yml")
    assert "no such configuration file" in refusal("/")
    assert "cannot be the name of a file" in refusal("x" * 5000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "model: {backbone: {norm: gn, width: 24}}",
            "layers of 24 channels, not a multiple of model.backbone.norm_groups 32",
        ),
        ("model: {backbone: {norm: gn, width: 32, variant: d}}", "layers of 16 channels"),
        ("train: {epochs: 0}", "train.epochs must be at least 1, got 0"),
        ("train: {ema_decay: 1}", "train.ema_decay must be a number from 0 to below 1, got 1.0"),
        ("train: {optimizer: {clip_norm: 0}}", "train.optimizer.clip_norm must be above zero"),
        ("train: {schedule: {learning_rate: -1}}", "train.schedule.learning_rate must be above zero, got -1.0"),
        ("train: {amp: O3}", "train.amp is 'O3': choose one of 'none', 'O1', 'O2'"),
        ("train: {targets: {scale_ranges: [[1, 2]]}}", "a range for each of the 5 levels"),
        ("train: {targets: {scale_ranges: [[1, 2], [2], [1, 2], [1, 2], [1, 2]]}}", "scale_ranges[1] must be"),
        ("train: {targets: {scale_ranges: [[2, 1], [1, 2], [1, 2], [1, 2], [1, 2]]}}", "scale_ranges[0] must be"),
        ("train: {augment: {short_sides: []}}", "short_sides must have at least one size"),
        ('name: "a\\0b"', "mine.yml: line 1 holds a zero byte"),
        ("name: " + "x" * 300, "cannot be the name of a run's directory"),
        ("name: a/b", "name 'a/b' cannot be the name of a run's directory"),
    ],
)
def test_training_that_cannot_be_is_refused(tmp_path, text, expected):
    assert expected in refusal(written(tmp_path, text))


@pytest.mark.parametrize(
    "value",
    [
        "!!set {a}",
        "!!set [a]",
        "!!map [a, b]",
        "!!seq {a: 1}",
        "!!omap [a: 1]",
        "!!pairs [a: 1]",
        "!!binary aGk=",
        "!!timestamp 2020-01-01",
        "!!timestamp {=: 2020-01-01}",
        "!!str [a]",
        "!!python/object:os.system x",
        "!!int x",
    ],
)
def test_other_types_than_json_has_are_refused_in_one_line(tmp_path, value):
    (tmp_path / "file.yml").write_text(f"train: {value}")
    (tmp_path / "whole.yml").write_text(value)
    for read in (
        lambda: load_config(tmp_path / "file.yml"),
        lambda: load_config(tmp_path / "whole.yml"),
        lambda: load_config("solov2_r50_fpn_1x", [f"weights={value}"]),
    ):
        with pytest.raises(ConfigError):
            read()


def test_a_date_is_text():
    assert load_config("solov2_r50_fpn_1x", ["name=2020-01-01"]).name == "2020-01-01"


def test_weights_beside_a_label_list_have_its_names(tmp_path):
    weights = tmp_path / "model_final.pdparams"
    weights.write_bytes(b"x")
    (tmp_path / "label_list.txt").write_text("cell\nnucleus\n\n")
    two = ["num_classes=2", f"weights={weights}"]
    assert load_answering_config("solov2_r50_fpn_1x", two).class_names == ("cell", "nucleus")
    assert load_answering_config("solov2_r50_fpn_1x", two[1:]).class_names == ()  # of 80 classes
    (tmp_path / "label_list.txt").write_text("cell\ncell\n")
    with pytest.raises(ConfigError, match=r"label_list\.txt has the same name twice"):
        load_answering_config("solov2_r50_fpn_1x", two)
