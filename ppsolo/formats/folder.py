"""A folder of annotations and pictures: its files by kind, its pictures by name, and their parts."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Any

from ppsolo.data.files import IMAGE_SUFFIXES
from ppsolo.data.images import read_image
from ppsolo.errors import DatasetError, ImageError

_SPLITS = {
    "train": ("train", "training", "train2017", "train2014"),
    "val": ("val", "valid", "validation", "val2017", "val2014", "dev"),
    "test": ("test", "testing", "test2017"),
}
_SPLIT_OF = {word: split for split, words in _SPLITS.items() for word in words}
ARCHIVE_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
MOST_FILES = 2_000_000  # limit for a folder; a typing error must not read a whole disk


class Folder:
    """The visible files of a folder and its inner folders, listed once.

    Raises DatasetError if the folder does not exist or has more than MOST_FILES files.
    """

    def __init__(self, path: Path):
        self.path = path
        if not path.is_dir():
            what = "a file; give the folder that holds it" if path.exists() else "no such folder"
            if path.suffix.lower() in ARCHIVE_SUFFIXES and path.is_file():
                what = "an archive; unpack it and give the folder"
            raise DatasetError(f"{path}: {what}")
        self.files: list[Path] = []
        for place, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
            self.files += [Path(place, name) for name in sorted(names) if not name.startswith(".")]
            if len(self.files) > MOST_FILES:
                raise DatasetError(f"{path}: more than {MOST_FILES} files; name the data set's own folder")

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """Return the files with one of the suffixes, in any case."""
        return [file for file in self.files if file.suffix.lower() in suffixes]

    @cached_property
    def pictures(self) -> list[Path]:
        """Return the files with a picture's suffix."""
        return self.with_suffix(*IMAGE_SUFFIXES)

    @cached_property
    def json_kinds(self) -> dict[Path, frozenset[str]]:
        """Return the top-level keys of each JSON file; for a list, the keys of its first entry, each after "[]"."""
        kinds = {}
        for file in self.with_suffix(".json"):
            try:
                content = read_json(file)
            except DatasetError:  # may belong to another tool
                continue
            first = content[0] if isinstance(content, list) and content else None
            if isinstance(content, dict):
                kinds[file] = frozenset(map(str, content))
            elif isinstance(first, dict):
                kinds[file] = frozenset(f"[]{key}" for key in first)
        return kinds

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        names = defaultdict(list)
        for picture in self.pictures:
            names[picture.name].append(picture)
        return dict(names)

    @cached_property
    def by_stem(self) -> dict[str, list[Path]]:
        """Return the pictures by name without suffix."""
        stems = defaultdict(list)
        for picture in self.pictures:
            stems[picture.stem].append(picture)
        return dict(stems)

    def find_picture(self, name: str, near: Sequence[Path]) -> Path | None:
        """Find the picture with this `name` in annotations: in one of the folders `near`, else the only one of this
        name.

        Backslashes count as slashes. None if there is no such picture, or several and none in `near`.
        """
        plain = PureWindowsPath(name).as_posix()
        for folder in near:
            if os.path.isfile(found := folder / plain):  # no error for a name that is too long
                return found
        same = self._by_name.get(Path(plain).name, [])
        endings = [picture for picture in same if picture.as_posix().endswith("/" + plain.lstrip("./"))]
        for chosen in (endings, same):
            if len(chosen) == 1:
                return chosen[0]
        return None

    def split_of(self, file: Path) -> str:
        """ "train", "val" or "test" if a folder of the file's path has this name, else ""."""
        for part in file.relative_to(self.path).parts[:-1] if file.is_relative_to(self.path) else ():
            if part.lower() in _SPLIT_OF:
                return _SPLIT_OF[part.lower()]
        return ""

    def name(self, file: Path) -> str:
        """Return the file's path within the folder, for messages."""
        return file.relative_to(self.path).as_posix() if file.is_relative_to(self.path) else str(file)


def split_in_name(name: str) -> str:
    """ "train", "val" or "test" if it is a word in a file's name, as in instances_val2017.json, else ""."""
    for word in name.lower().replace("-", "_").replace(".", "_").split("_"):
        if word in _SPLIT_OF:
            return _SPLIT_OF[word]
    return ""


def read_json(path: Path) -> Any:
    """Read a JSON file in UTF-8, 16 or 32, with or without a byte order mark. Raises DatasetError."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not a JSON file ({error})") from None


def objects_in(value: Any, where: str) -> list[dict[str, Any]]:
    """Return the value if it is a list of JSON objects. where: the place of the value. Raises DatasetError."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise DatasetError(f"{where} is not a list of objects; export the annotations anew")
    return value


def read_lines(path: Path) -> list[str]:
    """Return the non-empty lines of a text file. Raises DatasetError."""
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def picture_sizes(paths: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """Return (height, width) of each picture, upright, as training reads it. Raises ImageError for a broken one."""

    def size(path: Path) -> tuple[int, int] | ImageError:
        try:
            image = read_image(path)
        except ImageError as error:
            return ImageError(str(error))  # drop the traceback, because it keeps the file's bytes in memory
        return image.shape[0], image.shape[1]

    paths = list(paths)
    found: dict[Path, tuple[int, int]] = {}
    with ThreadPoolExecutor(max_workers=4) as readers:
        for path, answer in zip(paths, readers.map(size, paths), strict=True):
            if isinstance(answer, ImageError):
                raise answer
            found[path] = answer
    return found
