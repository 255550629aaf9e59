"""Fixtures of every test: the reference, the data, tiny configurations and a tiny data set to train on."""

import functools
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

# On machines with little to do the kernels may have all cores, shared among the processes that run tests; Paddle takes
# one unless told before its import.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))

TESTS = Path(__file__).parent
ROOT = TESTS.parent
TIMEOUT = 600  # seconds; a hang would be a failure

Launched = subprocess.CompletedProcess[str]


def _folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set")
    return Path(value)


def _loggers() -> dict[str, logging.Logger]:
    known = logging.root.manager.loggerDict.items()
    own = {name: one for name, one in known if name.startswith("ppsolo") and isinstance(one, logging.Logger)}
    return {"root": logging.root, **own}


@pytest.fixture(autouse=True)
def _undo_quiet_commands() -> Iterator[None]:
    """A command that a test runs in this process sets log levels and progress for good: give back those from before."""
    levels = {name: logger.level for name, logger in _loggers().items()}
    progress = os.environ.get("PPSOLO_PROGRESS")
    yield
    for name, logger in _loggers().items():
        logger.setLevel(levels.get(name, logging.NOTSET))
    if progress is None:
        os.environ.pop("PPSOLO_PROGRESS", None)
    else:
        os.environ["PPSOLO_PROGRESS"] = progress


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder with the recorded outputs of the published systems."""
    return _folder("PPSOLO_REFERENCE")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with small real data sets."""
    return _folder("PPSOLO_DATA")


@pytest.fixture(scope="session")
def seeded_weights(reference):
    """The reference's generator of weights: `fill(manifest, seed, generation, category_bias_shift)`."""
    sys.path.insert(0, str(reference))
    import seeded_weights

    return seeded_weights


@pytest.fixture(scope="session")
def model_shapes():
    """Name of a shipped configuration -> shape of every array of its model; each is built once."""

    @functools.cache
    def shapes(name: str) -> dict[str, tuple[int, ...]]:
        from ppsolo import build_model, load_config

        return {key: tuple(value.shape) for key, value in build_model(load_config(name)).state_dict().items()}

    return shapes


TINY = {
    "num_classes": 3,
    "pretrained_backbone": None,
    "model.backbone.depth": 14,
    "model.backbone.width": 8,
    "model.neck.channels": 16,
    "model.mask_feature_head.mid_channels": 8,
    "model.mask_feature_head.out_channels": 8,
    "model.head.channels": 16,
    "model.head.num_convs": 4,
    "model.head.num_grids": [8, 6, 4, 3, 2],
    "model.norm_groups": 4,
    "preprocess.short_side": 64,
    "preprocess.long_side": 96,
}


@pytest.fixture(scope="session")
def tiny() -> Mapping[str, Any]:
    """Overrides that make any ResNet configuration tiny."""
    return MappingProxyType(TINY)


@pytest.fixture(scope="session")
def launch() -> Callable[..., Launched]:
    """Runs a script in several processes through Paddle's launcher; their output is in `log`."""

    def run(script: Path, *arguments: str, log: Path, processes: int = 2) -> Launched:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        launcher = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(processes)]
        command = [*launcher, "--log_dir", str(log), str(script), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT)

    return run


@pytest.fixture(scope="session")
def free_endpoints() -> Callable[[int], list[str]]:
    """Gives so many addresses of this machine that nobody listens at."""

    def find(count: int) -> list[str]:
        sockets = [socket.socket() for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        endpoints = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
        for each in sockets:
            each.close()
        return endpoints

    return find


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """A data set of 9 training and 3 validation images of 48 x 64."""
    from ppsolo.data.synthetic import draw_dataset

    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, train=9, val=3, size=(48, 64))
    return folder


@pytest.fixture(scope="session")
def training(drawn, tiny) -> Mapping[str, Any]:
    """Overrides for a training run on `drawn`: 2 epochs of 4 steps, with everything on that a CPU has.

    One layer is deformable, because such layers take most of a step.
    """
    return MappingProxyType(
        {
            **tiny,
            "name": "tiny",
            "data.root": str(drawn),
            "data.train_annotations": "instances_train.json",
            "data.train_images": "train",
            "data.val_annotations": "instances_val.json",
            "data.val_images": "val",
            "data.num_workers": 0,
            "model.backbone.norm": "sync_bn",
            "model.backbone.freeze_norm": False,
            "model.backbone.frozen_stages": 0,
            "model.backbone.dcn_stages": [4],
            "model.mask_feature_head.deformable": False,
            "model.head.dcn_layers": [],
            "model.head.drop_block": True,
            "preprocess.short_side": 48,
            "train.epochs": 2,
            "train.batch_size": 2,
            "train.ema_decay": 0.9,
            "train.log_every": 1,
            "train.evaluate_every": 0,
            "train.augment.short_sides": [32, 48],
            "train.augment.long_side": 96,
            "train.augment.color": "hsv",
            "train.augment.crop": "keep_empty_masks",
            "train.optimizer.clip_norm": 10.0,
            "train.schedule.warmup_steps": 3,
            "train.schedule.milestones": [1],
            "train.schedule.scale_to_batch": False,
        }
    )
