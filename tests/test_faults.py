"""The script that injects faults, run for a few seconds: files stay whole, and runs are resumed."""

import argparse
import datetime
import random
import sys
import threading
import time

import pytest
from script_files import load_script

faults, faults_training, reliability, counts = map(
    load_script, ("faults", "faults_training", "reliability", "injection.counts")
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    with faults.WeightsServer() as server:
        server.seconds = 0.3
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield faults.Inputs(tmp_path_factory.mktemp("inputs"), server)
        server.shutdown()


@pytest.fixture(scope="module")
def alone(inputs, tmp_path_factory):
    """Commands that need no Paddle, as they end when nothing happens."""
    folder, ended = tmp_path_factory.mktemp("alone"), {}
    for name in ("download", "import-data"):
        ended[name] = faults.Struck(faults.COMMANDS[name], inputs, folder / name)
        ended[name].run_alone()
    return ended


@pytest.mark.skipif(sys.platform != "linux", reason="the script takes Linux")
@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("download", "SIGTERM"),
        ("download", "disk full"),
        ("import-data", "SIGKILL"),
        ("import-data", "SIGINT"),
        ("import-data", "disk full"),
        ("import-data", "two processes"),
    ],
)
def test_a_fault_does_no_harm(inputs, alone, tmp_path, command, fault):
    faults.strike(command, fault, inputs, tmp_path / "struck", alone[command], random.Random(0))


def test_harm_is_noticed(inputs, alone, tmp_path):
    """A file that stands half under its name, and one that is gone."""
    struck = faults.Struck(faults.COMMANDS["download"], inputs, tmp_path / "struck", alone["download"])
    struck.copy_whole()
    struck.said_file().write_text("ppsolo: error: something")
    struck.check(2, (2,))
    file = tmp_path / "struck" / "weights" / "small.pdparams"
    file.write_bytes(b"half")
    with pytest.raises(AssertionError, match=r"weights/small\.pdparams is not whole"):
        struck.check(2, (2,))
    file.unlink()
    with pytest.raises(AssertionError, match="lost, with exit code 2"):
        struck.check(2, (2,))


def test_faults_are_counted_within_their_time(capsys):
    def inject(fault: str, number: int) -> None:
        time.sleep(0.05)
        if (fault, number) == ("one", 1):
            raise AssertionError("it did\nharm")

    found = counts.inject_all("thing", ["one", "two"], inject, times=3, seconds=60.0)
    assert found.counts == {"one": 3, "two": 3} and list(found.harm) == ["thing, one: it did\nharm"]
    found = counts.inject_all("thing", ["one", "two"], inject, times=100, seconds=0.2)
    assert 2 <= sum(found.counts.values()) < 10
    assert "did harm" in capsys.readouterr().out


def test_a_section_of_the_record_for_each_line_of_paddle(tmp_path, monkeypatch):
    version = pytest.importorskip("paddle.version")
    for function in (reliability.record, reliability.recorded):
        monkeypatch.setattr(function, "__defaults__", (tmp_path / "page.md",))
    outcomes = {
        "one process": counts.Outcome({"SIGKILL": 3}, []),
        "two": counts.Outcome({"rank": 1}, ["two, rank: x\ny"]),
    }
    for name in ("2.6.2", "3.3.1", "2.6.2"):
        monkeypatch.setattr(version, "full_version", name)
        counts.record_outcomes("faults_training.py", outcomes)
    page = (tmp_path / "page.md").read_text()
    for name in ("2.6.2", "3.3.1"):
        assert page.count(f"<!-- faults_training.py, Paddle {name} -->") == 1
    today = str(datetime.datetime.now(tz=datetime.timezone.utc).date())
    assert f"| one process | 3 |  | 0 | {today} |\n| two |  | 1 | 1 | {today} |\n- two, rank: x\n" in page


def test_a_row_is_recorded_again_and_the_others_stay(tmp_path, monkeypatch):
    pytest.importorskip("paddle")
    for function in (reliability.record, reliability.recorded):
        monkeypatch.setattr(function, "__defaults__", (tmp_path / "page.md",))
    harm = {"a": counts.Outcome({"x": 1}, ["a, x: lost"]), "b": counts.Outcome({"x": 2}, ["b, x: lost too"])}
    counts.record_outcomes("faults.py", harm)
    counts.record_outcomes("faults.py", {"a": counts.Outcome({"x": 7}, [])})
    page = (tmp_path / "page.md").read_text()
    assert "| a | 7 | 0 |" in page and "| b | 2 | 1 |" in page
    assert "- b, x: lost too" in page and "- a, x" not in page
    counts.record_outcomes("faults.py", {"a": counts.Outcome({"y": 1}, [])})
    assert "| b |" not in (tmp_path / "page.md").read_text()  # its columns were others


@pytest.mark.skipif(sys.platform != "linux", reason="the script takes Linux")
def test_a_fault_of_training_does_no_harm(tmp_path):
    options = argparse.Namespace(seed=0, times=1, seconds=600.0, faults=["SIGKILL", "disk full"])
    faults_training.draw_dataset(tmp_path / "data", train=2 * faults_training.STEPS, val=2, size=(48, 64))
    found = faults_training.Row("one process", tmp_path, options).strike_all()
    assert found.counts == {"SIGKILL": 1, "disk full": 1} and not found.harm
