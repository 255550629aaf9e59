"""Merges the parts of all shards into one file, in the order of the list."""

import heapq
from collections.abc import Iterator, Sequence
from pathlib import Path

from ppsolo.atomic import atomic_writer
from ppsolo.bulk.manifest import Manifest, read_manifest
from ppsolo.bulk.parts import Entry, json_line, read_part, write_part
from ppsolo.bulk.settings import difference
from ppsolo.errors import ConfigError
from ppsolo.text import json_text

SUFFIXES = (".jsonl", ".json", ".parquet")


def merge(directories: Sequence[Path], output: Path, *, partial: bool = False) -> tuple[int, int]:
    """Write the results of bulk runs as one file; return (predicted pictures, instances).

    Args:
        directories: the directories with the shards of one run.
        output: .jsonl, .json (a list, as `predictions.json`) or .parquet.
        partial: accept a run that has not reached the end of its list.

    Raises:
        ConfigError: a shard is missing, duplicate or unfinished; a part cannot be read; another suffix.
    """
    if output.suffix not in SUFFIXES:
        raise ConfigError(f"{output}: choose a name that ends with one of {', '.join(SUFFIXES)}")
    found = _manifests(directories, partial=partial)
    entries = heapq.merge(*(_entries(place, one) for place, one in found), key=lambda entry: entry["image_id"])
    instances = sum(part.instances for _, one in found for part in one.parts)
    if output.suffix == ".parquet":
        write_part(output, entries, "parquet")
    elif output.suffix == ".jsonl":
        with atomic_writer(output, "w") as stream:
            stream.writelines(map(json_line, entries))
    else:
        with atomic_writer(output, "w") as stream:
            separator = "[\n"
            for entry in entries:
                stream.write(separator + json_text(entry))
                separator = ",\n"
            stream.write("[\n]\n" if separator == "[\n" else "\n]\n")
    pictures = sum(part.pictures - part.failures for _, one in found for part in one.parts)
    return pictures, instances


def _manifests(directories: Sequence[Path], *, partial: bool) -> list[tuple[Path, Manifest]]:
    """Return every shard of one run, with its directory."""
    found: dict[int, tuple[Path, Manifest]] = {}
    for directory in directories:
        files = sorted(directory.glob("manifest-*of*.json"))
        if not files:
            raise ConfigError(f"{directory} has no bulk run (manifest-1of1.json); give its output directory")
        for file in files:
            manifest = read_manifest(file)
            if manifest.shard.index in found:
                raise ConfigError(f"{file}: shard {manifest.shard.name} is also in {found[manifest.shard.index][0]}")
            found[manifest.shard.index] = (directory, manifest)
    first = next(iter(found.values()))[1]
    for directory, manifest in found.values():
        if (manifest.model, manifest.shard.count) != (first.model, first.shard.count):
            raise ConfigError(f"{directory}: {manifest.shard.name} belongs to another run than {first.shard.name}")
        if (other := difference(first.settings, manifest.settings)) is not None:
            raise ConfigError(
                f"{directory}: {manifest.shard.name} had another setting than {first.shard.name}: {other}; "
                "predict it again"
            )
        if not manifest.whole and not partial:
            raise ConfigError(f"{directory}: {manifest.shard.name} is not finished; resume it, or add --partial")
    missing = next((index for index in range(first.shard.count) if index not in found), None)
    if missing is not None and not partial:
        raise ConfigError(f"shard {missing + 1} of {first.shard.count} is missing; give its directory too")
    return [found[index] for index in sorted(found)]


def _entries(directory: Path, manifest: Manifest) -> Iterator[Entry]:
    for part in manifest.parts:
        yield from read_part(directory / part.file, manifest.format)
