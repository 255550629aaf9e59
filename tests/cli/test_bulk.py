"""`ppsolo infer --results` and `ppsolo merge`: lists, shards, resuming, signals."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from busy import busy_model

from ppsolo import load_config
from ppsolo.cli import main
from ppsolo.cli.bulk import shard_of
from ppsolo.data.images import write_image
from ppsolo.deploy.export import export_model
from ppsolo.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def work(tmp_path_factory, tiny) -> Path:
    """A folder with an export, pictures, and a list of them."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("bulk")
    config = load_config("solov2_r50_fpn_1x", {**tiny, "postprocess.max_instances": 5})
    model = busy_model(config)
    export_model(model, config, folder / "model", format="onnx", graph="network", verify_export=False)
    (folder / "pictures").mkdir()
    for number in range(9):
        image = np.random.default_rng(number).integers(0, 256, (60, 90, 3), np.uint8)
        write_image(folder / "pictures" / f"{number}.png", image)
    lines = [str(folder / "pictures" / f"{number}.png") for number in range(9)]
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    return folder


def infer(work: Path, output: Path, *more: str) -> int:
    arguments = ["--model_dir", str(work / "model"), "--results", "jsonl", "--part_size", "2"]
    return main(["infer", *arguments, "--output_dir", str(output), *more])


def merged(output: Path) -> str:
    assert main(["merge", str(output), "--output", str(output / "all.jsonl")]) == 0
    return (output / "all.jsonl").read_text()


def test_a_folder_names_what_it_leaves_out(work, tmp_path, capsys):
    pictures = tmp_path / "pictures"
    shutil.copytree(work / "pictures", pictures)
    (pictures / "scan.pdf").write_bytes(b"%PDF-1.4")
    (pictures / "0.json").write_text("{}")
    assert infer(work, tmp_path / "out", "--source", str(pictures)) == 1
    captured = capsys.readouterr()
    assert "scan.pdf: left out, not a picture" in captured.err and "1 file left out" in captured.err
    assert "1 annotation or text file skipped (1 .json)" in captured.out and "in 9 pictures" in captured.out


def test_pictures_that_cannot_be_read_are_not_counted_as_predicted(work, tmp_path, capsys):
    pictures = tmp_path / "pictures"
    shutil.copytree(work / "pictures", pictures)
    (pictures / "broken.png").write_bytes(b"no picture")
    assert infer(work, tmp_path / "out", "--source", str(pictures)) == 1
    captured = capsys.readouterr()
    assert "instances in 9 pictures" in captured.out and "broken.png" in captured.err
    assert main(["merge", str(tmp_path / "out"), "--output", str(tmp_path / "all.jsonl")]) == 0
    assert "instances of 9 pictures" in capsys.readouterr().out


def test_an_unreadable_picture_does_not_end_the_other_processes_of_a_launcher(work, tmp_path, monkeypatch, capsys):
    (tmp_path / "list.txt").write_text(f"{work / 'pictures' / '0.png'}\n{tmp_path / 'none.png'}\n")
    assert infer(work, tmp_path / "alone", "--infer_list", str(tmp_path / "list.txt")) == 1
    shard = ("--infer_list", str(tmp_path / "list.txt"), "--shard", "2/2")
    assert infer(work, tmp_path / "shard", *shard) == 1
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    assert infer(work, tmp_path / "launched", *shard) == 1
    capsys.readouterr()
    assert infer(work, tmp_path / "launched2", *shard[:2]) == 0  # the launcher stops all others at any other code
    captured = capsys.readouterr()
    assert "none.png" in captured.err and "the exit code is 0" in captured.out


def test_what_is_refused_leaves_no_folder_and_loads_no_model(work, tmp_path, capsys, monkeypatch):
    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("a model was loaded")

    (tmp_path / "done").mkdir()
    assert infer(work, tmp_path / "done", "--source", str(work / "pictures")) == 0
    monkeypatch.setattr("ppsolo.model_source.ModelSource.open", never)
    assert infer(work, tmp_path / "done", "--source", str(work / "pictures")) == 2
    assert "9 finished pictures: add --resume" in capsys.readouterr().err
    assert infer(work, tmp_path / "new", "--infer_list", str(tmp_path / "gone.txt")) == 2
    assert "gone.txt: cannot be read" in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_a_list_that_is_no_list_gets_one_line(work, tmp_path, capsys):
    (tmp_path / "long.txt").write_text("x" * 70_000)
    assert infer(work, tmp_path / "out", "--infer_list", str(tmp_path / "long.txt")) == 2
    assert "long.txt: a line has 65536 letters or more; give a file with one path" in capsys.readouterr().err
    if os.path.exists("/proc/self/mem"):  # opens, and cannot be read
        assert infer(work, tmp_path / "out", "--infer_list", "/proc/self/mem") == 2
        assert "/proc/self/mem: cannot be read (Input/output error)" in capsys.readouterr().err


def test_lists_folders_and_shards_give_the_same(work, tmp_path, capsys, monkeypatch):
    assert infer(work, tmp_path / "list", "--infer_list", str(work / "list.txt")) == 0
    expected = merged(tmp_path / "list")
    assert len(expected.splitlines()) > 9 and "9 pictures" in capsys.readouterr().out
    for index in range(1, 4):
        shard = ["--shard", f"{index}/3"]
        assert infer(work, tmp_path / "shards", "--source", str(work / "list.txt"), *shard) == 0
    assert merged(tmp_path / "shards") == expected
    for rank in range(2):
        monkeypatch.setenv("PADDLE_TRAINER_ID", str(rank))
        monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
        assert infer(work, tmp_path / "ranks", "--infer_dir", str(work / "pictures")) == 0
    monkeypatch.delenv("PADDLE_TRAINERS_NUM")
    assert merged(tmp_path / "ranks") == expected
    marked = work / "marked.txt"
    marked.write_text((work / "list.txt").read_text(), encoding="utf-8-sig")  # as some editors write it
    assert infer(work, tmp_path / "marked", "--infer_list", str(marked)) == 0
    assert merged(tmp_path / "marked") == expected
    with (work / "list.txt").open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        assert infer(work, tmp_path / "stdin", "--infer_list", "-") == 0
    assert merged(tmp_path / "stdin") == expected


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--shard", "4/3"], "give I/N"),
        (["--part_size", "0"], "at least 1"),
        (["--part_size", "99999999999999999999"], "--part_size is 99999999999999999999: give at most"),
        (["--batch_size", "99999999999999999999"], "--batch_size is 99999999999999999999: give at most"),
        (["--save", "csv"], "omit --save"),
        (["--save_results", "True"], "omit --save and --save_results"),
        (["--save_threshold", "0.5"], "omit --save_threshold"),
    ],
)
def test_what_means_nothing_is_refused(work, tmp_path, capsys, flags, reason):
    assert infer(work, tmp_path / "out", "--infer_list", str(work / "list.txt"), *flags) == 2
    assert reason in capsys.readouterr().err


def test_resuming_needs_a_bulk_run(work, tmp_path, capsys):
    command = ["infer", "--model_dir", str(work / "model"), "--infer_dir", str(work / "pictures"), "--resume"]
    assert main([*command, "--output_dir", str(tmp_path)]) == 2
    assert "add --results" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_loses_nothing(work, tmp_path, number):
    """A long list of the same pictures, ended in its middle, then resumed."""
    pictures = (work / "list.txt").read_text() * 40
    (tmp_path / "long.txt").write_text(pictures)
    count = len(pictures.splitlines())
    output = tmp_path / "out"
    command = [sys.executable, "-m", "ppsolo", "infer", "--model_dir", str(work / "model"), "--results", "jsonl"]
    command += ["--part_size", "5", "--infer_list", str(tmp_path / "long.txt"), "--output_dir", str(output)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(list(output.glob("part-*"))) < 3 and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(number)
    _, errors = running.communicate(timeout=120)
    codes = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
    assert running.returncode in (codes[number], 0), errors  # 0: it was faster
    assert "Traceback" not in errors
    resumed = subprocess.run([*command, "--resume"], env=environment, capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    ids = [json.loads(line)["image_id"] for line in merged(output).splitlines()]
    assert ids == sorted(ids) and {*ids} == {*range(count)}
    first = [line for line in merged(output).splitlines() if json.loads(line)["image_id"] < 9]
    assert len(ids) == 40 * len(first)


@pytest.mark.parametrize("shard", ["0/3", "4/3", "x", "9" * 5000 + "/1", "1/" + "9" * 5000, "²/³"])
def test_impossible_shards_are_one_line(tmp_path, capsys, shard):
    options = argparse.Namespace(shard=shard)
    with pytest.raises(ConfigError, match="give I/N"):
        shard_of(options)
