"""Fixtures of the room: one server for all tests that leave it as it was."""

import pytest
from servers import SOON, ChannelPredictor, served


@pytest.fixture(scope="module")
def shared():
    predictor = ChannelPredictor()
    limits = {"batch_size": 2, "queue": 4, "timeout": SOON, "max_bytes": 100_000, "max_pixels": 100_000}
    with served(predictor, **limits) as running:
        yield predictor, running
        predictor.free.set()


@pytest.fixture
def predictor(shared):
    predictor, _ = shared
    predictor.batches.clear()
    predictor.failures.clear()
    predictor.free.set()
    predictor.seconds = 0.0
    return predictor


@pytest.fixture
def server(predictor, shared):
    """A server with small limits: a queue of 4, batches of 2, 100,000 bytes and pixels. It must be idle afterwards."""
    _, running = shared
    yield running
    predictor.free.set()
    assert running.service._batcher.waiting() == 0 and running.service._bytes.held == 0
