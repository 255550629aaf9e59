"""Training states on disk: whole or refused, never in part."""

import logging

import numpy as np
import pytest

from ppsolo.checkpoint.writer import write_checkpoint
from ppsolo.config import config_to_dict, load_config
from ppsolo.errors import CheckpointError, TrainingError
from ppsolo.training.state import RECORD, RunDirectory, TrainingState, check_same_run, read_state, write_state


@pytest.fixture
def state() -> TrainingState:
    arrays = {
        "model": {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3)},
        "optimizer": {"a.weight": np.ones(3)},
    }
    return TrainingState(arrays, {"step": 7, "ema": None, "best_ap": 0.1 + 0.2})


def test_what_is_written_is_read_to_the_last_bit(tmp_path, state):
    write_state(state, tmp_path / "x.safetensors")
    read = read_state(tmp_path / "x.safetensors")
    assert read.record == state.record
    assert read.arrays.keys() == state.arrays.keys()
    for group, arrays in state.arrays.items():
        for name, array in arrays.items():
            assert read.arrays[group][name].dtype == array.dtype
            np.testing.assert_array_equal(read.arrays[group][name], array)


def test_any_damage_is_found(tmp_path, state):
    path = tmp_path / "x.safetensors"
    write_state(state, path)
    whole = path.read_bytes()
    for broken in (
        whole[:-1],
        whole[: len(whole) // 2],
        b"",
        whole + b"x",
        whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:],
    ):
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"x\.safetensors"):
            read_state(path)


@pytest.mark.parametrize("record", [None, b"no JSON", b"[]", b'{"format": 2, "checksum": 0, "record": {}}'])
def test_other_files_are_refused(tmp_path, record):
    arrays = {"head.category.bias": np.zeros(3, np.float32)}
    if record is not None:
        arrays = {RECORD: np.frombuffer(record, np.uint8), **arrays}
    write_checkpoint(arrays, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"not the state of a training run|format 2"):
        read_state(tmp_path / "x.safetensors")


def test_the_newest_states_stay_and_the_newest_whole_one_is_found(tmp_path, state, caplog):
    run = RunDirectory(tmp_path / "run")
    assert run.newest_state() is None
    run.prepare(load_config("solov2_r50_fpn_1x"), ["a"])
    for step in (5, 10, 20):
        run.add_state(TrainingState(state.arrays, {"step": step}), step=step, keep=2)
    assert [path.stem for path in run.states()] == ["000000020", "000000010"]
    run.states()[0].write_bytes(b"half")
    with caplog.at_level(logging.WARNING):
        newest = run.newest_state()
    assert newest is not None and newest[1].record == {"step": 10}
    assert "000000020.safetensors" in caplog.text and "skipped" in caplog.text
    run.states()[1].write_bytes(b"")
    with pytest.raises(CheckpointError, match="every checkpoint is broken"):
        run.newest_state()


def test_a_run_is_not_overwritten(tmp_path, state):
    run = RunDirectory(tmp_path / "run")
    config = load_config("solov2_r50_fpn_1x")
    run.prepare(config, ["a"])
    run.refuse_another_run()
    assert load_config(run.config_file) == config
    run.add_state(state, step=1, keep=1)
    with pytest.raises(TrainingError, match="-r auto"):
        run.refuse_another_run()


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"train\.output_dir"):
        RunDirectory(tmp_path / "file" / "run").prepare(load_config("solov2_r50_fpn_1x"), [])


def identity(**changes) -> dict:
    config = config_to_dict(load_config("solov2_r50_fpn_1x", changes))
    return {"config": config, "world_size": 1, "dataset": "3 images"}


SAVED = {**identity(), "step": 7}


def test_what_does_not_change_training_may_differ():
    check_same_run(SAVED, identity(**{"train.epochs": 20, "data.num_workers": 9, "train.log_every": 1}))


@pytest.mark.parametrize(
    ("current", "expected"),
    [
        (identity(num_classes=3), "num_classes is 3, the checkpoint was made with 80"),
        (identity(**{"train.batch_size": 4}), r"train\.batch_size is 4"),
        ({**identity(), "world_size": 2}, "world_size is 2, the checkpoint's is 1; start as many processes"),
        ({**identity(), "dataset": "4 images"}, "dataset is 4 images"),
    ],
)
def test_another_run_is_refused(current, expected):
    with pytest.raises(TrainingError, match=expected) as caught:
        check_same_run(SAVED, current)
    assert "\n" not in str(caught.value)


def test_a_cosine_cannot_be_prolonged():
    cosine = {"train.schedule.type": "cosine"}
    with pytest.raises(TrainingError, match=r"train\.epochs is 20"):
        check_same_run({**identity(**cosine), "step": 7}, identity(**cosine, **{"train.epochs": 20}))


@pytest.mark.parametrize("key", SAVED)
def test_a_state_that_does_not_say_where_it_is_from_is_refused(key):
    record = {name: value for name, value in SAVED.items() if name != key}
    with pytest.raises(TrainingError, match=f"lacks {key}"):
        check_same_run(record, identity())


@pytest.mark.parametrize(
    "record",
    [
        [],
        None,
        "x",
        {"step": "7"},
        {"step": -1},
        {"step": 1.5},
        {"step": True},
        {"step": 2**70},
        {"epoch": None},
        {"best_ap": "x"},
        {"best_ap": float("nan")},
        {"recent_losses": 3},
        {"recent_losses": [[1.0], [1.0, 2.0]]},
        {"recent_losses": [["x"]]},
        {"precision": None},
        {"precision": {"scale": "x"}},
        {"ema": {}},
        {"ema": {"steps": None, "zero_share": 1.0, "correction": "exact"}},
        {"ema": 3},
        {"config": []},
        {"world_size": [1]},
    ],
)
def test_a_checksum_that_fits_does_not_make_a_record_right(tmp_path, state, record):
    write_state(TrainingState(state.arrays, record), tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        read_state(tmp_path / "x.safetensors")


def test_a_class_is_one_line_whatever_its_name(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.prepare(load_config("solov2_r50_fpn_1x"), ["road\nsign", "bell\a", "\ud800", "caf\u00e9"])
    assert (tmp_path / "run" / "class_names.txt").read_text().splitlines() == ["road sign", "bell", "", "caf\u00e9"]
