"""Fixtures of the training tests: a drawn data set, and overrides that make training on it tiny."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from ppsolo.data.synthetic import draw_dataset

ROOT = Path(__file__).parents[2]
TIMEOUT = 600  # seconds; a hang would be a failure

Launched = subprocess.CompletedProcess[str]


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
    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, train=9, val=3, size=(48, 64))
    return folder


@pytest.fixture(scope="session")
def training(drawn, tiny) -> Mapping[str, Any]:
    """Overrides for a training run on `drawn`: 2 epochs of 4 steps, with everything on that a CPU has."""
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
            "model.head.dcn_layers": [0],
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
