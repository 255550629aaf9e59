"""TF32 off for a while, and then as before."""

import pytest

from ppsolo.models import tf32 as switches
from ppsolo.models.tf32 import tf32, tf32_allowed

has_switches = pytest.mark.skipif(not switches._HAS_SWITCHES, reason="Paddle 2.6 without CUDA has no switches")


def test_paddle_without_switches_changes_nothing(monkeypatch):
    monkeypatch.setattr(switches, "_HAS_SWITCHES", False)
    with tf32(allowed=True):
        assert tf32_allowed() == (False, False)


@has_switches
def test_the_switches_come_back_after_an_error_too():
    before = tf32_allowed()
    with pytest.raises(KeyError), tf32(allowed=not before[0]):
        assert tf32_allowed() == (not before[0],) * 2
        raise KeyError
    assert tf32_allowed() == before
