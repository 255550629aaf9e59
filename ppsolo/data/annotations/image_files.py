"""Finds the image files of an annotation file, also under another spelling of the name."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from ppsolo.data.annotations.findings import Findings
from ppsolo.data.annotations.table import Annotations


class ImageFiles(Sequence[Path]):
    """The paths of all images of `annotations` in a folder, by their index.

    If a name does not exist, it is tried with forward slashes and without folders; success counts as "file-name" in
    `findings`. A file that is not found counts as "missing-image" and keeps the stated path.
    """

    def __init__(self, annotations: Annotations, folder: Path, findings: Findings):
        self._names = annotations.file_names
        self._folder = folder
        self._other: dict[int, str] = {}
        listings: dict[str, frozenset[str]] = {}
        for index in range(len(self._names)):
            name = self._names[index]
            if not name or _is_there(folder, name, listings):
                continue
            image_id = annotations.image_ids[index]
            other = next((other for other in _spellings(name) if _is_there(folder, other, listings)), None)
            if other is None:
                detail = f"image {image_id}: {folder / name} does not exist; check the image folder and 'file_name'"
                findings.add("missing-image", image_id, detail)
            else:
                self._other[index] = other
                findings.add("file-name", image_id, f"image {image_id}: 'file_name' is {name!r}, the file {other}")

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Path:  # type: ignore[override]
        return self._folder / self._other.get(index, self._names[index])


def _spellings(name: str) -> Iterator[str]:
    """Yield other names that tools use for the same file."""
    path = PurePosixPath(name.replace("\\", "/"))
    yield str(path)
    yield path.name


def _is_there(folder: Path, name: str, listings: dict[str, frozenset[str]]) -> bool:
    """Whether the file is in the folder; each folder is listed once, because checking a million files is slow."""
    head, _, tail = name.rpartition("/")
    if head not in listings:
        try:
            with os.scandir(folder / head) as entries:
                listings[head] = frozenset(entry.name for entry in entries if entry.is_file())
        except (OSError, ValueError):
            listings[head] = frozenset()
    if tail in listings[head]:
        return True
    return not listings[head] and os.path.isfile(folder / name)  # the folder may forbid listing but allow access
