"""Learning-rate schedules: in steps or along a cosine, after a linear warm-up."""

import math
from collections.abc import Sequence

from paddle.optimizer.lr import LRScheduler


class WarmupPiecewise(LRScheduler):
    """Linear warm-up from 0, then `base` times `gamma` for every milestone reached; call `step()` once per iteration.

    While step < warmup_steps, the rate is base * step / warmup_steps, so the first iteration has the rate 0. After
    that it is base * gamma^k, where k is the number of milestones <= step. Milestones inside the warm-up take effect
    when it ends. PaddleDetection does the same: it looks for the first boundary above the step in a list that is then
    unsorted.

    milestones: in iterations, or in epochs if `steps_per_epoch` is given; any order.
    """

    def __init__(
        self,
        *,
        base: float,
        warmup_steps: int,
        milestones: Sequence[int],
        steps_per_epoch: int = 1,
        gamma: float = 0.1,
    ):
        _check_at_least("warmup_steps", warmup_steps, 0)
        _check_at_least("steps_per_epoch", steps_per_epoch, 1)
        self.warmup_steps = warmup_steps
        self.milestones = tuple(milestone * steps_per_epoch for milestone in milestones)
        self.gamma = gamma
        super().__init__(learning_rate=base)

    def get_lr(self) -> float:
        """Return the rate of iteration `last_epoch`: Paddle's name for the number of `step()` calls."""
        step = self.last_epoch
        if step < self.warmup_steps:
            return self.base_lr * (step / self.warmup_steps)
        return self.base_lr * self.gamma ** sum(milestone <= step for milestone in self.milestones)


def _check_at_least(name: str, value: int, lowest: int) -> None:
    if value < lowest:
        raise ValueError(f"{name} is {value}, give at least {lowest}")


class WarmupCosine(LRScheduler):
    """Linear warm-up from 0, then half a cosine from `base` to 0 (Loshchilov & Hutter, arXiv 1608.03983, eq. 5).

    In the warm-up the rate of step s is base * s / warmup_steps. Then it is base * (1 + cos(pi p)) / 2, where p goes
    from 0 to 1 over the remaining steps of `total_steps`. Call `step()` once per iteration.
    """

    def __init__(self, *, base: float, warmup_steps: int, total_steps: int):
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        super().__init__(learning_rate=base)

    def get_lr(self) -> float:
        """Return the rate of iteration `last_epoch`: Paddle's name for the number of `step()` calls."""
        step = self.last_epoch
        if step < self.warmup_steps:
            return self.base_lr * (step / self.warmup_steps)
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        return self.base_lr * (1.0 + math.cos(math.pi * progress)) / 2.0
