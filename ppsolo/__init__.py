"""ppsolo: SOLOv2 instance segmentation, native to PaddlePaddle."""

import importlib
from typing import TYPE_CHECKING, Any

from ppsolo.config import Config, load_config
from ppsolo.cpu import use_vector_products
from ppsolo.errors import (
    CheckpointError,
    ConfigError,
    DatasetError,
    DownloadError,
    ImageError,
    PpsoloError,
    UnavailableError,
)

# Paddle 2.6 brings a zlib of its own whose symbols clash with the system's; loading Python's first avoids a crash.
importlib.import_module("zlib")
use_vector_products()

if TYPE_CHECKING:
    from ppsolo.build.network import build_model
    from ppsolo.checkpoint.load import LoadReport, load_weights, save_weights
    from ppsolo.data.images import read_image
    from ppsolo.predictor import Predictor
    from ppsolo.results.instances import Instances

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "Config",
    "ConfigError",
    "DatasetError",
    "DownloadError",
    "ImageError",
    "Instances",
    "LoadReport",
    "PpsoloError",
    "Predictor",
    "UnavailableError",
    "build_model",
    "load_config",
    "load_weights",
    "read_image",
    "save_weights",
]

# What needs Paddle is imported when it is first asked for, so that reading a configuration stays quick.
_LAZY = {
    "Instances": "ppsolo.results.instances",
    "LoadReport": "ppsolo.checkpoint.load",
    "Predictor": "ppsolo.predictor",
    "build_model": "ppsolo.build.network",
    "load_weights": "ppsolo.checkpoint.load",
    "read_image": "ppsolo.data.images",
    "save_weights": "ppsolo.checkpoint.load",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'ppsolo' has no attribute '{name}'")
    return getattr(importlib.import_module(_LAZY[name]), name)
