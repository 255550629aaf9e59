"""The manifest of a bulk run: which parts are finished, and of which run they are."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ppsolo.atomic import atomic_writer
from ppsolo.errors import ConfigError

ResultsFormat = Literal["jsonl", "parquet"]
_LAYOUT = 1


@dataclass(frozen=True)
class Shard:
    """The share of one process: picture i belongs to shard i modulo `count`.

    index: from 0. count: how many shards there are.
    """

    index: int = 0
    count: int = 1

    @property
    def name(self) -> str:
        """For file names: "3of8", counted from 1."""
        return f"{self.index + 1}of{self.count}"


@dataclass(frozen=True)
class Part:
    """One finished part.

    Attributes:
        file: its name in the output directory.
        pictures: how many pictures of the shard it covers, read or not.
        instances: how many instances it holds.
        failures: how many of the pictures could not be read.
        paths: SHA-256 of the paths, a line each.
    """

    file: str
    pictures: int
    instances: int
    failures: int
    paths: str


@dataclass
class Manifest:
    """What a bulk run has finished, in the order of its list.

    Attributes:
        model: the configuration and where its weights come from; another model may not go on with the run.
        format: of the parts.
        shard: this process's share.
        parts: the finished ones.
        whole: whether the end of the list was reached.
    """

    model: str
    format: ResultsFormat
    shard: Shard
    parts: list[Part] = field(default_factory=list)
    whole: bool = False

    @property
    def pictures(self) -> int:
        """How many pictures of the shard are done."""
        return sum(part.pictures for part in self.parts)

    def part_name(self) -> str:
        """The name of the next part."""
        return f"part-{self.shard.name}-{len(self.parts):06d}.{self.format}"

    def write(self, directory: Path) -> None:
        """Write it beside its parts, whole or not at all."""
        content = {"layout": _LAYOUT, **asdict(self)}
        with atomic_writer(manifest_path(directory, self.shard), "w") as stream:
            json.dump(content, stream, indent=0)


def manifest_path(directory: Path, shard: Shard) -> Path:
    """Where the manifest of a shard lies."""
    return directory / f"manifest-{shard.name}.json"


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file. Raises ConfigError: it is damaged, or of another program."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("layout") != _LAYOUT:
            raise ValueError("of another version of ppsolo")
        parts = [Part(**part) for part in content.pop("parts")]
        manifest = Manifest(parts=parts, **{**content, "shard": Shard(**content["shard"])})
        if not all(isinstance(part.pictures, int) and Path(part.file).name == part.file for part in parts):
            raise ValueError("its parts are not ours")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path}: no manifest of a bulk run ({error}); choose another --output_dir") from None
    return manifest


def open_manifest(directory: Path, fresh: Manifest, *, resume: bool) -> Manifest:
    """The manifest to go on with: the one in the directory, or `fresh` where there is none.

    Raises ConfigError: there is one and `resume` is not asked for, or it is of another run.
    """
    path = manifest_path(directory, fresh.shard)
    others = [other for other in directory.glob("manifest-*of*.json") if not other.name.endswith(_of(fresh.shard))]
    if others:
        raise ConfigError(f"{directory} holds {others[0].name}, of a run in another number of shards; empty it first")
    if not os.path.lexists(path):
        return fresh
    found = read_manifest(path)
    if not resume:
        raise ConfigError(
            f"{directory} holds {found.pictures} finished pictures: add --resume to go on, or choose another directory"
        )
    for name in ("model", "format", "shard"):
        old, new = getattr(found, name), getattr(fresh, name)
        if old != new:
            raise ConfigError(
                f"{directory} was begun with another {name} ({old}), now it is {new}; start anew elsewhere"
            )
    return found


def paths_digest(paths: Sequence[str]) -> str:
    """The SHA-256 of paths, a line each."""
    return hashlib.sha256("\n".join(paths).encode("utf-8", "surrogateescape")).hexdigest()


def _of(shard: Shard) -> str:
    return f"of{shard.count}.json"
