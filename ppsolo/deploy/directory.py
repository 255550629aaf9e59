"""The directory of an export: infer_cfg.yml and the model's files, written whole or not at all, checked on reading."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import yaml

from ppsolo.atomic import made_folder, put_folder_in_place, scratch_folder
from ppsolo.build.pipeline import class_names
from ppsolo.config import Config, config_from_dict, config_to_dict, parse_yaml
from ppsolo.errors import ConfigError, ExportError
from ppsolo.interface import EXPORT_FILE
from ppsolo.text import typed

Layout = Literal["ppsolo", "paddledetection", "paddlex", "triton"]
Format = Literal["paddle", "onnx", "openvino"]
Graph = Literal["whole", "network"]
Device = Literal["cpu", "gpu"]

RUN_CONFIG = "config.yml"  # of a training run
PADDLEX_STEM = "inference"  # stem of the files that PaddleX reads
PADDLEX_CONFIG = f"{PADDLEX_STEM}.yml"
TRITON_CONFIG = "config.pbtxt"
TRITON_ONNX = "1/model.onnx"  # in the folder of version 1
LAYOUT = 1  # version of the block `ppsolo`; other versions are refused
# Per format, the sets of files; one set must exist. Paddle 3 and Paddle 2, each alone and with PaddleX's files; ONNX.
MODEL_FILES: Mapping[str, tuple[frozenset[str], ...]] = {
    "paddle": tuple(
        frozenset({program, weights})
        for weights in ("model.pdiparams", f"{PADDLEX_STEM}.pdiparams")
        for program in ("model.json", "model.pdmodel")
    ),
    "onnx": (frozenset({"model.onnx"}), frozenset({TRITON_ONNX})),
    "openvino": (frozenset({"model.xml", "model.bin"}),),
}
_MOST_CONFIG_BYTES = 16 << 20
_ANSWERING_KEYS = {"name", "num_classes", "model", "preprocess", "postprocess"}  # keys of a configuration
_LONGEST_SIDE, _MOST_IMAGES = 1 << 16, 1 << 16
_CHUNK = 1 << 20


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of the graph. shape: integers, or words such as "N" and "H / 4" for open sides."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    meaning: str


@dataclass(frozen=True)
class ExportInfo:
    """The description in an export's directory.

    config: the resolved configuration. input_shape: N, 3, H, W, with -1 for open sides. checkpoint: "file" and
    "sha256"; empty if the weights came from no file. ppsolo, paddle: the versions that wrote it. verified: the result
    of the verification, in words; None if there was none. files: name -> SHA-256. device: the device that the graph
    was written for; None in older exports.
    """

    format: Format
    graph: Graph
    config: Config
    input_shape: tuple[int, int, int, int]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    checkpoint: Mapping[str, str]
    ppsolo: str
    paddle: str
    verified: str | None
    files: Mapping[str, str]
    device: Device | None = None


class ExportDirectory(NamedTuple):
    """A directory that holds an export, with its description."""

    path: Path
    info: ExportInfo


class _Dumper(yaml.SafeDumper):
    """Writes YAML without aliases, because readers of configurations refuse these."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write_info(directory: Path, info: ExportInfo) -> None:
    """Write infer_cfg.yml: keys for PaddleDetection's deploy tools, and the block `ppsolo` for ppsolo."""
    block = {
        **asdict(info),
        "layout": LAYOUT,
        "config": config_to_dict(info.config),
        "input_shape": list(info.input_shape),
        "inputs": [_plain(tensor) for tensor in info.inputs],
        "outputs": [_plain(tensor) for tensor in info.outputs],
        "checkpoint": dict(info.checkpoint),
        "files": dict(info.files),
    }
    content = {**_for_deploy_tools(info.config, info.input_shape), "ppsolo": {**block, "sha256": _digest(block)}}
    with (directory / EXPORT_FILE).open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def read_info(directory: str | os.PathLike[str]) -> ExportInfo:
    """Read infer_cfg.yml of an export, without its other files. Raises ExportError that names the fault."""
    place = Path(directory)
    if place.is_file():
        raise ExportError(f"{place} is a file: give its folder, {place.parent}")
    if not place.is_dir():
        raise ExportError(f"{place}: no such directory: give a directory that `ppsolo export` wrote")
    path = find_export(place) / EXPORT_FILE
    try:
        if path.stat().st_size > _MOST_CONFIG_BYTES:
            raise ExportError(f"{path} is too large for the description of an export: export again")
        tree = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        if (place / RUN_CONFIG).is_file():
            raise ExportError(
                f"{place} is a run, no export: give -c {typed(place / RUN_CONFIG)}, or export it"
            ) from None
        raise ExportError(f"{path} is missing: give a directory that `ppsolo export` wrote") from None
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise ExportError(f"{path} cannot be read ({error}): export again") from None
    block = tree.pop("ppsolo", None) if isinstance(tree, dict) else None
    if not isinstance(block, dict) or "sha256" not in block or not _has_text_keys(block):
        raise ExportError(f"{path} has no block 'ppsolo', another program wrote it: export with `ppsolo export`")
    if block.pop("sha256") != _digest(block):
        raise ExportError(f"{path} was cut off or changed after the export: its block 'ppsolo' has another sha256")
    layout = block.pop("layout", None)
    if not _is_whole(layout) or layout != LAYOUT:
        raise ExportError(f"another version of ppsolo wrote {path}: export again")
    return _info_of(block, path)


def read_directory(directory: str | os.PathLike[str]) -> ExportDirectory:
    """Return the directory with what `read_info` reads in it. Raises ExportError."""
    return ExportDirectory(Path(directory), read_info(directory))


def find_export(directory: str | os.PathLike[str]) -> Path:
    """Return the directory itself, or the only export in it if it is a model repository of Triton."""
    place = Path(directory)
    if (place / EXPORT_FILE).is_file():
        return place
    models = [file.parent for file in place.glob(f"*/{EXPORT_FILE}") if (file.parent / TRITON_CONFIG).is_file()]
    return models[0] if len(models) == 1 else place


# A correct checksum does not prove who wrote the block, so each value is checked too.
_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "format": lambda value: value in get_args(Format),
    "graph": lambda value: value in get_args(Graph),
    "config": lambda value: isinstance(value, dict) and value.keys() >= _ANSWERING_KEYS,
    "input_shape": lambda value: _is_input_shape(value),
    "inputs": lambda value: _are_tensors(value),
    "outputs": lambda value: _are_tensors(value),
    "checkpoint": lambda value: _is_text_by_text(value),
    "ppsolo": lambda value: isinstance(value, str),
    "paddle": lambda value: isinstance(value, str),
    "verified": lambda value: value is None or isinstance(value, str),
    "files": lambda value: _are_files(value),
    "device": lambda value: value is None or value in get_args(Device),
}
_MAY_BE_MISSING = {"device"}  # from exports of earlier versions


def _info_of(block: dict[str, Any], path: Path) -> ExportInfo:
    """Check the block `ppsolo` and return its content. Raises ExportError that names the first wrong key."""
    if unknown := sorted(block.keys() - _CHECKS.keys()):
        raise ExportError(f"{path}: its block 'ppsolo' has an unknown key '{unknown[0]}': export again")
    for key, check in _CHECKS.items():
        if key not in block and key in _MAY_BE_MISSING:
            continue
        if key not in block or not check(block[key]):
            wrong = "is not a value of an export" if key in block else "is missing"
            raise ExportError(f"{path}: '{key}' of its block 'ppsolo' {wrong}: export again")
    if not any(names <= block["files"].keys() for names in MODEL_FILES[block["format"]]):
        raise ExportError(f"{path}: its block 'ppsolo' has no checksum of the model's file: export again")
    try:
        config = config_from_dict(block["config"], str(path))
    except ConfigError as error:
        raise ExportError(f"{error}; another version of ppsolo wrote it: export again") from None
    tensors = {
        key: tuple(TensorInfo(**{**tensor, "shape": tuple(tensor["shape"])}) for tensor in block[key])
        for key in ("inputs", "outputs")
    }
    return ExportInfo(**{**block, **tensors, "config": config, "input_shape": tuple(block["input_shape"])})


def _has_text_keys(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _has_text_keys(entry) for key, entry in value.items())
    return not isinstance(value, list) or all(map(_has_text_keys, value))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_input_shape(value: Any) -> bool:
    """Whether it is N, 3, H, W; N, H and W may be -1, and H and W must be multiples of 32."""
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_whole, value)):
        return False
    size, channels, *sides = value
    fixed = all(side == -1 or (0 < side <= _LONGEST_SIDE and side % 32 == 0) for side in sides)
    return (size == -1 or 0 < size <= _MOST_IMAGES) and channels == 3 and fixed


def _are_tensors(value: Any) -> bool:
    names = {field.name for field in fields(TensorInfo)}
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(tensor, dict) and tensor.keys() == names for tensor in value)
        and all(isinstance(tensor[name], str) for tensor in value for name in names - {"shape"})
        and all(isinstance(tensor["shape"], list) for tensor in value)
        and all(_is_whole(side) or isinstance(side, str) for tensor in value for side in tensor["shape"])
    )


def _is_text_by_text(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for pair in value.items() for text in pair)


def _are_files(value: Any) -> bool:
    """Whether it maps names of files, in the directory or in its folder of version 1, to SHA-256 sums."""
    return _is_text_by_text(value) and all(
        re.fullmatch(r"(1/)?[A-Za-z0-9_-][A-Za-z0-9_. -]*", name)
        and name != EXPORT_FILE
        and re.fullmatch("[0-9a-f]{64}", sum)
        for name, sum in value.items()
    )


def check_files(directory: str | os.PathLike[str], info: ExportInfo) -> None:
    """Compare every file of the model with its checksum. Raises ExportError that names a missing or changed file."""
    for name, expected in info.files.items():
        path = Path(directory) / name
        if not path.is_file():
            raise ExportError(f"{path} is missing: export again, or copy the whole directory")
        if file_sha256(path) != expected:
            raise ExportError(f"{path} was cut off or changed after the export: its sha256 differs")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def checksums(directory: Path) -> dict[str, str]:
    """Return name -> SHA-256 of every file in a directory except infer_cfg.yml; names may include folders."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file() and path != directory / EXPORT_FILE)
    return {path.relative_to(directory).as_posix(): file_sha256(path) for path in files}


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield an empty hidden directory next to `path`. It replaces `path` if the block succeeds, else it is removed.

    An export of ppsolo at `path` is replaced in one step; see `check_place` for what is refused.
    """
    check_place(path)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(made_folder(path.parent))
            temporary = stack.enter_context(scratch_folder(path.absolute()))
        except OSError as error:
            raise ExportError(f"{path} cannot be created ({error.strerror}): choose another folder") from None
        try:
            yield temporary
            check_place(path)
            put_folder_in_place(temporary, path.absolute())
        except OSError as error:
            if error.errno is None:  # an error of Paddle itself, for example about a GPU
                raise
            raise ExportError(f"{path} cannot be written ({error.strerror or error})") from None


def check_place(path: Path) -> None:
    """Raise ExportError unless `path` does not exist, is empty, or holds an export of ppsolo and nothing else."""
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir():
        raise ExportError(f"{path} exists and is not an export of ppsolo: choose another --output_dir")
    names = {entry.name for entry in path.iterdir()}
    if not names:
        return
    try:
        info = read_info(path)
    except ExportError:
        raise ExportError(f"{path} holds other things than an export: choose another --output_dir") from None
    if foreign := sorted(names - {EXPORT_FILE, *(file.split("/")[0] for file in info.files)}):
        raise ExportError(f"{path} holds {foreign[0]} besides an export: choose another --output_dir")


def _plain(fact: TensorInfo) -> dict[str, Any]:
    return {**asdict(fact), "shape": list(fact.shape)}


def _digest(block: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(block, sort_keys=True).encode()).hexdigest()


def write_paddlex_config(directory: Path, config: Config, shape: Sequence[int]) -> None:
    """Write inference.yml: the keys that PaddleX's predictor for instance segmentation needs for SOLOv2."""
    content = {"Global": {"model_name": "SOLOv2"}, **_for_deploy_tools(config, shape)}
    with (directory / PADDLEX_CONFIG).open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def _for_deploy_tools(config: Config, shape: Sequence[int]) -> dict[str, Any]:
    """Return the keys for PaddleDetection's deploy tools, in their order, with their names for the steps."""
    preprocess = config.preprocess
    resize = {
        "type": "Resize",
        "target_size": [preprocess.short_side, preprocess.long_side],
        "keep_ratio": True,
        "interp": 1,
    }
    normalize = {
        "type": "NormalizeImage",
        "is_scale": True,
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
    }
    first = [normalize, resize] if preprocess.normalize_first else [resize, normalize]
    return {
        "mode": "paddle",
        "draw_threshold": 0.5,
        "metric": "COCO",
        "use_dynamic_shape": -1 in shape[2:],
        "arch": "SOLOv2",
        "min_subgraph_size": 60,
        "Preprocess": [*first, {"type": "Permute"}, {"type": "PadStride", "stride": 32}],
        "label_list": list(class_names(config)),
    }
