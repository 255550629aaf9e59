"""Two GPUs: norms see both, and gradients are means."""

from pathlib import Path

from gpus import needs_gpus

pytestmark = needs_gpus(2)

SCRIPT = """
import numpy as np
import paddle
from paddle import nn
from ppsolo.processes import start_processes
from ppsolo.training.sync_norms import check_sync_norms

processes = start_processes()
assert processes.world_size == 2
check_sync_norms(nn.Sequential(nn.SyncBatchNorm(2)), processes)
layer = nn.Linear(1, 1, bias_attr=False)
layer(paddle.full([1, 1], float(processes.rank + 1))).sum().backward()
processes.average_gradients(layer.parameters())
np.testing.assert_allclose(layer.weight.grad.numpy(), [[1.5]])
"""


def test_norms_and_gradients(tmp_path, launch):
    script = Path(tmp_path / "two.py")
    script.write_text(SCRIPT)
    done = launch(script, log=tmp_path / "log")
    logs = "".join(path.read_text(errors="replace") for path in sorted((tmp_path / "log").glob("workerlog.*")))
    assert done.returncode == 0, logs
