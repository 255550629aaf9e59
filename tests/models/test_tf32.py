"""TF32 off for a while, and then as before."""

import pytest

from ppsolo.models.tf32 import tf32, tf32_allowed


def test_the_switches_come_back_after_an_error_too():
    before = tf32_allowed()
    with pytest.raises(KeyError), tf32(allowed=not before[0]):
        assert tf32_allowed() == (not before[0],) * 2
        raise KeyError
    assert tf32_allowed() == before
