"""Configuration: the schema as frozen dataclasses, and the reader of YAML files and `key=value` overrides."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from ppsolo.errors import ConfigError


@dataclass(frozen=True)
class BackboneConfig:
    """type resnet: depth, variant, dcn_stages, width, frozen_stages as in `ResNet`; mobilenetv3: scale."""

    type: Literal["resnet", "mobilenetv3"] = "resnet"
    depth: Literal[14, 26, 50, 101] = 50
    variant: Literal["b", "d"] = "b"
    dcn_stages: tuple[int, ...] = ()
    width: int = 64
    scale: float = 1.0
    norm: Literal["bn", "sync_bn", "gn"] = "bn"
    freeze_norm: bool = True
    frozen_stages: int = 1


@dataclass(frozen=True)
class NeckConfig:
    """channels of every pyramid level."""

    channels: int = 256


@dataclass(frozen=True)
class MaskFeatureHeadConfig:
    """out_channels is also the length of every predicted kernel."""

    mid_channels: int = 128
    out_channels: int = 256
    deformable: bool = False


@dataclass(frozen=True)
class HeadConfig:
    """The towers of the SOLOv2 head, and the grid of each of its five levels."""

    channels: int = 512
    num_convs: int = 4
    dcn_layers: tuple[int, ...] = ()
    drop_block: bool = False
    num_grids: tuple[int, ...] = (40, 36, 24, 16, 12)


@dataclass(frozen=True)
class ModelConfig:
    """The network; norm_groups and dcn_bias hold for both heads."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    neck: NeckConfig = field(default_factory=NeckConfig)
    mask_feature_head: MaskFeatureHeadConfig = field(default_factory=MaskFeatureHeadConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    norm_groups: int = 32
    dcn_bias: bool = False


@dataclass(frozen=True)
class PreprocessConfig:
    """How an image becomes the network's input; see `ppsolo.data.preprocess.Preprocess`."""

    short_side: int = 800
    long_side: int = 1333
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    normalize_first: bool = False
    round_sides: bool = False


@dataclass(frozen=True)
class PostprocessConfig:
    """Thresholds and limits; see `ppsolo.models.postprocess.SOLOv2Postprocess`."""

    strides: tuple[int, ...] = (8, 8, 16, 32, 32)
    score_threshold: float = 0.1
    mask_threshold: float = 0.5
    update_threshold: float = 0.05
    pre_nms_top_n: int = 500
    max_instances: int = 100
    nms_kernel: Literal["gaussian", "linear"] = "gaussian"
    nms_sigma: float = 2.0


@dataclass(frozen=True)
class Config:
    """One system. name: set by the reader to the file's stem. weights: a file, or a published name.

    class_names may be empty: then 80 classes are COCO's, any other number is numbered.
    category_ids: the ids written to COCO results; empty means COCO's own for 80 classes, else 1..n.
    """

    name: str = ""
    weights: str | None = None
    num_classes: int = 80
    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    model: ModelConfig = field(default_factory=ModelConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)


def load_config(path: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Config:
    """Read a configuration file, its `_BASE_` files first, and apply overrides.

    path: a YAML file, or the name of a configuration that comes with ppsolo ("solov2_r50_fpn_1x").
    overrides: "section.key=value" strings as `-o` takes them (the value is read as YAML), or a mapping of
        dotted keys to values. Mappings merge, lists replace.
    Raises ConfigError for a missing file, broken YAML, an unknown key, a wrong type or a wrong choice.
    """
    file = find_config(path)
    tree = _read_with_bases(file, ())
    tree.setdefault("name", file.stem)
    pairs = list(overrides.items()) if isinstance(overrides, Mapping) else [_split(o) for o in overrides]
    for key, value in pairs:
        tree = _merge(tree, _nest(key, value))
    config = _to_dataclass(Config, tree, where=file.name, prefix="")
    _check(config, file.name)
    return config


def config_to_dict(config: Config) -> dict[str, Any]:
    """The resolved configuration as plain dicts, lists and scalars, ready for YAML or JSON."""
    return _plain(dataclasses.asdict(config))


def config_from_dict(tree: Mapping[str, Any], where: str) -> Config:
    """The inverse of `config_to_dict`; `where` names the source in errors."""
    config = _to_dataclass(Config, dict(tree), where=where, prefix="")
    _check(config, where)
    return config


def find_config(path: str | Path) -> Path:
    """The file that `path` names: itself, or a configuration that comes with ppsolo. Raises ConfigError."""
    path = Path(path)
    if path.is_file():
        return path
    if path.suffix == "" and path.name == str(path):
        for folder in _config_folders():
            if (folder / f"{path}.yml").is_file():
                return folder / f"{path}.yml"
        known = sorted({file.stem for folder in _config_folders() for file in folder.glob("*.yml")})
        raise ConfigError(f"no configuration named '{path}'{_nearest(str(path), known)}; there are: {', '.join(known)}")
    raise ConfigError(f"{path}: no such configuration file")


def _config_folders() -> list[Path]:
    """Where shipped configurations lie: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return [folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir()]


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, with `1e-4` read as a number and a key given twice refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    line = key_node.start_mark.line + 1
                    raise ConfigError(f"key '{key}' is given twice (line {line}); keep one")
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None


def _read_with_bases(file: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    file = file.resolve()
    if file in above:
        raise ConfigError(f"{file.name}: _BASE_ leads back to the file itself")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as a configuration ({error})") from None
    tree = _parse_yaml(text, file.name)
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{file.name}: expected 'key: value' lines at the top level")
    bases = tree.pop("_BASE_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{file.name}: _BASE_ takes a file name or a list of file names")
    merged: dict[str, Any] = {}
    for base in bases:
        if not (file.parent / base).is_file():
            raise ConfigError(f"{file.name}: _BASE_ file {base} does not exist beside it")
        merged = _merge(merged, _read_with_bases(file.parent / base, (*above, file)))
    return _merge(merged, tree)


def _merge(base: Any, change: Any) -> Any:
    """Mappings merge key by key, everything else is replaced."""
    if not (isinstance(base, dict) and isinstance(change, dict)):
        return change
    merged = dict(base)
    for key, value in change.items():
        merged[key] = _merge(merged[key], value) if key in merged else value
    return merged


def _split(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"-o {override}: expected key=value, for example -o weights=model.pdparams")
    return key.strip(), _parse_yaml(text, f"-o {override}")


def _nest(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _nearest(word: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f", did you mean '{found[0]}'?" if found else ""


def _to_dataclass(kind: type, tree: Any, where: str, prefix: str) -> Any:
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{where}: {prefix[:-1]} takes a mapping of keys, got {tree!r}")
    hints = typing.get_type_hints(kind)
    for key in tree:
        if key not in hints:
            hint = _nearest(str(key), list(hints)) or f"; known: {', '.join(hints)}"
            raise ConfigError(f"{where}: unknown key '{prefix}{key}'{hint}")
    values = {key: _convert(hints[key], value, where=where, key=f"{prefix}{key}") for key, value in tree.items()}
    return kind(**values)


def _convert(hint: Any, value: Any, where: str, key: str) -> Any:
    """`value` as the type `hint`, or a ConfigError that names the key."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _to_dataclass(hint, value, where, f"{key}.")
    origin = typing.get_origin(hint)
    if origin is Literal:
        choices = typing.get_args(hint)
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            raise ConfigError(f"{where}: {key} is {value!r}, choose one of {', '.join(map(repr, choices))}")
        return value
    if origin is types.UnionType:  # only "X | None" occurs
        inner = next(arg for arg in typing.get_args(hint) if arg is not type(None))
        return None if value is None else _convert(inner, value, where, key)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: {key} takes a list, got {value!r}")
        item = typing.get_args(hint)[0]
        return tuple(_convert(item, entry, where, f"{key}[{i}]") for i, entry in enumerate(value))
    return _convert_scalar(hint, value, where, key)


def _convert_scalar(hint: Any, value: Any, where: str, key: str) -> Any:
    if hint is float and not isinstance(value, bool):
        # YAML 1.1 reads 1e-4 (no dot) as a word.
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    raise ConfigError(f"{where}: {key} takes {names[hint]}, got {value!r}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _check(config: Config, where: str) -> None:
    """Refuse what no network can be built from, in the words of the file."""
    model, head = config.model, config.model.head
    positive = {
        "num_classes": config.num_classes,
        "model.backbone.width": model.backbone.width,
        "model.backbone.scale": model.backbone.scale,
        "model.neck.channels": model.neck.channels,
        "model.mask_feature_head.mid_channels": model.mask_feature_head.mid_channels,
        "model.mask_feature_head.out_channels": model.mask_feature_head.out_channels,
        "model.head.channels": head.channels,
        "model.head.num_convs": head.num_convs,
        "model.norm_groups": model.norm_groups,
        "preprocess.short_side": config.preprocess.short_side,
        "preprocess.long_side": config.preprocess.long_side,
        "postprocess.pre_nms_top_n": config.postprocess.pre_nms_top_n,
        "postprocess.max_instances": config.postprocess.max_instances,
        "postprocess.nms_sigma": config.postprocess.nms_sigma,
        **{f"preprocess.std[{i}]": std for i, std in enumerate(config.preprocess.std)},
        **{f"model.head.num_grids[{i}]": grid for i, grid in enumerate(head.num_grids)},
    }
    for key, value in positive.items():
        if not value > 0:
            raise ConfigError(f"{where}: {key} must be above zero, got {value!r}")
    for key in ("score_threshold", "mask_threshold", "update_threshold"):
        value = getattr(config.postprocess, key)
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"{where}: postprocess.{key} takes a number from 0 to 1, got {value!r}")
    lengths = {
        "class_names": (config.class_names, config.num_classes, "num_classes"),
        "category_ids": (config.category_ids, config.num_classes, "num_classes"),
    }
    for key, (values, expected, of) in lengths.items():
        if values and len(values) != expected:
            raise ConfigError(f"{where}: {key} has {len(values)} entries, {of} is {expected}")
        if len(set(values)) != len(values):
            raise ConfigError(f"{where}: {key} has the same entry twice")
    fixed = {
        "model.head.num_grids": (head.num_grids, 5),
        "postprocess.strides": (config.postprocess.strides, 5),
        "preprocess.mean": (config.preprocess.mean, 3),
        "preprocess.std": (config.preprocess.std, 3),
    }
    for key, (values, expected) in fixed.items():
        if len(values) != expected:
            raise ConfigError(f"{where}: {key} takes {expected} values, got {len(values)}")
    for key, channels in (
        ("model.head.channels", head.channels),
        ("model.mask_feature_head.mid_channels", model.mask_feature_head.mid_channels),
        ("model.mask_feature_head.out_channels", model.mask_feature_head.out_channels),
    ):
        if channels % model.norm_groups:
            raise ConfigError(f"{where}: {key} {channels} is no multiple of norm_groups {model.norm_groups}")
