"""The published ImageNet backbones: addresses, files, and the arrays that they must hold."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from ppsolo.checkpoint.download import download, weights_directory
from ppsolo.checkpoint.reader import read_checkpoint
from ppsolo.checkpoint.zoo import ZOO, Generation, load_manifest
from ppsolo.errors import CheckpointError
from ppsolo.legacy.names import DYGRAPH, STATIC
from ppsolo.progress import Progress

_STORES = {
    STATIC: "https://paddle-imagenet-models-name.bj.bcebos.com",
    DYGRAPH: "https://paddledet.bj.bcebos.com/models/pretrained",
}
_SUFFIXES = {STATIC: ".tar", DYGRAPH: ".pdparams"}
_PREFIX = "backbone."
# Arrays of a static system outside of its backbone, and arrays that ImageNet files lack.
_NOT_BACKBONE = re.compile(r"(fpn|mask_feat_head|bbox_head).*")
_OFFSETS = re.compile(r".*_conv_offset\..*|.*\.conv_offset\..*")
# The classifier of an ImageNet network; a backbone has none.
CLASSIFIER = re.compile(r"(backbone\.)?(fc|last_1x1_conv)([_.0-9].*)?")


@dataclass(frozen=True)
class BackboneEntry:
    """One published ImageNet backbone.

    Attributes:
        name: the published name.
        systems: per generation, the system in `ZOO` with this backbone.
        used_for: the shipped configurations that start from it, in words.
    """

    name: str
    systems: Mapping[Generation, str]
    used_for: str

    def generation(self, preferred: Generation) -> Generation:
        """Return `preferred` if this generation published a file, else the other one."""
        for published in self.systems:
            if published == preferred:
                return published
        return next(iter(self.systems))

    def file_name(self, generation: Generation) -> str:
        """Return the file's name: an archive of PaddleDetection 0.5, or a weights file of 2.x."""
        return self.name + _SUFFIXES[generation]

    def url(self, generation: Generation) -> str:
        """Return the published address of a generation's file."""
        return f"{_STORES[generation]}/{self.file_name(generation)}"

    def shapes(self, generation: Generation) -> dict[str, tuple[int, ...]]:
        """Return name and shape of every backbone array in a generation's file; the names lack "backbone."."""
        manifest = load_manifest(ZOO[self.systems[generation]])
        if generation == DYGRAPH:
            names = {name: name.removeprefix(_PREFIX) for name in manifest if name.startswith(_PREFIX)}
        else:
            names = {name: name for name in manifest if not _NOT_BACKBONE.fullmatch(name)}
        return {short: manifest[name] for name, short in names.items() if not _OFFSETS.fullmatch(name)}


_ENTRIES = (
    BackboneEntry(
        "ResNet50_cos_pretrained",
        {STATIC: "solov2_r50_fpn_1x", DYGRAPH: "solov2_r50_fpn_1x_coco"},
        "solov2_r50_fpn_1x, solov2_r50_fpn_3x and their _coco",
    ),
    BackboneEntry(
        "ResNet101_vd_pretrained",
        {STATIC: "solov2_r101_vd_fpn_3x", DYGRAPH: "solov2_r101_vd_fpn_3x_coco"},
        "solov2_r101_vd_fpn_3x, solov2_r101_vd_fpn_3x_coco",
    ),
    BackboneEntry(
        "ResNet50_vd_ssld_pretrained",
        {STATIC: "solov2_light_r50_vd_fpn_dcn_512_3x"},
        "solov2_light_r50_vd_fpn_dcn_512_3x",
    ),
    BackboneEntry(
        "ResNet50_vd_ssld_v2_pretrained",
        {DYGRAPH: "solov2_r50_enhance_coco"},
        "solov2_r50_enhance_coco",
    ),
    BackboneEntry(
        "MobileNetV3_large_x1_0_ssld_pretrained",
        {STATIC: "solov2_mobilenetv3_fpn_448_3x"},
        "solov2_mobilenetv3_fpn_448_3x",
    ),
)

BACKBONES: Mapping[str, BackboneEntry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""The published ImageNet backbones by name."""


def read_backbone(
    name: str, *, preferred: Generation = DYGRAPH, progress: Progress | None = None
) -> tuple[Path, dict[str, np.ndarray]]:
    """Return the file of a published backbone and its arrays, checked against the manifest.

    The file of the generation `preferred` is used, and fetched if necessary. The other generation's file is used if
    only that file is present, or if only that generation published one.

    Args:
        name: a name in `BACKBONES`.
        preferred: "static-0.5" or "dygraph-2.x".
        progress: called with (bytes so far, bytes in all or None) while the file is fetched.

    Raises:
        DownloadError: the file cannot be fetched; the message names the place for it.
        CheckpointError: the file does not hold the arrays of this backbone.
    """
    entry = BACKBONES[name]
    generation = entry.generation(preferred)
    folder = weights_directory()
    if not (folder / entry.file_name(generation)).exists():
        for other in entry.systems:
            if (folder / entry.file_name(other)).exists():
                generation = other
    remedy = "or train from random weights with -o pretrained_backbone=null model.backbone.freeze_norm=false"
    path = download(entry.url(generation), folder / entry.file_name(generation), progress=progress, remedy=remedy)
    try:
        arrays = read_checkpoint(path)
        check_backbone(arrays, entry, generation, path.name)
    except CheckpointError:
        # Delete the checksum of a wrong file, so that the right file can replace it.
        path.with_name(f"{path.name}.sha256").unlink(missing_ok=True)
        raise
    return path, arrays


def check_backbone(
    arrays: Mapping[str, np.ndarray], entry: BackboneEntry, generation: Generation, file_name: str
) -> None:
    """Raise CheckpointError unless the arrays are those of the published backbone; a classifier is allowed too.

    Names of 2.x may begin with "backbone.". file_name: its name in the message.
    """
    shapes = entry.shapes(generation)
    found = {
        name.removeprefix(_PREFIX): array.shape for name, array in arrays.items() if not CLASSIFIER.fullmatch(name)
    }
    faults = [
        ("missing", [name for name in shapes if name not in found]),
        ("unexpected", [name for name in found if name not in shapes]),
        (
            "of a wrong shape",
            [
                f"{name} {list(found[name])} instead of {list(shape)}"
                for name, shape in shapes.items()
                if name in found and found[name] != shape
            ],
        ),
    ]
    lines = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in faults
        if names
    ]
    if lines:
        raise CheckpointError(
            f"{file_name} is not {entry.name}: {'; '.join(lines)}; delete the file and fetch it again from "
            f"{entry.url(generation)}"
        )
