"""Fixtures of every test: where the reference and the data lie, and tiny configurations."""

import functools
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

# On machines with little to do the kernels may have all cores, shared among the processes that run tests; Paddle takes
# one unless told before its import.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))

TESTS = Path(__file__).parent


def _folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set")
    return Path(value)


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
