"""Fixtures of the room: a tiny model, whose deformable convolutions and norms do something."""

import pytest
from exports import lively_model

from ppsolo import load_config
from ppsolo.config import Config
from ppsolo.models.solov2 import SOLOv2


@pytest.fixture(scope="session")
def gpu_config(tiny) -> Config:
    """The system with deformable convolutions everywhere."""
    return load_config("solov2_r50_enhance_coco", tiny)


@pytest.fixture(scope="session")
def gpu_model(gpu_config) -> SOLOv2:
    """Its model on the GPU; a test leaves it as it was."""
    return lively_model(gpu_config)
