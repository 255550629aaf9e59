"""A check before training that synchronised batch norms see all processes."""

import paddle
from paddle import nn

from ppsolo.errors import TrainingError
from ppsolo.processes import Processes


def check_sync_norms(model: nn.Layer, processes: Processes) -> None:
    """Raise TrainingError if synchronised norms see only their own process; call it in all processes.

    Without a communication group, Paddle computes local statistics and gives no warning. For the check, each process
    feeds its rank to an extra norm. The norm's mean must be the mean of all ranks. All processes weigh the same.
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
            f"synchronised batch norms do not see all processes (mean {seen:g}, not {expected:g}): start with "
            "`python -m paddle.distributed.launch`, or set model.backbone.norm=bn or gn"
        )
