"""PaddleDetection's YAML files as plain values, with bases, readers and tags; no code of a file is run."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ppsolo.errors import ConfigError
from ppsolo.yaml_text import MAX_FILE_BYTES, PlainLoader, load_text, read_text

TAG = "!"  # the key that stores the tag of a mapping
BASE_KEY, READER_KEY = "_BASE_", "_READER_"
DEEPEST_BASE = 8  # largest number of nested bases
# Top-level keys that only PaddleDetection's files have. Both kinds have _BASE_ and weights.
ITS_KEYS = frozenset(
    {
        "_READER_",
        "architecture",
        "epoch",
        "max_iters",
        "metric",
        "pretrain_weights",
        "save_dir",
        "snapshot_epoch",
        "snapshot_iter",
        "log_iter",
        "use_ema",
        "worker_num",
        "use_gpu",
        "SOLOv2",
        "SOLOv2Head",
        "SOLOv2MaskHead",
        "SOLOv2Loss",
        "MaskMatrixNMS",
        "ResNet",
        "MobileNetV3RCNN",
        "FPN",
        "LearningRate",
        "OptimizerBuilder",
        "TrainReader",
        "EvalReader",
        "TestReader",
        "TrainDataset",
        "EvalDataset",
        "TestDataset",
    }
)
_TOP_LEVEL_KEY = re.compile(r"^([A-Za-z_]\w*)\s*:", re.MULTILINE)


class _Loader(PlainLoader):
    """A safe YAML loader that stores a tag such as `!PiecewiseDecay` as a key of its mapping, and refuses aliases."""


def _tagged(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.MappingNode):
        return {TAG: suffix, **{str(key): value for key, value in loader.construct_mapping(node, deep=True).items()}}
    if isinstance(node, yaml.ScalarNode) and node.value == "":
        return {TAG: suffix}
    raise ConfigError(f"the tag !{suffix} must be a mapping of keys (line {node.start_mark.line + 1})")


_Loader.add_multi_constructor("!", _tagged)


def is_paddledetection(file: Path) -> bool:
    """Whether a configuration file, or one of its bases, has keys that only PaddleDetection's files have."""
    return _has_its_keys(file, DEEPEST_BASE)


def _has_its_keys(file: Path, depth: int) -> bool:
    try:
        text = file.read_text(encoding="utf-8") if file.stat().st_size <= MAX_FILE_BYTES else ""
    except (OSError, UnicodeDecodeError):
        return False
    if ITS_KEYS.intersection(_TOP_LEVEL_KEY.findall(text)):
        return True
    if depth == 0 or not re.search(rf"^{BASE_KEY}\s*:", text, re.MULTILINE):
        return False
    try:
        bases = _parsed(text, file).get(BASE_KEY)
    except ConfigError:
        return False
    bases = [bases] if isinstance(bases, str) else bases
    names = [base for base in bases if isinstance(base, str)] if isinstance(bases, list) else []
    # Two bases are enough to decide; a file may name thirty.
    return any(_has_its_keys(_placed(base, file), depth - 1) for base in names[:2])


def read_files(file: Path) -> dict[str, Any]:
    """Read a file of PaddleDetection and merge its bases and its reader, as PaddleDetection does.

    Mappings merge key by key; other values are replaced. Raises ConfigError.
    """
    return _read(file.resolve(), ())


def merge(base: Any, change: Any) -> Any:
    """Merge mappings key by key; replace other values."""
    if not (isinstance(base, Mapping) and isinstance(change, Mapping)):
        return change
    return {**base, **{key: merge(base[key], value) if key in base else value for key, value in change.items()}}


def _read(file: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if file in above or len(above) > DEEPEST_BASE:
        raise ConfigError(f"{file.name}: {BASE_KEY} leads back to this file, or through too many files")
    tree = _parsed(read_text(file), file)
    bases, reader = tree.pop(BASE_KEY, []), tree.pop(READER_KEY, None)
    bases = [bases] if isinstance(bases, str) else bases
    names = [*bases, *([] if reader is None else [reader])] if isinstance(bases, list) else [bases]
    merged: dict[str, Any] = {}
    for name in names:
        if not isinstance(name, str):
            raise ConfigError(f"{file.name}: {BASE_KEY} must be a list of file names, {READER_KEY} a file name")
        base = _placed(name, file)
        if not os.path.isfile(base):  # no error for a name that is too long
            raise ConfigError(f"{file.name}: {name} does not exist: copy PaddleDetection's configs/ folder as a whole")
        merged = merge(merged, _read(base.resolve(), (*above, file)))
    return merge(merged, tree)


def _placed(name: str, file: Path) -> Path:
    path = Path(name).expanduser() if name.startswith("~") else Path(name)
    return path if path.is_absolute() else file.parent / path


def _parsed(text: str, file: Path) -> dict[str, Any]:
    tree = load_text(text, file.name, _Loader)
    if tree is None:
        return {}
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConfigError(f"{file.name}: expected 'key: value' lines at the top level")
    return tree
