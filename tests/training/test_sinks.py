"""Sinks: what they are given is where it belongs."""

import csv
import io
import json
import os
import struct

import numpy as np
import pytest

from ppsolo.errors import ConfigError
from ppsolo.training import sinks
from ppsolo.training.sinks import (
    ConsoleSink,
    CsvSink,
    JsonLinesSink,
    MLflowSink,
    TensorBoardSink,
    VisualDLSink,
    WandbSink,
)

TRAIN = {
    "train/loss": 0.75,
    "train/loss_mask": 0.5,
    "train/loss_category": 0.25,
    "train/learning_rate": 0.01,
    "train/step_seconds": 0.5,
    "train/data_seconds": 0.125,
    "train/epoch": 3,
}
PICTURE = np.full((4, 6, 3), 200, np.uint8)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device without room")
@pytest.mark.parametrize("sink", [JsonLinesSink, CsvSink])
def test_a_full_disk_names_the_log(sink, tmp_path):
    log = sink(tmp_path / "log", first_step=0)
    log.close()
    log._stream = open("/dev/full", "w")  # noqa: SIM115
    for end in (lambda: log.log(TRAIN, 1), log.close):
        with pytest.raises(OSError, match="No space") as caught:
            end()
        assert caught.value.filename == str(tmp_path / "log")


def test_the_console_gets_plain_lines_with_rate_and_time_left():
    stream = io.StringIO()
    sink = ConsoleSink(stream, first_step=10, total_steps=30)
    sink.log(TRAIN, 20)
    sink.log({"val/segm_AP": 0.5, "val/image_3": PICTURE}, 20)
    sink.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2 and "\r" not in stream.getvalue()
    assert lines[0].startswith(
        "epoch 3, loss 0.7500 (mask 0.5000, category 0.2500), lr 0.01, data 0.125 s of 0.500 s: 20/30"
    )
    assert lines[0].endswith("left") and "/s" in lines[0]
    assert lines[1] == "step 20: segm_AP 50.0"


def test_a_terminal_gets_a_bar():
    stream = Terminal()
    sink = ConsoleSink(stream, first_step=0, total_steps=30)
    sink._progress._every = 0.0
    sink.log(TRAIN, 15)
    sink.log({"val/segm_AP": 0.5}, 15)
    sink.close()
    assert stream.getvalue().startswith("\r\x1b[K[##########..........] epoch 3")
    assert "\r\x1b[Kstep 15: segm_AP 50.0\n" in stream.getvalue()


def test_json_lines_hold_the_numbers_alone(tmp_path):
    sink = JsonLinesSink(tmp_path / "log.jsonl", first_step=0)
    sink.log(TRAIN, 20)
    sink.log({"val/segm_AP": 0.5, "val/image_3": PICTURE}, 40)
    sink.close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [{"step": 20, **TRAIN}, {"step": 40, "val/segm_AP": 0.5}]


@pytest.mark.parametrize(("first_step", "kept"), [(0, []), (20, [10, 20]), (99, [10, 20, 30])])
def test_what_is_trained_again_is_not_there_twice(tmp_path, first_step, kept):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in (10, 20, 30)) + '{"step": 4')
    sink = JsonLinesSink(path, first_step=first_step)
    sink.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == kept


def test_visualdl_can_read_its_records(tmp_path):
    visualdl = pytest.importorskip("visualdl")
    sink = VisualDLSink(tmp_path / "records", first_step=0)
    sink.log({"train/loss": 0.75}, 1)
    sink.log({"train/loss": 0.5, "val/image_3": PICTURE}, 2)
    sink.close()
    (file,) = (tmp_path / "records").iterdir()
    reader = visualdl.LogReader(file_path=str(file))
    assert [(record.id, record.value) for record in reader.get_data("scalar", "train/loss")] == [(1, 0.75), (2, 0.5)]
    assert [record.id for record in reader.get_data("image", "val/image_3")] == [2]


@pytest.mark.parametrize(("first_step", "files"), [(0, 1), (5, 2)])
def test_a_new_run_forgets_the_records_of_one_that_came_to_nothing(tmp_path, first_step, files):
    (tmp_path / "vdlrecords.1.log").write_bytes(b"")
    sink = VisualDLSink(tmp_path, first_step=first_step)
    sink.log({"train/loss": 0.75}, first_step)
    sink.close()
    assert len(list(tmp_path.glob("vdlrecords.*"))) == files


def test_csv_has_a_column_for_each_number_and_goes_on_where_training_does(tmp_path):
    path = tmp_path / "log.csv"
    sink = CsvSink(path, first_step=0)
    sink.log(TRAIN, 20)
    sink.log({"val/segm_AP": 0.5, "val/image_3": PICTURE}, 20)
    sink.log(TRAIN, 40)
    sink.close()
    path.write_text(path.read_text() + "60,0.")  # cut off
    CsvSink(path, first_step=20).close()
    rows = list(csv.DictReader(path.open()))
    assert [row["step"] for row in rows] == ["20", "20"]
    assert rows[0]["train/loss"] == "0.75" and rows[0]["val/segm_AP"] == ""
    assert rows[1]["val/segm_AP"] == "0.5" and rows[1]["train/loss"] == ""


def test_tensorboard_gets_numbers_and_pictures(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    sink = TensorBoardSink(tmp_path, first_step=0)
    sink.log({"train/loss": 0.75, "val/image_3": PICTURE}, 2)
    sink.close()
    (file,) = tmp_path.iterdir()
    values = {}
    content = file.read_bytes()
    while content:  # length, its checksum, an event, its checksum
        (size,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + size])
        values |= {value.tag: (event.step, value) for value in event.summary.value}
        content = content[16 + size :]
    assert values["train/loss"][0] == 2 and values["train/loss"][1].simple_value == 0.75
    assert (values["val/image_3"][1].image.height, values["val/image_3"][1].image.width) == (4, 6)


def test_mlflow_gets_the_numbers(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sink = MLflowSink(tmp_path / "mlflow", "mine")
    sink.log({"train/loss": 0.75, "val/image_3": PICTURE}, 2)
    sink.close()
    (run,) = mlflow.search_runs(output_format="list")
    assert run.info.run_name == "mine" and run.data.metrics == {"train/loss": 0.75}


def test_wandb_gets_the_numbers(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    sink = WandbSink(tmp_path, "mine")
    sink.log({"train/loss": 0.75, "val/image_3": PICTURE}, 2)
    sink.close()
    assert list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))


def test_a_tracker_that_is_not_installed_is_named_with_the_remedy(tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(sinks.importlib, "import_module", missing)
    for make, extra in (
        (lambda: TensorBoardSink(tmp_path, first_step=0), "tensorboard"),
        (lambda: MLflowSink(tmp_path, "mine"), "mlflow"),
        (lambda: WandbSink(tmp_path, "mine"), "wandb"),
    ):
        with pytest.raises(ConfigError, match=rf"names {extra}, .* pip install 'ppsolo\[{extra}\]'"):
            make()
