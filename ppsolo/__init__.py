"""ppsolo finds every object in a picture and draws its exact outline: SOLOv2 instance segmentation for PaddlePaddle.

    import ppsolo
    predictor = ppsolo.Predictor.from_pretrained("solov2_r50_fpn_3x")
    instances = predictor("street.jpg").above(0.5)  # masks, boxes, scores, labels
    ppsolo.write_image("found.png", instances.draw(ppsolo.read_image("street.jpg")))

The names below are public. Modules and names that start with an underscore are internal, and so is every room that
docs/architecture.md calls internal.
"""

import importlib
import os

from ppsolo.cpu import use_vector_products

# Imports here come before `python -m ppsolo` can handle Ctrl-C, so they are few: even `typing` is too slow.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ppsolo.api import evaluate, export, load, train
    from ppsolo.build.network import build_model
    from ppsolo.checkpoint.load import LoadReport, load_weights, save_weights
    from ppsolo.config import Config, load_config
    from ppsolo.data.addresses import fetch_image
    from ppsolo.data.images import read_image, write_image
    from ppsolo.deploy.runtime import ExportedPredictor
    from ppsolo.errors import (
        CheckpointError,
        ConfigError,
        DatasetError,
        DownloadError,
        ExportError,
        ImageError,
        PpsoloError,
        PredictionError,
        TrainingError,
        UnavailableError,
    )
    from ppsolo.predictor import Predictor
    from ppsolo.results.instances import Instances
    from ppsolo.version import __version__

# Paddle 2.6 contains a zlib whose symbols clash with the system's; loading Python's first avoids a crash.
importlib.import_module("zlib")
use_vector_products()
# OpenCV refuses larger pictures too. It reads this limit at its first import.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**28))

__all__ = [
    "CheckpointError",
    "Config",
    "ConfigError",
    "DatasetError",
    "DownloadError",
    "ExportError",
    "ExportedPredictor",
    "ImageError",
    "Instances",
    "LoadReport",
    "PpsoloError",
    "PredictionError",
    "Predictor",
    "TrainingError",
    "UnavailableError",
    "__version__",
    "build_model",
    "evaluate",
    "export",
    "fetch_image",
    "load",
    "load_config",
    "load_weights",
    "read_image",
    "save_weights",
    "train",
    "write_image",
]

# These are imported on first use, so that `import ppsolo` is quick and needs no Paddle.
_LAZY = {
    "CheckpointError": "ppsolo.errors",
    "Config": "ppsolo.config",
    "ConfigError": "ppsolo.errors",
    "DatasetError": "ppsolo.errors",
    "DownloadError": "ppsolo.errors",
    "ExportError": "ppsolo.errors",
    "ExportedPredictor": "ppsolo.deploy.runtime",
    "ImageError": "ppsolo.errors",
    "Instances": "ppsolo.results.instances",
    "LoadReport": "ppsolo.checkpoint.load",
    "PpsoloError": "ppsolo.errors",
    "PredictionError": "ppsolo.errors",
    "Predictor": "ppsolo.predictor",
    "TrainingError": "ppsolo.errors",
    "UnavailableError": "ppsolo.errors",
    "__version__": "ppsolo.version",
    "build_model": "ppsolo.build.network",
    "evaluate": "ppsolo.api",
    "export": "ppsolo.api",
    "fetch_image": "ppsolo.data.addresses",
    "load": "ppsolo.api",
    "load_config": "ppsolo.config",
    "load_weights": "ppsolo.checkpoint.load",
    "read_image": "ppsolo.data.images",
    "save_weights": "ppsolo.checkpoint.load",
    "train": "ppsolo.api",
    "write_image": "ppsolo.data.images",
}


def __getattr__(name: str) -> "Any":
    if name not in _LAZY:
        raise AttributeError(f"module 'ppsolo' has no attribute '{name}'")
    try:
        return getattr(importlib.import_module(_LAZY[name]), name)
    except ModuleNotFoundError as error:
        if error.name != "paddle":
            raise
        from ppsolo.errors import ConfigError

        raise ConfigError(f"ppsolo.{name} needs PaddlePaddle: pip install 'ppsolo[cpu]' or 'ppsolo[gpu]'") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
