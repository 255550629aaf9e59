"""The zoo: its table, its manifests, and the refusal of weights that do not fit."""

import dataclasses
import json
import os
import pathlib

import numpy as np
import pytest

from ppsolo.checkpoint import zoo
from ppsolo.errors import CheckpointError, ConfigError

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMES = list(zoo.ZOO)
# What PaddleDetection's pages say: mask AP in percent, milliseconds per image (for 2.x: 1000 / its FPS).
PUBLISHED = {
    "solov2_mobilenetv3_fpn_448_3x": (30.0, 20.0),
    "solov2_r50_fpn_1x": (35.6, 45.7),
    "solov2_r50_fpn_3x": (37.9, 45.7),
    "solov2_r101_vd_fpn_3x": (42.6, 82.6),
    "solov2_light_r50_vd_fpn_dcn_512_3x": (38.8, 25.9),
    "solov2_r50_fpn_1x_coco": (35.5, 45.7),
    "solov2_r50_fpn_3x_coco": (38.0, 45.7),
    "solov2_r101_vd_fpn_3x_coco": (42.7, 82.6),
    "solov2_r50_enhance_coco": (39.0, 25.9),
}


def weights_of(name: str) -> dict[str, np.ndarray]:
    """Arrays of the right shapes that take no memory: one zero, seen everywhere."""
    shapes = zoo.load_manifest(zoo.ZOO[name])
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}


def check(name: str, weights: dict[str, np.ndarray]) -> str:
    with pytest.raises(CheckpointError) as caught:
        zoo.check_manifest(weights, zoo.ZOO[name], "some.pdparams")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"some.pdparams is not {name}: ")
    return message


def test_the_table_is_what_was_published():
    assert {name: (entry.mask_ap, entry.latency_ms) for name, entry in zoo.ZOO.items()} == PUBLISHED
    for name, entry in zoo.ZOO.items():
        store = "paddledet.bj.bcebos.com/models" if "_coco" in name else "paddlemodels.bj.bcebos.com/object_detection"
        assert entry.url == f"https://{store}/{name}.pdparams"
        assert entry.generation == ("dygraph-2.x" if "_coco" in name else "static-0.5")
        assert (entry.name, entry.config, entry.num_classes, entry.latency_device) == (name, name, 80, "V100")
        assert entry.source.startswith("https://github.com/PaddlePaddle/PaddleDetection/blob/")


def test_the_table_cannot_be_changed():
    with pytest.raises(TypeError):
        zoo.ZOO["mine"] = zoo.ZOO[NAMES[0]]
    with pytest.raises(dataclasses.FrozenInstanceError):
        zoo.ZOO[NAMES[0]].mask_ap = 50.0


def test_the_readme_shows_the_same_table():
    readme = (ROOT / "weights" / "README.md").read_text(encoding="utf-8")
    for entry in zoo.ZOO.values():
        row = [f"`{entry.name}`", entry.generation, entry.mask_ap, entry.latency_ms, f"<{entry.url}>"]
        assert f"| {' | '.join(map(str, row))} |" in readme
        assert entry.source.split()[0] in readme


@pytest.mark.parametrize("name", NAMES)
def test_entry_is_found_by_its_name(name):
    assert zoo.zoo_entry(name) is zoo.ZOO[name]


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ("solov2_r50_fpn_3X", "solov2_r50_fpn_3x"),
        ("solov2_r50_enhanced_coco", "solov2_r50_enhance_coco"),
        ("", "solov2"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(asked, nearest):
    with pytest.raises(ConfigError, match=f"{asked!r}: did you mean '{nearest}"):
        zoo.zoo_entry(asked)


@pytest.mark.parametrize(
    ("name", "arrays", "aliases"),
    [
        ("solov2_mobilenetv3_fpn_448_3x", 323, 0),
        ("solov2_r50_fpn_1x", 333, 0),
        ("solov2_r50_fpn_3x", 333, 0),
        ("solov2_r101_vd_fpn_3x", 690, 0),
        ("solov2_light_r50_vd_fpn_dcn_512_3x", 367, 0),
        ("solov2_r50_fpn_1x_coco", 340, 7),
        ("solov2_r50_fpn_3x_coco", 340, 7),
        ("solov2_r101_vd_fpn_3x_coco", 716, 10),
        ("solov2_r50_enhance_coco", 403, 10),
    ],
)
def test_manifests_are_complete_and_consistent(name, arrays, aliases):
    entry = zoo.ZOO[name]
    shapes, second_names = zoo.load_manifest(entry), zoo.load_aliases(entry)
    assert (len(shapes), len(second_names)) == (arrays, aliases)
    assert all(isinstance(shape, tuple) and min(shape) > 0 for shape in shapes.values())
    assert all(shapes[second] == shapes[first] for second, first in second_names.items())
    assert not set(second_names) & set(second_names.values())


def test_every_manifest_file_is_used_and_says_where_it_comes_from():
    files = {path.name: json.loads(path.read_text()) for path in ROOT.glob("ppsolo/checkpoint/manifests/*.json")}
    assert set(files) == {entry.manifest for entry in zoo.ZOO.values()}
    assert all("enumerated by building the published system" in file["provenance"] for file in files.values())


@pytest.mark.parametrize("name", NAMES)
def test_manifests_equal_the_reference(name):
    reference = os.environ.get("PPSOLO_REFERENCE")
    if not reference:
        pytest.skip("PPSOLO_REFERENCE does not name the folder of the reference manifests")
    entries = json.loads((pathlib.Path(reference) / "manifests" / f"{name}.manifest.json").read_text())
    assert zoo.load_manifest(zoo.ZOO[name]) == {key: tuple(entry["shape"]) for key, entry in entries.items()}
    assert zoo.load_aliases(zoo.ZOO[name]) == {
        key: entry["alias_of"] for key, entry in entries.items() if entry.get("alias_of")
    }


@pytest.mark.parametrize("name", NAMES)
def test_fitting_weights_pass(name):
    zoo.check_manifest(weights_of(name), zoo.ZOO[name], "some.pdparams")


def test_every_kind_of_fault_is_counted_and_named():
    weights = weights_of("solov2_r50_fpn_3x")
    for key in [key for key in weights if key.startswith("res2a")]:
        del weights[key]
    weights["extra"] = np.zeros(1, np.float32)
    weights["bbox_head.solo_cate.bias"] = np.zeros(3, np.float32)
    message = check("solov2_r50_fpn_3x", weights)
    assert "4 missing (res2a_branch1_weights, res2a_branch2a_weights, res2a_branch2b_weights (and 1 more)); " in message
    assert "1 unexpected (extra); " in message
    assert "1 of a wrong shape (bbox_head.solo_cate.bias [3] instead of [80]); " in message
    assert message.endswith("fetch the file again, or give the name of the checkpoint that it is")


def test_the_weights_of_another_published_checkpoint_are_recognised():
    message = check("solov2_r50_enhance_coco", weights_of("solov2_r50_fpn_1x"))
    assert message.endswith("its arrays fit solov2_r50_fpn_1x or solov2_r50_fpn_3x")


def test_no_weights_at_all_are_refused():
    assert "333 missing" in check("solov2_r50_fpn_1x", {})


def test_second_names_may_be_absent_but_first_names_may_not():
    name = "solov2_r50_fpn_1x_coco"
    aliases = zoo.load_aliases(zoo.ZOO[name])
    weights = {key: value for key, value in weights_of(name).items() if key not in aliases}
    zoo.check_manifest(weights, zoo.ZOO[name], "some.pdparams")
    del weights[next(iter(aliases.values()))]
    assert "1 missing" in check(name, weights)


def test_two_names_of_one_tensor_must_hold_the_same_values():
    weights = weights_of("solov2_r50_fpn_1x_coco")
    weights["solov2_head.solo_cate.bias"] = np.ones(80, np.float32)
    message = check("solov2_r50_fpn_1x_coco", weights)
    assert "(solov2_head.solo_cate.bias and solov2_head.bbox_head.solo_cate.bias)" in message
    assert "1 stored twice with different values" in message
