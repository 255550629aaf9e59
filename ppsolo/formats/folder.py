"""A folder of annotations and pictures: its files by kind, its pictures by name, and what they are for."""

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
MOST_FILES = 2_000_000  # in a folder; a slip of the hand should not read a whole disk


class Folder:
    """The visible files of a folder and its sub-folders, listed once.

    Raises DatasetError where there is no such folder or it holds more than MOST_FILES files.
    """

    def __init__(self, path: Path):
        self.path = path
        if not path.is_dir():
            raise DatasetError(f"{path}: there is no such folder")
        self.files: list[Path] = []
        for place, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
            self.files += [Path(place, name) for name in sorted(names) if not name.startswith(".")]
            if len(self.files) > MOST_FILES:
                raise DatasetError(f"{path}: more than {MOST_FILES} files; name the data set's own folder")

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """The files with one of the suffixes, in any case."""
        return [file for file in self.files if file.suffix.lower() in suffixes]

    @cached_property
    def pictures(self) -> list[Path]:
        """The files that are pictures by their suffix."""
        return self.with_suffix(*IMAGE_SUFFIXES)

    @cached_property
    def json_kinds(self) -> dict[Path, frozenset[str]]:
        """The keys at the top of each JSON file; of a list, those of its first entry, each with "[]" before it."""
        kinds = {}
        for file in self.with_suffix(".json"):
            try:
                content = read_json(file)
            except DatasetError:  # another tool's matter
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
        """The pictures by their name without the suffix."""
        stems = defaultdict(list)
        for picture in self.pictures:
            stems[picture.stem].append(picture)
        return dict(stems)

    def find_picture(self, name: str, near: Sequence[Path]) -> Path | None:
        """The picture that annotations call `name`: under one of the folders `near`, else the only one of that name.

        Backslashes count as slashes. None where there is no such picture, or several that none is nearer.
        """
        plain = PureWindowsPath(name).as_posix()
        for folder in near:
            if (found := folder / plain).is_file():
                return found
        same = self._by_name.get(Path(plain).name, [])
        endings = [picture for picture in same if picture.as_posix().endswith("/" + plain.lstrip("./"))]
        for chosen in (endings, same):
            if len(chosen) == 1:
                return chosen[0]
        return None

    def split_of(self, file: Path) -> str:
        """ "train", "val" or "test" where a folder on the way to the file is called so, else ""."""
        for part in file.relative_to(self.path).parts[:-1] if file.is_relative_to(self.path) else ():
            if part.lower() in _SPLIT_OF:
                return _SPLIT_OF[part.lower()]
        return ""

    def name(self, file: Path) -> str:
        """The file's path within the folder, for messages."""
        return file.relative_to(self.path).as_posix() if file.is_relative_to(self.path) else str(file)


def split_in_name(name: str) -> str:
    """ "train", "val" or "test" where a word of a file's name is that, as in instances_val2017.json, else ""."""
    for word in name.lower().replace("-", "_").replace(".", "_").split("_"):
        if word in _SPLIT_OF:
            return _SPLIT_OF[word]
    return ""


def read_json(path: Path) -> Any:
    """The content of a JSON file in UTF-8, 16 or 32, with or without a byte order mark. Raises DatasetError."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not a JSON file ({error})") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that hold something. Raises DatasetError."""
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def picture_sizes(paths: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """(height, width) of each picture, upright, as training will read it. Raises ImageError for one that is broken."""

    def size(path: Path) -> tuple[int, int] | ImageError:
        try:
            image = read_image(path)
        except ImageError as error:
            return ImageError(str(error))  # without its traceback, which holds the bytes of the file
        return image.shape[0], image.shape[1]

    paths = list(paths)
    found: dict[Path, tuple[int, int]] = {}
    with ThreadPoolExecutor(max_workers=4) as readers:
        for path, answer in zip(paths, readers.map(size, paths), strict=True):
            if isinstance(answer, ImageError):
                raise answer
            found[path] = answer
    return found
