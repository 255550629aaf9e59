"""The zoo: the nine published SOLOv2 checkpoints, and the arrays that each of them must hold."""

import dataclasses
import difflib
import importlib.resources
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from ppsolo.errors import CheckpointError, ConfigError
from ppsolo.text import first_few

Generation = Literal["static-0.5", "dygraph-2.x"]

_REPOSITORY = "https://github.com/PaddlePaddle/PaddleDetection/blob"
_STATIC_PAGE = f"{_REPOSITORY}/011c5d1b24856c06f199b1f7853920db3b8de68d/configs/solov2/README.md"
_DYGRAPH_PAGE = f"{_REPOSITORY}/89e8651351d5dc5168953588a24e446d26966e9a/configs/solov2/README.md"
_STATIC_STORE = "https://paddlemodels.bj.bcebos.com/object_detection"
_DYGRAPH_STORE = "https://paddledet.bj.bcebos.com/models"
_NAMES_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class ZooEntry:
    """One published checkpoint.

    Attributes:
        name: The published name; the file is called `name + ".pdparams"`.
        generation: The PaddleDetection that wrote the file.
        url: The published address.
        config: Stem of the file in configs/ that builds its network.
        num_classes: Number of its classes (COCO's 80), without background.
        mask_ap: Published mask AP on COCO val2017 in percent, IoU 0.50 to 0.95; None if not published.
        latency_ms: Published milliseconds per image; None if not published.
        latency_device: The device of `latency_ms`; None without a latency.
        source: The page with the address and the figures, and the form of the figures there.
        manifest: File in ppsolo/checkpoint/manifests/ that lists its arrays.
    """

    name: str
    generation: Generation
    url: str
    config: str
    num_classes: int
    mask_ap: float | None
    latency_ms: float | None
    latency_device: str | None
    source: str
    manifest: str


def _static(name: str, mask_ap: float, latency_ms: float, manifest: str) -> ZooEntry:
    return ZooEntry(
        name=name,
        generation="static-0.5",
        url=f"{_STATIC_STORE}/{name}.pdparams",
        config=name,
        num_classes=80,
        mask_ap=mask_ap,
        latency_ms=latency_ms,
        latency_device="V100",
        source=_STATIC_PAGE,
        manifest=manifest,
    )


def _dygraph(name: str, mask_ap: float, images_per_second: float, manifest: str) -> ZooEntry:
    return ZooEntry(
        name=name,
        generation="dygraph-2.x",
        url=f"{_DYGRAPH_STORE}/{name}.pdparams",
        config=name,
        num_classes=80,
        mask_ap=mask_ap,
        latency_ms=round(1000 / images_per_second, 1),
        latency_device="V100",
        source=f"{_DYGRAPH_PAGE} (it gives the speed as {images_per_second} FPS)",
        manifest=manifest,
    )


_ENTRIES = (
    _static("solov2_mobilenetv3_fpn_448_3x", 30.0, 20.0, "solov2_mobilenetv3_fpn_448_3x.json"),
    _static("solov2_r50_fpn_1x", 35.6, 45.7, "solov2_r50_fpn.json"),
    _static("solov2_r50_fpn_3x", 37.9, 45.7, "solov2_r50_fpn.json"),
    _static("solov2_r101_vd_fpn_3x", 42.6, 82.6, "solov2_r101_vd_fpn_3x.json"),
    _static("solov2_light_r50_vd_fpn_dcn_512_3x", 38.8, 25.9, "solov2_light_r50_vd_fpn_dcn_512_3x.json"),
    _dygraph("solov2_r50_fpn_1x_coco", 35.5, 21.9, "solov2_r50_fpn_coco.json"),
    _dygraph("solov2_r50_fpn_3x_coco", 38.0, 21.9, "solov2_r50_fpn_coco.json"),
    _dygraph("solov2_r101_vd_fpn_3x_coco", 42.7, 12.1, "solov2_r101_vd_fpn_3x_coco.json"),
    _dygraph("solov2_r50_enhance_coco", 39.0, 38.6, "solov2_r50_enhance_coco.json"),
)

ZOO: Mapping[str, ZooEntry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""The published checkpoints by name: first the five of PaddleDetection 0.5, then the four of 2.x."""


def zoo_entry(name: str) -> ZooEntry:
    """Return the published checkpoint called `name`. Raises ConfigError with the nearest name if there is none."""
    if name in ZOO:
        return ZOO[name]
    nearest = difflib.get_close_matches(name, ZOO, n=1, cutoff=0.0)[0]
    raise ConfigError(f"no published checkpoint is called {name!r}: did you mean {nearest!r}?")


def load_manifest(entry: ZooEntry) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every array in the published file, second names (`load_aliases`) included."""
    return {name: tuple(shape) for name, shape in _read_manifest(entry)["shapes"].items()}


def load_aliases(entry: ZooEntry) -> dict[str, str]:
    """Return second name -> first name of each array that the file holds twice; empty for the static generation."""
    return dict(_read_manifest(entry)["alias_of"])


def check_manifest(weights: Mapping[str, np.ndarray], entry: ZooEntry, file_name: str) -> None:
    """Raise CheckpointError unless names and shapes of `weights` are those of `entry`.

    The second name of an array may be missing. If both names exist, they must hold the same values.

    Args:
        weights: The arrays of a file, by their names in the file.
        entry: The published checkpoint that the file should be.
        file_name: The file's name in the message.

        Raises:
        CheckpointError: One line that counts and names missing, unexpected and wrongly shaped arrays, and arrays
            that differ from their second name. It names the published checkpoint that fits, if any.
    """
    faults = _faults(weights, entry)
    if not faults:
        return
    fitting = [other.name for other in ZOO.values() if not _faults(weights, other)]
    remedy = (
        f"its arrays fit {' or '.join(fitting)}"
        if fitting
        else "fetch the file again, or give the name of the checkpoint that it is"
    )
    raise CheckpointError(f"{file_name} is not {entry.name}: {'; '.join(faults)}; {remedy}")


def _read_manifest(entry: ZooEntry) -> dict[str, Any]:
    manifests = importlib.resources.files("ppsolo") / "checkpoint" / "manifests"
    return json.loads((manifests / entry.manifest).read_text(encoding="utf-8"))


def _faults(weights: Mapping[str, np.ndarray], entry: ZooEntry) -> list[str]:
    shapes, aliases = load_manifest(entry), load_aliases(entry)
    missing = [name for name in shapes if name not in weights and name not in aliases]
    unexpected = [name for name in weights if name not in shapes]
    misshapen = [
        f"{name} {list(weights[name].shape)} instead of {list(shape)}"
        for name, shape in shapes.items()
        if name in weights and weights[name].shape != shape
    ]
    differing = [
        f"{second} and {first}"
        for second, first in aliases.items()
        if second in weights and first in weights and not _same(weights[second], weights[first])
    ]
    found = [
        ("missing", missing),
        ("unexpected", unexpected),
        ("of a wrong shape", misshapen),
        ("stored twice with different values", differing),
    ]
    return [f"{len(names)} {what} ({first_few(names, _NAMES_SHOWN)})" for what, names in found if names]


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape != other.shape or one.tobytes() == other.tobytes()
