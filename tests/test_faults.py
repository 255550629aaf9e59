"""The script that injects faults, run for a few seconds: files stay whole, and runs are resumed."""

import random
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import faults


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
