"""Learning-rate schedules: in steps or along a cosine, after a linear warm-up."""

import math
from collections.abc import Sequence

from paddle.optimizer.lr import LRScheduler


class WarmupPiecewise(LRScheduler):
    """Linear warm-up from 0, then `base` times `gamma` for every milestone reached; one `step()` an iteration.

    While step < warmup_steps the rate is base * step / warmup_steps, so the first iteration learns at 0. From
    then on it is base * gamma^k, where k milestones are <= step. Warm-up wins over milestones that fall into it:
    they take effect, all at once, when it ends. PaddleDetection does the same, since it looks for the first
    boundary above the step in a list that is then unsorted.

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
        """The rate of iteration `last_epoch` (Paddle's name for the count of `step()` calls), from 0."""
        step = self.last_epoch
        if step < self.warmup_steps:
            return self.base_lr * (step / self.warmup_steps)
        return self.base_lr * self.gamma ** sum(milestone <= step for milestone in self.milestones)


def _check_at_least(name: str, value: int, lowest: int) -> None:
    if value < lowest:
        raise ValueError(f"{name} is {value}, give at least {lowest}")


class WarmupCosine(LRScheduler):
    """Linear warm-up from 0, then half a cosine from `base` to 0 (Loshchilov & Hutter, arXiv 1608.03983, eq. 5).

    The rate of step s is base * s / warmup_steps during the warm-up, then base * (1 + cos(pi p)) / 2 with p from 0
    to 1 over what is left of `total_steps`; one `step()` an iteration.
    """

    def __init__(self, *, base: float, warmup_steps: int, total_steps: int):
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        super().__init__(learning_rate=base)

    def get_lr(self) -> float:
        """The rate of iteration `last_epoch`, Paddle's name for the count of `step()` calls."""
        step = self.last_epoch
        if step < self.warmup_steps:
            return self.base_lr * (step / self.warmup_steps)
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        return self.base_lr * (1.0 + math.cos(math.pi * progress)) / 2.0
