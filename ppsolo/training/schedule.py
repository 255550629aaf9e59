"""The learning rate of a run: scaled to its batch, in steps or along a cosine, after a warm-up."""

import math

from paddle.optimizer.lr import LRScheduler

from ppsolo.schema import ScheduleConfig
from ppsolo.training.optim import WarmupPiecewise


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


def scaled_rate(config: ScheduleConfig, images_per_step: int) -> tuple[float, str]:
    """The base learning rate for steps of so many images, and a line that says how it came about."""
    rate = config.learning_rate
    if not config.scale_to_batch:
        return rate, f"learning rate {rate:g} as given, {images_per_step} images a step"
    scaled = rate * images_per_step / config.images_per_step
    if images_per_step == config.images_per_step:
        return rate, f"learning rate {rate:g} for {images_per_step} images a step"
    return scaled, (
        f"learning rate {scaled:g}: {rate:g} is for {config.images_per_step} images a step, here are "
        f"{images_per_step} (train.schedule.scale_to_batch=false keeps it)"
    )


def build_schedule(config: ScheduleConfig, *, rate: float, steps_per_epoch: int, epochs: int) -> LRScheduler:
    """The schedule of a run with the base learning rate `rate`."""
    if config.type == "cosine":
        return WarmupCosine(base=rate, warmup_steps=config.warmup_steps, total_steps=steps_per_epoch * epochs)
    return WarmupPiecewise(
        base=rate,
        warmup_steps=config.warmup_steps,
        milestones=config.milestones,
        steps_per_epoch=steps_per_epoch,
        gamma=config.gamma,
    )
