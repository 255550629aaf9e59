"""Reads configurations: YAML files, their bases and `key=value` overrides become dataclasses of the schema."""

import contextlib
import dataclasses
import difflib
import math
import os
import re
import types
import typing
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import yaml

from ppsolo.config_limits import check_config
from ppsolo.errors import ConfigError
from ppsolo.schema import Config
from ppsolo.yaml_text import PlainLoader, load_text, read_text

if TYPE_CHECKING:
    from ppsolo.legacy.sections import Note

Overrides: TypeAlias = Sequence[str] | Mapping[str, Any]


def load_config(path: str | Path, overrides: Overrides = ()) -> Config:
    """Read a configuration file, its `_BASE_` files (next to it, or shipped ones) first, and apply overrides.

    A configuration of PaddleDetection is accepted too, see `import_theirs`; its own keys may be overridden.
    path: a YAML file, or the name of a shipped configuration ("solov2_r50_fpn_1x").
    overrides: "section.key=value" texts with YAML values, or {"section.key": value}. Mappings merge, lists replace.
    Raises ConfigError for a missing file, broken YAML, an unknown key, a wrong type or a wrong choice.

    >>> load_config("solov2_r50_fpn_1x", ["num_classes=3"]).num_classes
    3
    """
    file = find_config(path)
    if _is_theirs(file):
        return import_theirs(file, overrides)[0]
    tree = _read_with_bases(file, ())
    tree.setdefault("name", file.stem)
    return config_from_dict(_overridden(tree, overrides), file.name)


def import_theirs(file: Path, overrides: Overrides = ()) -> tuple[Config, "tuple[Note, ...]"]:
    """Read a SOLOv2 configuration of PaddleDetection 0.5 or 2.x, and list the keys without counterpart.

    overrides: see `load_config`, with keys of PaddleDetection or of ppsolo. Raises ConfigError.
    """
    from ppsolo.legacy.config import import_config
    from ppsolo.legacy.keys import split_changes

    theirs, ours = split_changes(_pairs(overrides))
    changes: dict[str, Any] = {}
    for key, value in theirs:
        if key in ("worker_num", "TrainReader.worker_num"):
            ours.append(("data.num_workers", value))
        else:
            changes = _merge(changes, _nest(key, value))
    imported = import_config(file, changes)
    tree: dict[str, Any] = imported.tree
    for key, value in ours:
        tree = _merge(tree, _nest(key, value))
    return config_from_dict(tree, file.name), imported.notes


def _is_theirs(file: Path) -> bool:
    """Whether a file is a configuration of PaddleDetection; shipped configurations are not."""
    if file.parent in _config_folders():
        return False
    from ppsolo.legacy.yaml_files import is_paddledetection

    return is_paddledetection(file)


def load_answering_config(path: str | Path, overrides: Overrides = ()) -> Config:
    """Like `load_config`, for a configuration that predicts.

    The config.yml of a training run gets the run's own weights, best.pdparams or else last.pdparams, not those that
    training started from. `with_names_of_weights` adds class names. Overrides win over both.
    """
    file = find_config(path)
    folder = file.parent
    own = next((weights for weights in (folder / "best.pdparams", folder / "last.pdparams") if weights.is_file()), None)
    config = load_config(path, overrides)
    if file.name == "config.yml" and own is not None and load_config(path).weights == config.weights:
        config = dataclasses.replace(config, weights=str(own))
    return with_names_of_weights(config, config.weights)


def with_names_of_weights(config: Config, weights: str | os.PathLike[str] | None) -> Config:
    """Add the class names of weights that training wrote to a configuration that has none.

    They are in the file next to the weights: best.yml for best.pdparams, else label_list.txt with one name per line.
    If the numbers of classes differ, nothing is added. Raises ConfigError if label_list.txt cannot be read.
    """
    if config.class_names or weights is None or not Path(weights).is_file():
        return config
    beside, label_list = Path(weights).with_suffix(".yml"), Path(weights).with_name("label_list.txt")
    if not beside.is_file() and label_list.is_file():
        from ppsolo.legacy.label_list import read_label_list

        names = read_label_list(label_list)
        return dataclasses.replace(config, class_names=names) if len(names) == config.num_classes else config
    if not beside.is_file():
        return config
    theirs = load_config(beside)
    if theirs.num_classes != config.num_classes:
        return config
    return dataclasses.replace(
        config, class_names=theirs.class_names, category_ids=config.category_ids or theirs.category_ids
    )


def override_config(config: Config, overrides: Overrides) -> Config:
    """Return the configuration with replaced values; overrides and errors: see `load_config`."""
    return config_from_dict(_overridden(config_to_dict(config), overrides), config.name)


def _overridden(tree: dict[str, Any], overrides: Overrides) -> dict[str, Any]:
    for key, value in _pairs(overrides):
        _refuse_unknown(key)
        tree = _merge(tree, _nest(key, value))
    return tree


def _pairs(overrides: Overrides) -> list[tuple[str, Any]]:
    return list(overrides.items()) if isinstance(overrides, Mapping) else [split_override(o) for o in overrides]


def _refuse_unknown(key: str) -> None:
    """Raise ConfigError for an unknown dotted key; for a key of PaddleDetection, name ppsolo's key."""
    known = dotted_keys(Config, "")
    sections = {name.rpartition(".")[0] for name in known}
    if key in known or key in sections:
        return
    from ppsolo.legacy.keys import new_key

    if (ours := new_key(key)) is not None:
        raise ConfigError(f"-o {key}: a key of PaddleDetection; ppsolo has {ours}")
    raise ConfigError(f"-o {key}: unknown key{_nearest_key(key, known)}")


def _nearest_key(key: str, known: Sequence[str]) -> str:
    """Return the nearest dotted key: first by its last part, then as a whole."""
    last = {name.rpartition(".")[2] for name in known}
    found = difflib.get_close_matches(key.rpartition(".")[2], sorted(last), n=1, cutoff=0.7)
    alike = [name for name in known if found and name.rpartition(".")[2] == found[0]]
    if alike:
        return f", did you mean {' or '.join(map(repr, alike[:3]))}?"
    return _nearest(key, known) or f"; the sections are {', '.join(typing.get_type_hints(Config))}"


def dotted_keys(kind: type, prefix: str) -> list[str]:
    """Return every key of a configuration without sections, such as "train.schedule.gamma"."""
    keys: list[str] = []
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            keys += dotted_keys(hint, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def config_to_dict(config: Config) -> dict[str, Any]:
    """Return the resolved configuration as plain dicts, lists and scalars, ready for YAML or JSON."""
    return _plain(dataclasses.asdict(config))


def config_from_dict(tree: Mapping[str, Any], where: str) -> Config:
    """Undo `config_to_dict`; `where` names the source in errors."""
    config = _to_dataclass(Config, dict(tree), where=where, prefix="")
    check_config(config, where)
    return config


def find_config(path: str | Path) -> Path:
    """Return the file that `path` names: itself, or a shipped configuration. Raises ConfigError."""
    path = Path(path)
    try:
        if path.is_file():
            return path
        if (path / "config.yml").is_file():
            raise ConfigError(f"{path} is a folder; give its configuration: {path / 'config.yml'}")
    except (OSError, ValueError):  # too long, or with a NUL character
        raise ConfigError(f"{str(path)[:100]!r}... cannot be the name of a file") from None
    if path.suffix == "" and path.name == str(path):
        return _shipped_config(path.name)
    raise ConfigError(f"{path}: no such configuration file")


def _shipped_config(name: str) -> Path:
    for folder in _config_folders():
        if (folder / f"{name}.yml").is_file():
            return folder / f"{name}.yml"
    known = sorted({file.stem for folder in _config_folders() for file in folder.glob("*.yml")})
    raise ConfigError(f"no configuration named '{name}'{_nearest(name, known)}; there are: {', '.join(known)}")


def _config_folders() -> list[Path]:
    """Return the folders of shipped configurations: inside an installed package, or next to it in a checkout."""
    package = Path(__file__).resolve().parent
    return [folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir()]


DEEPEST_BASE = 3  # largest number of nested bases
MOST_BASES = 10  # largest number of bases in a file

_KINDS_OF_TAGS: dict[str, type[yaml.Node]] = {
    "tag:yaml.org,2002:map": yaml.MappingNode,
    "tag:yaml.org,2002:seq": yaml.SequenceNode,
    **{f"tag:yaml.org,2002:{name}": yaml.ScalarNode for name in ("str", "int", "float", "bool", "null")},
}


class _Loader(PlainLoader, most_digits=10_000):  # a shorter number is refused later, with the name of its key
    """YAML's safe loader for JSON's kinds of values: text, numbers, true, false, null, lists and mappings.

    A date is text. Refused are sets and other tags, repeated keys, and aliases, because a few can stand for gigabytes.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own, without dates, merge keys and "="
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _KINDS_OF_TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if not isinstance(node, _KINDS_OF_TAGS.get(node.tag, ())):
            tag, line = node.tag.replace("tag:yaml.org,2002:", "!!"), node.start_mark.line + 1
            raise ConfigError(f"{tag} is not supported (line {line}); give text, a number, a list or a mapping")
        return super().construct_object(node, deep=deep)

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


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text to plain values. Raises ConfigError, in one line, for invalid YAML, aliases and repeated keys."""
    return load_text(text, where, _Loader)


def _read_with_bases(file: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    file = file.resolve()
    if file in above:
        raise ConfigError(f"{file.name}: _BASE_ leads back to this file")
    if len(above) > DEEPEST_BASE:
        raise ConfigError(f"{file.name}: _BASE_ leads through more than {DEEPEST_BASE} files; merge some")
    tree = parse_yaml(read_text(file), file.name)
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise ConfigError(f"{file.name}: expected 'key: value' lines at the top level")
    bases = tree.pop("_BASE_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{file.name}: _BASE_ must be a file name or a list of file names")
    if len(bases) > MOST_BASES:
        raise ConfigError(f"{file.name}: _BASE_ names more than {MOST_BASES} files; merge some")
    files = [_find_base(base, file) for base in bases]
    if len(set(files)) < len(files):
        raise ConfigError(f"{file.name}: _BASE_ names a file twice; keep one")
    merged: dict[str, Any] = {}
    for base in files:
        merged = _merge(merged, _read_with_bases(base, (*above, file)))
    return _merge(merged, tree)


def _find_base(base: str, file: Path) -> Path:
    """Return the file that `_BASE_` names: one next to `file`, else a shipped configuration."""
    beside = file.parent / base
    try:
        if beside.is_file():
            return beside.resolve()
        if Path(base).suffix == "" and Path(base).name == base:
            return _shipped_config(base).resolve()
    except (ConfigError, OSError) as error:  # the name is too long
        reason = error if isinstance(error, ConfigError) else error.strerror
        raise ConfigError(f"{file.name}: _BASE_ {base[:100]}: {reason}") from None
    raise ConfigError(f"{file.name}: _BASE_ file {base} does not exist next to it")


def _merge(base: Any, change: Any) -> Any:
    """Merge mappings key by key; replace other values."""
    if not (isinstance(base, dict) and isinstance(change, dict)):
        return change
    merged = dict(base)
    for key, value in change.items():
        merged[key] = _merge(merged[key], value) if key in merged else value
    return merged


def split_override(override: str) -> tuple[str, Any]:
    """Split "section.key=value" into the key, and the value read as YAML. Raises ConfigError."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip() or key.count(".") > 9:
        raise ConfigError(f"-o {override}: expected key=value, for example -o train.epochs=12")
    return key.strip(), parse_yaml(text, f"-o {override}")


def _nest(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _nearest(word: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f", did you mean '{found[0]}'?" if found else ""


def _nearest_in_section(key: str, known: Sequence[str]) -> str:
    """Return the nearest key of a section, or else a key of that name in another section."""
    elsewhere = [name for name in dotted_keys(Config, "") if name.rpartition(".")[2] == key]
    if elsewhere:
        return f", did you mean {' or '.join(map(repr, elsewhere[:3]))}?"
    return _nearest(key, known) or f"; known: {', '.join(known)}"


def _to_dataclass(kind: type, tree: Any, where: str, prefix: str) -> Any:
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{where}: {prefix[:-1]} must be a mapping of keys, got {_shown(tree)}")
    hints = typing.get_type_hints(kind)
    for key in tree:
        if not isinstance(key, str):
            raise ConfigError(f"{where}: the keys of {prefix[:-1] or 'a configuration'} must be words, not numbers")
        if key not in hints:
            hint = _nearest_in_section(key, list(hints))
            raise ConfigError(f"{where}: unknown key '{prefix}{key}'{hint}")
    values = {key: _convert(hints[key], value, where=where, key=f"{prefix}{key}") for key, value in tree.items()}
    return kind(**values)


def _convert(hint: Any, value: Any, where: str, key: str) -> Any:
    """Convert `value` to the type `hint`; raise ConfigError that names the key."""
    if isinstance(value, int) and value.bit_length() > 63:
        raise ConfigError(f"{where}: {key} is a number with more than 63 bits")
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _to_dataclass(hint, value, where, f"{key}.")
    origin = typing.get_origin(hint)
    if origin is Literal:
        choices = typing.get_args(hint)
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            raise ConfigError(f"{where}: {key} is {_shown(value)}: choose one of {', '.join(map(repr, choices))}")
        return value
    if origin in (types.UnionType, typing.Union):
        return _convert_to_one_of(typing.get_args(hint), value, where, key)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: {key} must be a list, got {_shown(value)}; write [...] around it")
        item = typing.get_args(hint)[0]
        return tuple(_convert(item, entry, where, f"{key}[{i}]") for i, entry in enumerate(value))
    return _convert_scalar(hint, value, where, key)


def _convert_to_one_of(hints: tuple[Any, ...], value: Any, where: str, key: str) -> Any:
    """Convert `value` to the first type that fits; words of a choice come first."""
    if value is None and type(None) in hints:
        return None
    kinds = sorted(
        (hint for hint in hints if hint is not type(None)), key=lambda hint: typing.get_origin(hint) is not Literal
    )
    fitting = [kind for kind in kinds if (typing.get_origin(kind) is tuple) == isinstance(value, list | tuple)] or kinds
    for kind in fitting[:-1]:
        with contextlib.suppress(ConfigError):
            return _convert(kind, value, where, key)
    return _convert(fitting[-1], value, where, key)


def _convert_scalar(hint: Any, value: Any, where: str, key: str) -> Any:
    if hint is float and not isinstance(value, bool):
        # YAML 1.1 reads 1e-4 (no dot) as a string.
        word = isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value)
        if (word or isinstance(value, int | float)) and math.isfinite(float(value)):
            return float(value)
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    names = {int: "an integer", float: "a finite number", bool: "true or false", str: "text"}
    raise ConfigError(f"{where}: {key} must be {names[hint]}, got {_shown(value)}")


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # Python does not print numbers of more than 4300 digits
        return "an endless number"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
