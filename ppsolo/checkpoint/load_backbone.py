"""Strict loading of ImageNet weights into the backbone of a model."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from paddle import nn

from ppsolo.checkpoint.backbones import BACKBONES, CLASSIFIER, read_backbone
from ppsolo.checkpoint.load import check_values, names_in_file
from ppsolo.checkpoint.reader import read_checkpoint
from ppsolo.checkpoint.sources import find_weights
from ppsolo.checkpoint.zoo import Generation
from ppsolo.errors import CheckpointError
from ppsolo.legacy.names import DYGRAPH, NATIVE, STATIC, generation_of
from ppsolo.progress import Progress
from ppsolo.text import first_few


@dataclass(frozen=True)
class BackboneReport:
    """The result of `load_backbone`. loaded, total: arrays of the backbone in the file.

    ignored: the file's classifier. untouched: offset convolutions of the model, which keep their initial values.
    """

    file: str
    loaded: int
    total: int
    ignored: tuple[str, ...]
    untouched: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{self.loaded} of {self.total} arrays of {self.file} loaded into the backbone"
        if self.ignored:
            text += f"; ignored its classifier: {first_few(list(self.ignored))}"
        if self.untouched:
            text += f"; not in it, so initialised: {first_few(list(self.untouched))}"
        return text


def load_backbone(
    model: nn.Layer,
    source: str | os.PathLike[str],
    *,
    preferred: Generation = DYGRAPH,
    progress: Progress | None = None,
) -> BackboneReport:
    """Load ImageNet weights into the backbone of a SOLOv2 model; the rest of the model does not change.

    The file's classifier is ignored, and deformable convolutions may lack their offset part. Otherwise the model
    changes only if the file holds exactly the arrays of the backbone, with the same shapes and finite values.

    Args:
        model: a SOLOv2 model.
        source: a name in `BACKBONES`, fetched on first use, or a source for `find_weights`. Array names may be those
            of either published generation (2.x with or without "backbone.") or of ppsolo.
        preferred: the generation whose file to fetch if both published one.
        progress: called with (bytes so far, all bytes or None) while a file is fetched.

    Raises CheckpointError, DownloadError.
    """
    name = os.fspath(source)
    if name in BACKBONES:
        path, arrays = read_backbone(name, preferred=preferred, progress=progress)
    else:
        path = find_weights(name, progress=progress)
        arrays = read_checkpoint(path)
    return load_backbone_arrays(model, arrays, file_name=path.name)


def load_backbone_arrays(model: nn.Layer, arrays: Mapping[str, np.ndarray], *, file_name: str) -> BackboneReport:
    """`load_backbone` for arrays that are already read; file_name: their name in errors."""
    if generation_of(arrays) is not None:
        raise CheckpointError(
            f"{file_name} holds a whole SOLOv2 system, not a backbone: give it as weights={file_name} instead of "
            "pretrained_backbone"
        )
    state = model.state_dict()
    names = _backbone_names(state, arrays, file_name)
    untouched = tuple(name for name, theirs in names.items() if theirs not in arrays and ".offset." in name)
    names = {name: theirs for name, theirs in names.items() if name not in untouched}
    ignored = tuple(name for name in arrays if CLASSIFIER.fullmatch(name))
    expected = set(names.values())
    faults = [f"missing {theirs}" for theirs in names.values() if theirs not in arrays]
    faults += [f"unexpected {name}" for name in arrays if name not in expected and name not in ignored]
    faults += [
        f"{theirs} is {list(arrays[theirs].shape)}, but the model has {list(state[name].shape)}"
        for name, theirs in names.items()
        if theirs in arrays and arrays[theirs].shape != tuple(state[name].shape)
    ]
    if faults:
        raise CheckpointError(
            f"{file_name} does not fit the backbone: {first_few(faults)}; give the weights of the same backbone"
        )
    check_values({theirs: arrays[theirs] for theirs in names.values()}, {}, file_name)
    for name, theirs in names.items():
        state[name].set_value(np.ascontiguousarray(arrays[theirs], dtype=np.float32))
    return BackboneReport(file_name, len(names), len(arrays) - len(ignored), ignored, untouched)


def _backbone_names(state: Iterable[str], arrays: Iterable[str], file_name: str) -> dict[str, str]:
    """Map ppsolo's names of the backbone to the file's names, in the generation that matches most names."""
    found = set(arrays)
    candidates = []
    for generation in (NATIVE, STATIC, DYGRAPH):
        try:
            published = names_in_file(state, generation, file_name)
        except CheckpointError:
            continue
        names = {name: theirs for name, theirs in published.items() if name.startswith("backbone.")}
        candidates.append(names)
        if generation == DYGRAPH:
            candidates.append({name: theirs.removeprefix("backbone.") for name, theirs in names.items()})
    return max(candidates, key=lambda names: sum(theirs in found for theirs in names.values()))
