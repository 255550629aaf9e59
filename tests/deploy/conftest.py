"""Fixtures of the room: one server for all tests that leave it as it was, one export of a tiny model."""

import pytest
from exports import Exported, lively_model
from servers import SOON, ChannelPredictor, served

from ppsolo import load_config
from ppsolo.config import Config
from ppsolo.deploy.export import export_model


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
    """One with small limits: a queue of 4, batches of 2, 100,000 bytes and pixels. It must be idle afterwards."""
    _, running = shared
    yield running
    predictor.free.set()
    assert running.service._batcher.waiting() == 0 and running.service._budget.held == 0


@pytest.fixture(scope="session")
def tiny_config(tiny) -> Config:
    """The system with deformable convolutions everywhere, a vd stem and batch norms that are not frozen."""
    return load_config("solov2_r50_enhance_coco", tiny)


@pytest.fixture(scope="session")
def exported(tiny_config, tmp_path_factory) -> Exported:
    """A verified export for Paddle Inference; not to be changed."""
    model = lively_model(tiny_config)
    directory = tmp_path_factory.mktemp("export") / "tiny"
    return Exported(tiny_config, model, export_model(model, tiny_config, directory))
