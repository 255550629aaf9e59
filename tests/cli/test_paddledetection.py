"""The flags of PaddleDetection's tools: parsed, and honoured or refused in one line."""

import errno
import json
import os
from pathlib import Path

import cli_flags
import pytest

from ppsolo.cli import main, parser
from ppsolo.cli.infer import listed_images
from ppsolo.cli.paddledetection import REFUSED, tile_of_slices
from ppsolo.cli.train import _with_flags, link_folder, weights_to_resume
from ppsolo.config import load_config
from ppsolo.errors import ConfigError

SYSTEM = "solov2_r50_fpn_1x"


def words(tool: str, flag: str, value: str | None) -> list[str]:
    source = ["--infer_img", "x.png"] if tool == "infer" and flag not in ("--infer_dir", "--infer_img") else []
    return [tool, "-c", SYSTEM, *source, flag, *([] if value is None else [value])]


@pytest.mark.parametrize(("tool", "flag", "value"), cli_flags.FLAGS)
def test_every_flag_is_parsed_and_a_refused_one_names_ours(capsys, tool, flag, value):
    options = parser().parse_args(words(tool, flag, value))
    if flag in REFUSED[tool]:
        assert main(words(tool, flag, value)) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"ppsolo: error: {flag} is a flag of PaddleDetection: ") and error.count("\n") == 1
    else:
        assert getattr(options, "refused", None) is None


def test_a_refused_flag_that_asks_for_nothing_is_taken():
    options = parser().parse_args(words("train", "--use_wandb", "False"))
    assert getattr(options, "refused", None) is None


@pytest.mark.parametrize(("flag", "amp"), [("--amp", "O1"), ("--fp16", "O1"), ("--eval", "none")])
def test_training_takes_its_flags(flag, amp):
    options = parser().parse_args(words("train", flag, None))
    config = _with_flags(load_config(SYSTEM, {"train.evaluate_every": 0}), options)
    assert (config.train.amp, config.train.evaluate_every) == (amp, int(flag == "--eval"))


def test_weights_given_to_resume_start_a_new_run_and_that_is_said(tmp_path, capsys):
    (tmp_path / "model_final.pdparams").write_bytes(b"x")
    stem = str(tmp_path / "model_final")
    options = parser().parse_args(words("train", "-r", stem))
    config = _with_flags(load_config(SYSTEM), options)
    assert (config.weights, options.resume) == (f"{stem}.pdparams", None)
    assert "optimizer and schedule start from the beginning" in capsys.readouterr().err
    assert weights_to_resume(str(tmp_path / "checkpoints" / "00000004.safetensors")) is None


def test_ignored_flags_are_said(capsys):
    for flag, value in (("--fleet", None), ("--enable_ce", "True"), ("--use_vdl", "False")):
        _with_flags(load_config(SYSTEM), parser().parse_args(words("train", flag, value)))
        assert capsys.readouterr().err.startswith(f"ppsolo: note: {flag}")


def test_a_link_is_not_lost_where_no_other_can_be_made(tmp_path, monkeypatch):
    link_folder(tmp_path / "vdl", tmp_path / "run")

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "symlink_to", fail)
    with pytest.raises(ConfigError, match="No space left"):
        link_folder(tmp_path / "vdl", tmp_path / "other")
    assert (tmp_path / "vdl").readlink() == tmp_path / "run" and len(os.listdir(tmp_path)) == 1


def test_the_log_of_visualdl_is_linked(tmp_path):
    link_folder(tmp_path / "vdl" / "scalar", tmp_path / "run")
    link_folder(tmp_path / "vdl" / "scalar", tmp_path / "other")
    assert (tmp_path / "vdl" / "scalar").readlink() == tmp_path / "other"
    with pytest.raises(ConfigError, match="choose another"):
        link_folder(tmp_path / "vdl", tmp_path / "run")


def test_slices_are_tiles():
    options = parser().parse_args([*words("infer", "--slice_infer", None), "--slice_size", "512", "512"])
    assert tile_of_slices(options) == (512, 128)
    options.slice_size = [512, 640]
    with pytest.raises(ConfigError, match="tiles are squares"):
        tile_of_slices(options)


def test_a_list_names_pictures_of_a_folder(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "list.txt").write_text("a.png\n\n")
    assert listed_images(tmp_path, tmp_path / "list.txt") == [tmp_path / "a.png"]
    (tmp_path / "list.txt").write_text("a.png\nb.png\n")
    with pytest.raises(ConfigError, match=r"b\.png does not exist"):
        listed_images(tmp_path, tmp_path / "list.txt")
    with pytest.raises(ConfigError, match="expected a regular file"):
        listed_images(tmp_path, Path("/dev/null"))  # /dev/zero would never end


def test_json_eval_finds_the_results_in_a_folder(tmp_path, drawn, capsys):
    (tmp_path / "segm.json").write_text("[]")
    data = ["-o", f"data.root={drawn}", "data.val_annotations=instances_val.json"]
    command = ["eval", "-c", SYSTEM, *data, "--json_eval", "--output_eval", str(tmp_path)]
    report = tmp_path / "report.json"
    assert main([*command, "--report", str(report)]) == 0
    assert json.loads(report.read_text())["segm"]["stats"][0] == 0.0
    (tmp_path / "segm.json").unlink()
    assert main(command) == 2
    assert "has no predictions.json, segm.json or mask.json" in capsys.readouterr().err


def test_a_checksum_needs_an_address(capsys):
    assert main(["export", "-c", SYSTEM, "--sha256", "0" * 64]) == 2
    assert "add -o weights=https://" in capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(tiny, drawn, tmp_path_factory) -> tuple[list[str], list[str]]:
    """Options for any command: a tiny model and its data set; the same with the model's weights."""
    import paddle

    from ppsolo import build_model
    from ppsolo.checkpoint.load import save_weights

    settings = {
        **tiny,
        "preprocess.short_side": 48,
        "data.root": str(drawn),
        "data.val_annotations": "instances_val.json",
        "data.val_images": "val",
        "postprocess.score_threshold": 0.005,
        "postprocess.update_threshold": 0.001,
    }
    paddle.seed(0)
    weights = tmp_path_factory.mktemp("trained") / "model_final.pdparams"
    save_weights(build_model(load_config(SYSTEM, settings)), weights)
    options = ["-c", SYSTEM, "-o", *(f"{key}={json.dumps(value)}" for key, value in settings.items())]
    return options, [*options, f"weights={weights.with_suffix('')}"]


def test_prediction_is_followed_by_an_evaluation(trained, drawn, tmp_path, capsys):
    picture = min((drawn / "val").iterdir())
    output = ["--infer_img", str(picture), "--output_dir", str(tmp_path)]
    assert main(["infer", *trained[1], *output, "--do_eval", "True"]) == 0
    assert "AP" in capsys.readouterr().out
    assert main(["infer", *trained[1], *output, "--do_eval", "False", "--save_results", "True"]) == 0
    assert "AP50" not in capsys.readouterr().out


def test_predictions_are_saved_without_precision(trained, tmp_path, capsys):
    command = ["eval", *trained[1], "--save_prediction_only", "--output_eval", str(tmp_path)]
    assert main(command) == 0
    assert "AP50" not in capsys.readouterr().out
    assert json.loads((tmp_path / "predictions.json").read_text())
