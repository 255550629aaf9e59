"""The directory of an export: what it says, how it appears, and what it refuses to replace or read."""

import copy
import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from ppsolo.config import parse_yaml
from ppsolo.deploy.directory import _info_of, check_files, check_place, new_directory, read_info, write_info
from ppsolo.errors import ExportError


@pytest.fixture
def copied(exported, tmp_path) -> Path:
    return Path(shutil.copytree(exported.export.directory, tmp_path / "copy"))


def test_what_is_written_is_read(exported):
    directory, info = exported.export.directory, exported.export.info
    assert read_info(directory) == info
    check_files(directory, info)
    assert info.config == exported.config
    assert {path.name for path in directory.iterdir()} == {"infer_cfg.yml", *info.files}
    assert info.verified is not None and "0 instances lost" in info.verified
    assert [fact.name for fact in info.outputs] == ["scores", "labels", "masks", "counts"]


def test_the_layout_is_that_of_paddledetection(exported):
    tree = parse_yaml((exported.export.directory / "infer_cfg.yml").read_text(), "infer_cfg.yml")
    assert (tree["mode"], tree["arch"], tree["metric"], tree["use_dynamic_shape"]) == ("paddle", "SOLOv2", "COCO", True)
    assert tree["draw_threshold"] == 0.5 and tree["min_subgraph_size"] == 60
    # 2.x normalises first; 0.5 resizes first
    assert [step["type"] for step in tree["Preprocess"]] == ["NormalizeImage", "Resize", "Permute", "PadStride"]
    assert tree["Preprocess"][1]["target_size"] == [64, 96]
    assert tree["label_list"] == ["class 0", "class 1", "class 2"]


def test_an_export_is_replaced_in_one_step(exported, copied):
    before = os.stat(copied).st_ino
    with new_directory(copied) as place:
        (place / "model.bin").write_bytes(b"weights")
        assert (copied / "infer_cfg.yml").exists()
    assert [path.name for path in copied.iterdir()] == ["model.bin"]
    assert os.stat(copied).st_ino != before
    assert [path.name for path in copied.parent.iterdir()] == ["copy"]


def test_what_fails_leaves_everything_as_it_was(copied):
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    with pytest.raises(ZeroDivisionError), new_directory(copied) as place:
        (place / "model.bin").write_bytes(b"weights")
        raise ZeroDivisionError
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before
    assert [path.name for path in copied.parent.iterdir()] == ["copy"]


def test_what_is_no_export_is_not_replaced(copied, tmp_path):
    check_place(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    check_place(tmp_path / "empty")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "photo.jpg").write_text("mine")
    (tmp_path / "link").symlink_to(copied)
    for name in ("file", "folder", "link"):
        with pytest.raises(ExportError, match=f"{name} .*--output_dir"):
            check_place(tmp_path / name)
    (copied / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"notes\.txt"):
        check_place(copied)


def test_files_that_are_missing_cut_or_changed_are_named(copied):
    info = read_info(copied)
    for name in info.files:
        content = (copied / name).read_bytes()
        for damaged in (content[:-7], content[:20] + b"?" + content[21:], b""):
            (copied / name).write_bytes(damaged)
            with pytest.raises(ExportError, match=f"{name} was cut off or changed"):
                check_files(copied, info)
        (copied / name).unlink()
        with pytest.raises(ExportError, match=f"{name} is missing"):
            check_files(copied, info)
        (copied / name).write_bytes(content)
    check_files(copied, info)


def test_a_configuration_that_is_missing_cut_changed_or_foreign_is_named(copied, tmp_path):
    file = copied / "infer_cfg.yml"
    text = file.read_text()
    with pytest.raises(ExportError, match="nowhere: no such directory"):
        read_info(tmp_path / "nowhere")
    for changed in (
        text[: len(text) // 2],
        text.replace("mask_threshold: 0.5", "mask_threshold: 0.4"),
        "\0",
        "{a: [",
        "",
    ):
        file.write_text(changed)
        with pytest.raises(ExportError, match=r"infer_cfg\.yml"):
            read_info(copied)
    tree = yaml.safe_load(text)
    del tree["ppsolo"]
    file.write_text(yaml.safe_dump(tree))
    with pytest.raises(ExportError, match="another program wrote it"):
        read_info(copied)
    file.unlink()
    with pytest.raises(ExportError, match=r"infer_cfg\.yml is missing"):
        read_info(copied)


def test_what_paddledetection_reads_may_be_changed(copied):
    file = copied / "infer_cfg.yml"
    file.write_text(file.read_text().replace("draw_threshold: 0.5", "draw_threshold: 0.3"))
    read_info(copied)


def test_every_fact_survives(exported, tmp_path):
    names = ("naïve: 'cafe\u0301'", "yes", "1e3")
    config = dataclasses.replace(exported.config, class_names=names)
    info = dataclasses.replace(exported.export.info, config=config, checkpoint={"file": "a b.pdparams", "sha256": "0"})
    write_info(tmp_path, info)
    assert read_info(tmp_path) == info


def block_of(directory: Path) -> dict:
    """The block `ppsolo`, without what is checked before its values."""
    block = parse_yaml((directory / "infer_cfg.yml").read_text(), "infer_cfg.yml")["ppsolo"]
    return {key: value for key, value in block.items() if key not in ("sha256", "layout")}


WRONG = [None, True, -1, 2**70, 1.5, "x", "", [], [1], [None], [[]], {}, {"a": 1}, {"a": "b"}, [{"name": "x"}]]
MAY_BE = {
    "verified": [None, "x", ""],
    "device": [None],
    "ppsolo": ["x", ""],
    "paddle": ["x", ""],
    "checkpoint": [{}, {"a": "b"}],
}


def test_a_checksum_that_fits_does_not_make_a_value_right(exported):
    right = block_of(exported.export.directory)
    for key in right:
        accepted = []
        for value in WRONG:
            try:
                _info_of({**right, key: value}, Path("infer_cfg.yml"))
            except ExportError as error:
                assert "\n" not in str(error)
            else:
                accepted.append(value)
        assert accepted == MAY_BE.get(key, [])
        if key == "device":
            continue
        with pytest.raises(ExportError, match=f"'{key}'"):
            _info_of({name: value for name, value in right.items() if name != key}, Path("infer_cfg.yml"))


def test_wrong_entries_in_a_block_are_refused(exported):
    right = block_of(exported.export.directory)
    assert _info_of(copy.deepcopy(right), Path("infer_cfg.yml")) == exported.export.info
    for change in (
        lambda block: block["files"].clear(),
        lambda block: block["files"].pop("model.pdiparams"),
        lambda block: block["files"].update({"../outside": "0" * 64}),
        lambda block: block["files"].update({"infer_cfg.yml": "0" * 64}),
        lambda block: block["files"].update({"model.pdiparams": "0" * 63}),
        lambda block: block["inputs"][0].update(shape=[1.5]),
        lambda block: block["inputs"][0].pop("dtype"),
        lambda block: block["inputs"][0].update(more=1),
        lambda block: block["outputs"].append("scores"),
        lambda block: block.update(input_shape=[1, 3, 33, 64]),
        lambda block: block.update(input_shape=[0, 3, 32, 64]),
        lambda block: block.update(input_shape=[1, 4, 32, 64]),
        lambda block: block.update(more=1),
        lambda block: block["config"].update(more=1),
        lambda block: block["config"].pop("model"),
        lambda block: block["config"].update(num_classes=-1),
    ):
        block = copy.deepcopy(right)
        change(block)
        with pytest.raises(ExportError):
            _info_of(block, Path("infer_cfg.yml"))


def test_a_fitting_checksum_is_not_enough(copied):
    file = copied / "infer_cfg.yml"
    tree = parse_yaml(file.read_text(), "infer_cfg.yml")
    block = {**tree["ppsolo"], "files": {}}
    del block["sha256"]
    tree["ppsolo"] = {**block, "sha256": hashlib.sha256(json.dumps(block, sort_keys=True).encode()).hexdigest()}
    file.write_text(json.dumps(tree))
    with pytest.raises(ExportError, match=r"'files'|no checksum"):
        read_info(copied)
    for key in ("1: 2", "2020-01-01: 2", "1.5: x", "x: !!binary aGk=", "~: 1"):
        file.write_text(f"ppsolo: {{sha256: x, paddle: 1, {key}}}")
        with pytest.raises(ExportError):
            read_info(copied)
