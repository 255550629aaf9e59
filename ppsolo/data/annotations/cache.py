"""Parsed annotation files on disk: written once per machine, then mapped into memory by every process."""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np

from ppsolo.atomic import put_folder_in_place, scratch_folder
from ppsolo.checkpoint.lock import sole_holder
from ppsolo.data.annotations.reader import read_annotation_file
from ppsolo.data.annotations.table import Annotations
from ppsolo.errors import DatasetError

logger = logging.getLogger(__name__)

LEAST_BYTES = 2**24  # smaller files are parsed in less than a second
_FORMAT = "2"  # version of an entry; other versions are made again
_FACTS = "facts.json"
_HASHED_AT_ONCE = 2**22


def open_annotations(path: str | os.PathLike[str]) -> Annotations:
    """Read a COCO file, or map the cached result of an earlier reading.

    A cache entry belongs to the size, time and SHA-256 of a file, and exists whole or not at all. If the folder is not
    writable, the file is parsed into memory. The cache is the folder `annotation_folder`.

    Raises DatasetError: see `read_annotation_file`.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size < LEAST_BYTES:
            return read_annotation_file(path)
        key = _key(path)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error})") from None
    place = _place(path)
    entry = annotation_folder() / f"{place}-{key}"
    kept = _mapped(entry, path)
    if kept is not None:
        return kept
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with sole_holder(entry.parent / f"{place}.lock"):
            kept = _mapped(entry, path)  # another process may have written it meanwhile
            if kept is None:
                parsed = read_annotation_file(path)
                _keep(parsed, entry)
                kept = _mapped(entry, path) or parsed
                _remove_others(entry, place)
            return kept
    except OSError as error:
        reason = error.strerror or error
        logger.info("%s: parsed into memory, because %s is not writable (%s)", path, entry.parent, reason)
        return read_annotation_file(path)


def annotation_folder() -> Path:
    """Return the cache folder: PPSOLO_ANNOTATIONS, or ppsolo/annotations under XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("PPSOLO_ANNOTATIONS"):
        return Path(chosen)
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (cache if cache.is_absolute() else Path(os.path.expanduser("~")) / ".cache") / "ppsolo" / "annotations"


def _place(path: Path) -> str:
    """Return an entry's name. It depends on the path alone: a new version of a file replaces the old entry."""
    return f"{path.stem[:40]}-{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:10]}"


def _key(path: Path) -> str:
    """Return a name for the content: its size, time and SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        status = os.fstat(stream.fileno())
        buffer = memoryview(bytearray(_HASHED_AT_ONCE))
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
    digest.update(f"{status.st_size} {status.st_mtime_ns} {_FORMAT}".encode())
    return digest.hexdigest()[:24]


def _mapped(entry: Path, path: Path) -> Annotations | None:
    """Return the annotations of an entry, arrays mapped read-only; None if it does not exist or is damaged."""
    try:
        facts = json.loads((entry / _FACTS).read_text())
        columns = {name: _array(entry / f"{name}.npy", shape) for name, shape in facts["shapes"].items()}
        return Annotations.from_columns(path, facts, columns)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError):
        return None


def _array(file: Path, shape: list[int]) -> np.ndarray:
    if 0 in shape:
        return np.load(file, allow_pickle=False)  # an empty array cannot be mapped
    found = np.load(file, mmap_mode="r", allow_pickle=False)
    if list(found.shape) != shape:
        raise ValueError(f"{file} has another shape")
    return found.view(np.ndarray)


def _keep(parsed: Annotations, entry: Path) -> None:
    with scratch_folder(entry) as folder:
        columns = parsed.columns()
        for name, values in columns.items():
            np.save(folder / f"{name}.npy", values, allow_pickle=False)
        facts = {**parsed.facts(), "shapes": {name: list(values.shape) for name, values in columns.items()}}
        (folder / _FACTS).write_text(json.dumps(facts))
        put_folder_in_place(folder, entry)


def _remove_others(entry: Path, place: str) -> None:
    """Remove entries of earlier versions of the file; processes that have one mapped keep it."""
    for other in entry.parent.iterdir():
        if other.name.startswith(f"{place}-") and other != entry:
            shutil.rmtree(other, ignore_errors=True)
