"""The manifest of a bulk run: a description of the run, and its finished parts."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from ppsolo.atomic import atomic_writer
from ppsolo.bulk.settings import difference
from ppsolo.errors import ConfigError

ResultsFormat = Literal["jsonl", "parquet"]
_LAYOUT = 1
_PART_FILE = re.compile(r"part-[0-9]{1,20}of[0-9]{1,20}-[0-9]{6,20}\.(jsonl|parquet)")
_Count = Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True)
class Shard:
    """The share of one process: picture i belongs to shard i modulo `count`.

    index: from 0. count: number of shards.
    """

    index: _Count = 0
    count: _Count = 1

    @property
    def name(self) -> str:
        """The name in file names: "3of8", counted from 1."""
        return f"{self.index + 1}of{self.count}"


@dataclass(frozen=True)
class Part:
    """One finished part.

    Attributes:
        file: its name in the output directory.
        pictures: number of its pictures, readable or not.
        instances: number of its instances.
        failures: number of pictures that could not be read.
        paths: SHA-256 of the paths, one per line.
    """

    file: str
    pictures: _Count
    instances: _Count
    failures: _Count
    paths: str


@dataclass
class Manifest:
    """The finished work of a bulk run, in the order of its list.

    Attributes:
        model: the configuration and the origin of its weights; another model cannot resume the run.
        format: of the parts.
        shard: this process's share.
        parts: the finished parts.
        whole: whether the end of the list was reached.
        settings: what else decides the results, see `ppsolo.bulk.settings`; empty in older manifests.
    """

    model: str
    format: ResultsFormat
    shard: Shard
    parts: list[Part] = field(default_factory=list)
    whole: bool = False
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def pictures(self) -> int:
        """Number of finished pictures of the shard."""
        return sum(part.pictures for part in self.parts)

    def part_name(self) -> str:
        """The name of the next part."""
        return f"part-{self.shard.name}-{len(self.parts):06d}.{self.format}"

    def write(self, directory: Path) -> None:
        """Write the manifest next to its parts, whole or not at all."""
        content = {"layout": _LAYOUT, **asdict(self)}
        with atomic_writer(manifest_path(directory, self.shard), "w") as stream:
            json.dump(content, stream, indent=0)


def manifest_path(directory: Path, shard: Shard) -> Path:
    """Return the path of a shard's manifest."""
    return directory / f"manifest-{shard.name}.json"


def read_manifest(path: Path) -> Manifest:
    """Read a manifest. Raises ConfigError if it is damaged, or another program wrote it."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("layout") != _LAYOUT:
            raise ValueError("another version of ppsolo wrote it")
        manifest = msgspec.convert(content, Manifest)
        if manifest.shard.index >= manifest.shard.count:
            raise ValueError(f"its shard is {manifest.shard.name}")
        if not all(_PART_FILE.fullmatch(part.file) for part in manifest.parts):
            raise ValueError("its list of parts is wrong")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path}: not a manifest of a bulk run ({error}); choose another --output_dir") from None
    return manifest


def open_manifest(directory: Path, fresh: Manifest, *, resume: bool) -> Manifest:
    """Return the manifest in the directory to resume, or `fresh` if there is none.

    Raises ConfigError if there is one without `resume`, or it belongs to another run.
    """
    found = check_manifests(directory, fresh.shard, resume=resume)
    if found is None:
        return fresh
    for name in ("model", "format", "shard"):
        old, new = getattr(found, name), getattr(fresh, name)
        if old != new:
            raise ConfigError(
                f"{directory} was started with another {name} ({old}), now it is {new}; choose another directory"
            )
    if (other := difference(found.settings, fresh.settings)) is not None:
        raise ConfigError(
            f"{directory} was started with another setting: {other}; repeat it, or choose another directory"
        )
    return found


def check_manifests(directory: Path, shard: Shard, *, resume: bool) -> Manifest | None:
    """Return the manifest of a shard, None if there is none.

    Raises ConfigError if there is one without `resume`, or if the directory has a run with other shards.
    """
    path = manifest_path(directory, shard)
    others = [other for other in directory.glob("manifest-*of*.json") if not other.name.endswith(_of(shard))]
    if others:
        raise ConfigError(f"{directory} holds {others[0].name}, of a run with other shards; empty it first")
    if not os.path.lexists(path):
        return None
    found = read_manifest(path)
    if not resume:
        raise ConfigError(
            f"{directory} holds {found.pictures} finished pictures: add --resume, or choose another directory"
        )
    return found


def paths_digest(paths: Sequence[str]) -> str:
    """Return the SHA-256 of paths, one per line."""
    return hashlib.sha256("\n".join(paths).encode("utf-8", "surrogateescape")).hexdigest()


def _of(shard: Shard) -> str:
    return f"of{shard.count}.json"
