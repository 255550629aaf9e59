"""Parts: the results of some pictures as one file of JSON lines or Parquet; writing and reading."""

import importlib
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import msgspec

from ppsolo.atomic import atomic_writer
from ppsolo.bulk.manifest import ResultsFormat
from ppsolo.errors import ConfigError
from ppsolo.results.instances import Instances
from ppsolo.text import json_text, needed_package, storable

Entry = dict[str, Any]
ROWS = 20_000  # of a row group of Parquet: they are in memory together

_Stored = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]  # what Parquet's columns can hold
_Place = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]


class _Runs(msgspec.Struct, gc=False):
    size: tuple[_Stored, _Stored]
    counts: Annotated[str, msgspec.Meta(pattern="^[0-o]*$")]


class _Entry(msgspec.Struct, gc=False):
    """What an entry that is read back must have."""

    image_id: _Stored
    category_id: _Stored
    segmentation: _Runs
    score: Annotated[float, msgspec.Meta(ge=0, le=1)]
    bbox: tuple[_Place, _Place, _Place, _Place]
    file_name: str


def entries_of(instances: Instances, *, image_id: int, file_name: str) -> list[Entry]:
    """Return an entry per instance, as in `predictions.json`: COCO results with `file_name`."""
    return [{**entry, "file_name": file_name} for entry in instances.to_coco(image_id)]


def write_part(path: Path, entries: Iterable[Entry], format: ResultsFormat) -> None:
    """Write a part, whole or not at all; the entries are taken step by step. Raises OSError."""
    if format == "jsonl":
        with atomic_writer(path, "w") as stream:
            stream.writelines(json_line(entry) for entry in entries)
        return
    pyarrow, parquet = _pyarrow()
    schema, rows = _schema(pyarrow), map(_flat, entries)
    with atomic_writer(path, "wb") as stream, parquet.ParquetWriter(stream, schema) as writer:
        while group := list(islice(rows, ROWS)):
            writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))


def read_part(path: Path, format: ResultsFormat) -> Iterator[Entry]:
    """Yield the entries of a part. Raises ConfigError if it is missing or damaged."""
    try:
        if format == "jsonl":
            with path.open(encoding="utf-8") as stream:
                yield from (_checked(json.loads(line)) for line in stream)
        else:
            _, parquet = _pyarrow()
            for batch in parquet.ParquetFile(path).iter_batches(1000):
                yield from (_checked(_nested(row)) for row in batch.to_pylist())
    except (OSError, ValueError, LookupError, TypeError, NotImplementedError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigError(
            f"{path}: this part cannot be read ({reason}); remove it, then add --resume to the command that made it"
        ) from None


def _checked(entry: Any) -> Entry:
    """Return the entry itself if it is one. Raises ValueError."""
    msgspec.convert(entry, _Entry)
    return entry


def json_line(entry: Entry) -> str:
    """Return an entry as one line."""
    return json_text(entry) + "\n"


def check_format(format: ResultsFormat) -> None:
    """Raise ConfigError if the format needs a missing package."""
    if format == "parquet":
        _pyarrow()


def _pyarrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ConfigError(f"parquet needs {needed_package(error, 'pyarrow', 'formats')}") from None


def _schema(pyarrow: Any) -> Any:
    return pyarrow.schema(
        [
            ("image_id", pyarrow.int64()),
            ("file_name", pyarrow.string()),
            ("category_id", pyarrow.int64()),
            ("score", pyarrow.float64()),
            ("bbox", pyarrow.list_(pyarrow.float64(), 4)),
            ("height", pyarrow.int64()),
            ("width", pyarrow.int64()),
            ("counts", pyarrow.string()),
        ]
    )


def _flat(entry: Entry) -> Entry:
    segmentation = entry["segmentation"]
    height, width = segmentation["size"]
    flat = {key: value for key, value in entry.items() if key != "segmentation"}
    name = storable(entry["file_name"])
    return {**flat, "file_name": name, "height": height, "width": width, "counts": segmentation["counts"]}


def _nested(row: Entry) -> Entry:
    """Return the entry of a row, with its keys in the order of JSON lines."""
    segmentation = {"size": [row["height"], row["width"]], "counts": row["counts"]}
    names = ("image_id", "category_id", "segmentation", "score", "bbox", "file_name")
    return {name: segmentation if name == "segmentation" else row[name] for name in names}
