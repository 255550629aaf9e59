"""Synchronised batch norms: a check at the start that they see all processes."""

import paddle
from paddle import nn

from ppsolo.errors import TrainingError
from ppsolo.processes import Processes


def check_sync_norms(model: nn.Layer, processes: Processes) -> None:
    """Raise TrainingError where synchronised norms see their own process alone; call it in all processes.

    Without a group for communication Paddle computes local statistics and says nothing. Each process gives its rank
    to a norm of its own: the mean must be that of all ranks. Processes count the same, however many values they have.
    """
    if processes.world_size == 1 or not any(isinstance(layer, nn.SyncBatchNorm) for layer in model.sublayers()):
        return
    norm = nn.SyncBatchNorm(1, momentum=0.0)
    norm.train()
    with paddle.no_grad():
        norm(paddle.full([1, 1, 2, 2], float(processes.rank)))
    seen, expected = float(norm._mean), (processes.world_size - 1) / 2
    if abs(seen - expected) > 1e-3:
        raise TrainingError(
            f"synchronised batch norms see {seen:g} in place of the mean {expected:g} of all processes: start with "
            "`python -m paddle.distributed.launch`, or set model.backbone.norm=bn or gn"
        )
