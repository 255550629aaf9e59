"""The result files of a run over many images."""

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from ppsolo.atomic import atomic_writer, made_folder
from ppsolo.results.files.catalogue import FORMATS, checked_formats
from ppsolo.results.files.coco import coco_entries
from ppsolo.results.files.image_results import ImageResults
from ppsolo.results.files.label_map import mask_pngs
from ppsolo.results.files.labelme import labelme_text
from ppsolo.results.files.tables import CsvTable, ParquetTable
from ppsolo.text import json_text


class RunFiles:
    """Writes the instances of image after image; a context manager.

    Some formats are one file for the whole run, which appears when the run succeeds: `predictions.json` (coco),
    `instances.csv` and `instances.parquet`. The others get a folder of their name with a file per image, or a folder
    per image for masks.

    Args:
        output_dir: an existing folder.
        formats: names in FORMATS; repeated names count once.

    Raises:
        ConfigError: there is no such format, or its package is not installed.
        OSError: a file cannot be written.
    """

    def __init__(self, output_dir: Path, formats: Sequence[str]):
        self._folder = output_dir
        self._formats = checked_formats(formats)
        self._stack = contextlib.ExitStack()
        self._writers: list[Callable[[ImageResults, str], None]] = []
        self._class_names: Sequence[str] = ()

    def __enter__(self) -> "RunFiles":
        with contextlib.ExitStack() as opening:
            self._stack = opening
            self._writers = [self._open(name) for name in self._formats]
            self._stack = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and "yolo" in self._formats and self._class_names:
            self._write_yolo_names()
        self._stack.__exit__(kind, error, trace)

    def add(self, found: ImageResults, stem: str) -> None:
        """Write the instances of one image; `stem` names its files and must be new."""
        self._class_names = found.class_names
        for write in self._writers:
            write(found, stem)

    def _open(self, name: str) -> Callable[[ImageResults, str], None]:
        """Return a function that writes the instances of one image in a format."""
        if name == "coco":
            return self._open_coco()
        if name == "csv":
            table = CsvTable(self._stack.enter_context(atomic_writer(self._folder / "instances.csv", "w")))
            return lambda found, stem: table.add(found)
        if name == "parquet":
            stream = self._stack.enter_context(atomic_writer(self._folder / "instances.parquet", "wb"))
            rows = self._stack.enter_context(contextlib.closing(ParquetTable(stream)))
            return lambda found, stem: rows.add(found)
        folder = self._folder / name / "labels" if name == "yolo" else self._folder / name
        self._stack.enter_context(made_folder(folder))
        if name == "masks":
            return lambda found, stem: _write_all(folder / stem, mask_pngs(found))
        if name == "labelme":
            return lambda found, stem: _write(
                folder / f"{stem}.json",
                labelme_text(found, folder=folder).encode(),
            )
        encode, suffix, _, _ = FORMATS[name]
        return lambda found, stem: _write(folder / (stem + suffix), encode(found))

    def _open_coco(self) -> Callable[[ImageResults, str], None]:
        """Open a JSON list of COCO results that grows image by image."""
        stream = self._stack.enter_context(atomic_writer(self._folder / "predictions.json", "w"))
        separators = iter(("[\n",))

        def write(found: ImageResults, stem: str) -> None:
            for entry in coco_entries(found):
                named = {**entry, "file_name": found.image_name} if found.image_name else entry
                stream.write(next(separators, ",\n") + json.dumps(named))

        # Runs before the stream is closed. After an exception the file is removed anyway.
        self._stack.callback(lambda: stream.write(next(separators, "") + "\n]\n"))
        return write

    def _write_yolo_names(self) -> None:
        names = "".join(f"  {i}: {json_text(name)}\n" for i, name in enumerate(self._class_names))
        _write(self._folder / "yolo" / "data.yaml", f"names:\n{names}".encode())


def _write_all(folder: Path, files: dict[str, bytes]) -> None:
    with made_folder(folder):
        for name, data in files.items():
            _write(folder / name, data)


def _write(path: Path, data: bytes) -> None:
    with atomic_writer(path, "wb") as stream:
        stream.write(data)
