"""Loads a checkpoint into a model strictly, and saves a model's weights."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from paddle import nn

from ppsolo.checkpoint.reader import read_checkpoint
from ppsolo.checkpoint.sources import find_weights
from ppsolo.checkpoint.zoo import ZOO, check_manifest, zoo_entry
from ppsolo.errors import CheckpointError
from ppsolo.legacy.names import DYGRAPH, NATIVE, alias_of, generation_of, published_names
from ppsolo.text import first_few

if TYPE_CHECKING:
    from ppsolo.progress import Progress

# The only arrays whose first axis is the number of classes.
CLASS_LAYER = ("head.category.weight", "head.category.bias")


@dataclass(frozen=True)
class LoadReport:
    """The result of `load_weights`. loaded, total: arrays of the file, second names of an array included.

    generation: "static-0.5", "dygraph-2.x" or "ppsolo". skipped: names in the file that were left out on request,
    because they are for another number of classes.
    """

    file: str
    generation: str
    loaded: int
    total: int
    skipped: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.loaded} of {self.total} arrays of {self.file} loaded ({self.generation})"
        if self.skipped:
            text += f"; the class layer is new, because the file's is for other classes: {', '.join(self.skipped)}"
        if self.file.endswith(".pdema"):
            text += "; if the run averaged its weights, .pdema holds the raw ones and .pdparams the averaged ones"
        return text


def load_weights(model: nn.Layer, file: str | os.PathLike[str], *, allow_other_classes: bool = False) -> LoadReport:
    """Load a checkpoint of either published generation, or one of ppsolo's own, into a SOLOv2 model.

    file: see `read_checkpoint`. The model changes only if everything fits: file and model have the same arrays, with
    the same shapes, and all values are floating-point and finite.
    allow_other_classes: keep the model's class layer if the file's has another number of classes.
    Raises CheckpointError that names what is missing, unexpected, wrongly shaped, not finite, or stored twice with
    different values.
    """
    return load_arrays(model, read_checkpoint(file), file_name=Path(file).name, allow_other_classes=allow_other_classes)


def load_arrays(
    model: nn.Layer, arrays: Mapping[str, np.ndarray], *, file_name: str, allow_other_classes: bool = False
) -> LoadReport:
    """`load_weights` for arrays that are already read; file_name: their name in errors."""
    generation = generation_of(arrays)
    if generation is None:
        raise CheckpointError(
            f"{file_name}: its array names belong to no SOLOv2 known to ppsolo (the first is "
            f"'{next(iter(arrays), '')}'); give a SOLOv2 checkpoint of PaddleDetection 0.5, 2.x or ppsolo"
        )
    state = model.state_dict()
    names = names_in_file(state, generation, file_name)
    aliases = {alias: name for name in names.values() if (alias := _alias(name, generation)) is not None}
    _check_names(arrays, names, aliases, generation, file_name)

    skipped = set()
    wrong = []
    for name, published in names.items():
        expected, found = tuple(state[name].shape), arrays[published].shape
        if expected == found:
            continue
        if name in CLASS_LAYER and len(expected) == len(found) and expected[1:] == found[1:]:
            skipped.add(published)
        else:
            wrong.append(f"{published} is {list(found)}, but the model has {list(expected)}")
    if wrong:
        raise CheckpointError(f"{file_name} does not fit the model: {first_few(wrong)}")
    if skipped and len({arrays[names[name]].shape[0] for name in CLASS_LAYER}) > 1:
        raise CheckpointError(f"{file_name} is damaged: its class weight and bias are for different numbers of classes")
    if skipped and not allow_other_classes:
        classes = arrays[names[CLASS_LAYER[1]]].shape[0]
        raise CheckpointError(
            f"{file_name} has {classes} classes, but the model {state[CLASS_LAYER[1]].shape[0]}: set num_classes to "
            "the file's, or start a new class layer (allow_other_classes=True; training does so automatically)"
        )
    check_values(arrays, aliases, file_name)

    for name, published in names.items():
        if published not in skipped:
            state[name].set_value(np.ascontiguousarray(arrays[published], dtype=np.float32))
    skipped |= {alias for alias, name in aliases.items() if name in skipped and alias in arrays}
    return LoadReport(file_name, generation, len(arrays) - len(skipped), len(arrays), tuple(sorted(skipped)))


def load_pretrained(
    model: nn.Layer,
    source: str | os.PathLike[str],
    *,
    allow_other_classes: bool = False,
    progress: "Progress | None" = None,
) -> LoadReport:
    """`load_weights` from a published checkpoint, checked against its manifest, or from a file.

    source: a name in `ZOO`, or a source for `find_weights`: a file, its stem, or an https address.
    progress: called with (bytes so far, all bytes or None) while a published file is fetched.
    Raises CheckpointError, DownloadError; ConfigError for an unknown name, with the nearest one.
    """
    name = os.fspath(source)
    if name not in ZOO:
        file = find_weights(name, progress=progress)
        return load_weights(model, file, allow_other_classes=allow_other_classes)
    path, arrays = read_published(name, progress=progress)
    return load_arrays(model, arrays, file_name=path.name, allow_other_classes=allow_other_classes)


def read_published(name: str, *, progress: "Progress | None" = None) -> tuple[Path, dict[str, np.ndarray]]:
    """Return the file of a published checkpoint, fetched on first use, and its arrays, checked against the manifest.

    Raises CheckpointError for a wrong file, and deletes its checksum, so that the right file can replace it.
    """
    from ppsolo.checkpoint.download import fetch_published

    path = fetch_published(name, progress=progress)
    try:
        arrays = read_checkpoint(path)
        check_manifest(arrays, zoo_entry(name), path.name)
    except CheckpointError:
        path.with_name(f"{path.name}.sha256").unlink(missing_ok=True)
        raise
    return path, arrays


def save_weights(model: nn.Layer, file: str | os.PathLike[str], *, generation: str = NATIVE) -> None:
    """Write a model's weights, whole or not at all, as `.pdparams` or `.safetensors` (by suffix).

    generation: "ppsolo" for ppsolo's names, "dygraph-2.x" for names that PaddleDetection 2.x loads. The latter also
    writes its second names, and zero biases for deformable convolutions that have no bias here. Raises CheckpointError
    if 2.x has no such layer (MobileNetV3).

    >>> import ppsolo
    >>> model = ppsolo.build_model(ppsolo.load_config("demo"))
    >>> ppsolo.save_weights(model, "model.pdparams")
    >>> ppsolo.load_weights(model, "model.pdparams").generation
    'ppsolo'
    """
    from ppsolo.checkpoint.writer import write_checkpoint

    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    if generation == NATIVE:
        write_checkpoint(state, file)
        return
    if generation != DYGRAPH:
        raise ValueError(f"generation is {generation!r}: choose {NATIVE!r} or {DYGRAPH!r}")
    arrays = {}
    for name, published in names_in_file(state, DYGRAPH, Path(file).name).items():
        arrays[published] = state[name]
        bias = published.replace("conv_dcn.weight", "conv_dcn.bias")
        if bias != published and name.replace("conv.weight", "conv.bias") not in state:
            arrays[bias] = np.zeros(state[name].shape[0], dtype=np.float32)
    arrays |= {alias: array for name, array in arrays.items() if (alias := alias_of(name)) is not None}
    write_checkpoint(arrays, file)


def names_in_file(names: Iterable[str], generation: str, file_name: str) -> dict[str, str]:
    """Map ppsolo's names to the names in a file of `generation`."""
    if generation == NATIVE:
        return {name: name for name in names}
    try:
        return published_names(names, generation)
    except KeyError as error:
        raise CheckpointError(
            f"{file_name}: the {generation} generation has no array for the model's {error.args[0]}; "
            "choose the configuration of the other generation"
        ) from None


def _alias(published: str, generation: str) -> str | None:
    return alias_of(published) if generation == DYGRAPH else None


def _check_names(
    arrays: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    aliases: Mapping[str, str],
    generation: str,
    file_name: str,
) -> None:
    expected = set(names.values())
    missing = [f"missing {name}" for name in names.values() if name not in arrays]
    unexpected = [f"unexpected {name}" for name in arrays if name not in expected and name not in aliases]
    if missing or unexpected:
        raise CheckpointError(
            f"{file_name} ({generation}) does not fit the model: {first_few(missing + unexpected)}; "
            "check that configuration and checkpoint belong together"
        )


def check_values(arrays: Mapping[str, np.ndarray], aliases: Mapping[str, str], file_name: str) -> None:
    faults = []
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            faults.append(f"{name} is {array.dtype}, not floating-point")
        elif not _all_finite(array):
            faults.append(f"{name} has values that are not finite in float32")
    for alias, name in aliases.items():
        if alias in arrays and not np.array_equal(arrays[alias], arrays[name]):
            faults.append(f"{alias} and {name} are one array stored twice, but their values differ")
    if faults:
        raise CheckpointError(f"{file_name} cannot be used: {first_few(faults)}")


def _all_finite(array: np.ndarray) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.isfinite(array.astype(np.float32, copy=False)).all())
