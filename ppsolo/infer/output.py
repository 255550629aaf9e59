"""The output directory of a run of inference, and the names of what lies in it."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ppsolo.errors import ConfigError
from ppsolo.outputs import check_output_folder
from ppsolo.text import cut_name

LONGEST_STEM = 230  # bytes: file systems take names of 255, and results end with at most "_000000.geojson"


def check_output_dir(output_dir: Path, *, apart_from: Sequence[Path] = ()) -> None:
    """Raise ConfigError if the folder cannot be created or written to, or if it holds a file of `apart_from`."""
    check_output_folder(output_dir, "--output_dir")
    place = output_dir.resolve()
    for source in apart_from:
        if place in (source.resolve().parent, source.parent.resolve()):
            raise ConfigError(f"{output_dir} holds {source.name}, which is an input; choose another --output_dir")


def file_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Name each picture in results: its file name, or its whole path if another file has the same name."""
    count = Counter(path.name for path in paths)
    return {path: path.name if count[path.name] == 1 else path.as_posix() for path in paths}


def drawing_paths(output_dir: Path, paths: Sequence[Path]) -> list[Path]:
    """Choose a file in output_dir for each picture, with its own name; a second one of that name gets _2, and so on.

    A very long name is cut, so that the other results of the picture can have it too.
    """
    taken: set[str] = set()
    drawings = []
    for path in paths:
        suffix = path.suffix if path.suffix.lower() in (".png", ".jpg", ".jpeg") else ".png"
        stem, count = cut_name(path.stem, LONGEST_STEM), 1
        name = stem + suffix
        while name.casefold() in taken:
            count += 1
            name = f"{stem}_{count}{suffix}"
        taken.add(name.casefold())
        drawings.append(output_dir / name)
    return drawings
