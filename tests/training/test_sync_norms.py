"""The check of synchronised norms: no error if processes share their statistics, an error if they do not."""

import paddle
import pytest
from paddle import nn

from ppsolo.errors import TrainingError
from ppsolo.processes import ALONE, Processes
from ppsolo.training.sync_norms import check_sync_norms


class Norm(nn.Layer):
    """A synchronised norm of two processes, ranks 0 and 1; `shared` says whether it sees the other one."""

    shared = True

    def __init__(self, channels: int, momentum: float = 0.9):
        super().__init__()
        self._mean = paddle.zeros([channels])

    def forward(self, x):
        self._mean = paddle.to_tensor([0.5]) if self.shared else x.mean().reshape([1])
        return x


def test_local_statistics_are_refused(monkeypatch):
    monkeypatch.setattr(nn, "SyncBatchNorm", Norm)
    model = nn.Sequential(Norm(3))
    check_sync_norms(model, Processes(1, 2))
    monkeypatch.setattr(Norm, "shared", False)
    for rank in (0, 1):
        with pytest.raises(TrainingError, match=r"not 0\.5\): start"):
            check_sync_norms(model, Processes(rank, 2))
    check_sync_norms(model, ALONE)
    check_sync_norms(nn.Sequential(nn.ReLU()), Processes(1, 2))
