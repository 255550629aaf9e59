"""The learning rate of a run."""

import pytest

from ppsolo.build.training import build_schedule, scaled_rate
from ppsolo.schema import ScheduleConfig
from ppsolo.training.schedule import WarmupCosine


def rates(schedule, steps: int) -> list[float]:
    values = []
    for _ in range(steps):
        values.append(schedule())
        schedule.step()
    return values


def test_a_cosine_starts_and_ends_at_zero():
    values = rates(WarmupCosine(base=0.8, warmup_steps=2, total_steps=10), 12)
    assert values[:3] == [0.0, 0.4, 0.8]
    assert values[6] == pytest.approx(0.4)
    assert values[4] == pytest.approx(0.8 * (1 + 0.5**0.5) / 2)
    assert values[10:] == [0.0, 0.0]


def test_a_schedule_can_be_entered_at_any_step():
    for kind in ("steps", "cosine"):
        config = ScheduleConfig(type=kind, warmup_steps=3, milestones=(1, 2))
        whole = rates(build_schedule(config, rate=0.1, steps_per_epoch=4, epochs=3), 12)
        late = build_schedule(config, rate=0.1, steps_per_epoch=4, epochs=3)
        late.step(7)
        assert rates(late, 5) == whole[7:]


def test_milestones_are_epochs():
    config = ScheduleConfig(warmup_steps=0, milestones=(1, 2), gamma=0.5)
    assert rates(build_schedule(config, rate=0.8, steps_per_epoch=2, epochs=3), 6) == [0.8, 0.8, 0.4, 0.4, 0.2, 0.2]


@pytest.mark.parametrize(("images", "expected"), [(16, 0.01), (2, 0.00125), (32, 0.02)])
def test_the_rate_grows_with_the_batch_and_the_line_says_so(images, expected):
    rate, line = scaled_rate(ScheduleConfig(), images)
    assert rate == pytest.approx(expected) and f"{expected:g}" in line and "\n" not in line
    assert ("scale_to_batch=false" in line) is (images != 16)
    assert scaled_rate(ScheduleConfig(scale_to_batch=False), images)[0] == 0.01
