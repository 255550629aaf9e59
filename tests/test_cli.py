"""The command line: the zoo, conversion and the entry points."""

import errno
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import paddle
import pytest

import ppsolo
from ppsolo import build_model, load_config, save_weights
from ppsolo.checkpoint.zoo import ZOO
from ppsolo.cli import main, parser
from ppsolo.cli.shared import LONG_STEPS
from ppsolo.data.synthetic import draw_dataset
from ppsolo.training.stop_request import TrainingInterrupted

ROOT = Path(__file__).parent.parent


def test_zoo_lists_every_published_system(capsys):
    assert main(["zoo", "list"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ZOO)
    assert "published, not reproduced" in text


def test_zoo_check_tells_one_system_from_another(tmp_path, capsys, tiny):
    save_weights(build_model(load_config("solov2_r50_fpn_1x", tiny)), tmp_path / "x.pdparams")
    assert main(["zoo", "check", "solov2_r50_fpn_1x", str(tmp_path / "x.pdparams")]) == 2
    assert "x.pdparams" in capsys.readouterr().err
    assert main(["zoo", "fetch", "solov2_r50_fpn"]) == 2


def test_check_data_says_what_is_wrong(tmp_path, capsys):
    train, _ = draw_dataset(tmp_path, train=4, val=1, seed=0)
    annotations = json.loads(Path(train.annotations).read_text())
    annotations["annotations"][0]["segmentation"] = [[1.0, 2.0, 3.0]]
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(annotations))
    command = ["check-data", "-c", "solov2_r50_fpn_1x", "--images", str(train.image_dir), "--annotations"]
    assert main([*command, str(broken), "--json", str(tmp_path / "report.json")]) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert any(annotations["annotations"][0]["id"] in problem["ids"] for problem in report["problems"])
    assert "suggest" in capsys.readouterr().out
    assert main([*command, str(tmp_path / "gone.json")]) == 2


def test_convert_writes_names_of_2x(tmp_path, capsys, tiny):
    save_weights(build_model(load_config("solov2_r50_fpn_1x", tiny)), tmp_path / "own.pdparams")
    options = [f"{key}={value}" for key, value in tiny.items()] + [f"weights={tmp_path / 'own.pdparams'}"]
    command = ["convert", "-c", "solov2_r50_fpn_1x", "-o", *options, "--output"]
    assert main([*command, str(tmp_path / "back.pdparams")]) == 0
    loaded = paddle.load(str(tmp_path / "back.pdparams"))
    assert "solov2_head.bbox_head.solo_cate.weight" in loaded and "solov2_head.solo_cate.weight" in loaded
    assert main([*command, str(tmp_path / "back.onnx")]) == 2
    assert main([*command, str(tmp_path / "gone" / "back.pdparams")]) == 2


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "scripts").glob("*.py")))
def test_every_script_explains_itself(script):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), "--help"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr


UNKNOWN = {
    "train --epochs 3": "ppsolo train: error: unrecognized arguments: --epochs 3; did you mean -o train.epochs=VALUE?",
    "train --batch-size 2": "did you mean -o train.batch_size=VALUE?",
    "train mine/config.yml": "did you mean -c mine/config.yml?",
    "infer street.jpg": "did you mean --source street.jpg?",
    "infer --draw-threshold 0.3": "did you mean --draw_threshold?",
    "infer --score_treshold 0.3": "did you mean -o postprocess.score_threshold=VALUE?",
    "serve output/mine_onnx": "did you mean --model_dir output/mine_onnx?",
    "import-data photos --output mine --format yolov8": "did you mean yolo?",
    "suggest photos": "ppsolo suggest --help lists what it knows",
}


@pytest.mark.parametrize("command", UNKNOWN)
def test_unknown_arguments_get_the_usage_of_their_command_and_advice(command, capsys):
    with pytest.raises(SystemExit) as refused:
        main(command.split())
    said = capsys.readouterr().err
    assert refused.value.code == 2 and said.startswith(f"usage: ppsolo {command.split()[0]} ")
    assert said.splitlines()[-1].endswith(UNKNOWN[command])


@pytest.mark.parametrize(
    ("words", "advice"),
    [("infr -c x", "did you mean infer?"), ("Train", "did you mean train?"), ("--versoin", "did you mean --version?")],
)
def test_a_mistyped_command_is_answered_with_the_nearest(words, advice, capsys):
    with pytest.raises(SystemExit) as refused:
        main(words.split())
    assert refused.value.code == 2 and capsys.readouterr().err.splitlines()[-1].endswith(advice)


@pytest.mark.parametrize(("words", "level"), [("-q zoo list", 40), ("zoo list -q", 40), ("zoo list", 30)])
def test_quiet_may_stand_before_or_after_the_command(words, level):
    options = parser().parse_args(words.split())
    assert (logging.ERROR if options.quiet else logging.WARNING) == level and not options.verbose


def test_a_pattern_that_the_shell_replaced_gets_advice(tmp_path, capsys):
    for name in "abc":
        (tmp_path / f"{name}.png").touch()
    with pytest.raises(SystemExit):
        main(["infer", "-c", "x", "--source", *(str(tmp_path / f"{name}.png") for name in "abc")])
    assert capsys.readouterr().err.rstrip().endswith(f"put patterns in quotes: --source '{tmp_path}/*.png'")


def test_two_models_are_one_too_many_and_the_run_of_a_configuration_is_named(tmp_path, monkeypatch, capsys):
    assert main(["infer", "-c", "compact", "--model_dir", "x", "--source", "x"]) == 2
    assert "-c and --model_dir both name a model: give one of them" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    Path("mine.yml").write_text("_BASE_: compact\n")
    Path("output/mine").mkdir(parents=True)
    Path("output/mine/config.yml").write_text("_BASE_: compact\n")
    assert main(["infer", "-c", "mine.yml", "--source", "x"]) == 2
    assert "note: mine.yml has no trained weights: -c output/mine/config.yml has" in capsys.readouterr().err


def test_weights_and_runs_in_the_wrong_place_are_named(tmp_path, capsys):
    (tmp_path / "best.pdparams").write_bytes(b"\x80\x02}")
    (tmp_path / "config.yml").write_text("_BASE_: compact\n")
    assert main(["infer", "-c", str(tmp_path / "best.pdparams"), "--source", "x"]) == 2
    assert (
        "best.pdparams: not a text file, so no configuration; weights belong to -o weights" in capsys.readouterr().err
    )
    assert main(["infer", "--model_dir", str(tmp_path), "--source", "x"]) == 2
    assert f"is a run, no export: give -c {tmp_path / 'config.yml'}" in capsys.readouterr().err
    assert main(["infer", "--model_dir", str(tmp_path / "best.pdparams"), "--source", "x"]) == 2
    assert f"is a file: give its folder, {tmp_path}" in capsys.readouterr().err


def test_the_program_alone_shows_its_commands(capsys):
    with pytest.raises(SystemExit) as refused:
        main([])
    assert refused.value.code == 2 and "import-data" in capsys.readouterr().err


def test_a_folder_as_configuration_is_answered_with_its_file(tmp_path, capsys):
    (tmp_path / "config.yml").write_text("_BASE_: compact\n")
    assert main(["train", "-c", str(tmp_path)]) == 2
    assert f"is a folder; give its configuration: {tmp_path / 'config.yml'}" in capsys.readouterr().err


def test_help_needs_no_paddle():
    code = (
        "import sys; from ppsolo.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: assert 'paddle' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


def test_the_package_itself_is_the_command():
    command = [sys.executable, "-m", "ppsolo", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, f"ppsolo {ppsolo.__version__}\n")


def test_an_interrupt_is_one_line(monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("ppsolo.cli.shared.load_answering_config", interrupted)
    assert main(["infer", "-c", "x", "--infer_img", "x"]) == 130
    assert capsys.readouterr().err == "ppsolo: error: interrupted\n"


def test_training_that_a_signal_ended_keeps_its_exit_code(monkeypatch, capsys):
    def terminated(*arguments):
        raise TrainingInterrupted("stopped", signal.SIGTERM)

    monkeypatch.setattr("ppsolo.cli.shared.load_answering_config", terminated)
    assert main(["infer", "-c", "x", "--infer_img", "x"]) == 143
    assert capsys.readouterr().err == "ppsolo: error: ended by SIGTERM\n"


def test_an_error_of_paddle_keeps_its_words_and_traceback(monkeypatch):
    def broken(*arguments):
        raise OSError("(External) CUDA error(719), unspecified launch failure.")

    monkeypatch.setattr("ppsolo.cli.shared.load_answering_config", broken)
    with pytest.raises(OSError, match="unspecified launch failure"):
        main(["infer", "-c", "x", "--infer_img", "x"])


def test_long_steps_are_named_unless_quiet(monkeypatch):
    monkeypatch.setenv("PPSOLO_PROGRESS", "on")  # put back afterwards
    for flags, level in (([], logging.INFO), (["-q"], logging.ERROR), ([], logging.INFO)):
        assert main([*flags, "zoo", "list"]) == 0
        for name in LONG_STEPS:
            assert logging.getLogger(name).level == level and importlib.import_module(name).logger.name == name


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "not enough memory: end other programs"),
        (cv2.error("std::bad_alloc"), "not enough memory: end other programs"),
        (RuntimeError("can't start new thread"), "no more threads or processes can be started"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "no more threads or processes"),
    ],
)
def test_what_the_machine_lacks_is_one_line(error, line, monkeypatch, capsys):
    def run(options):
        raise error

    monkeypatch.setattr("ppsolo.cli.zoo.run", run)
    assert main(["zoo", "list"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"ppsolo: error: {line}") and said.count("\n") == 1
