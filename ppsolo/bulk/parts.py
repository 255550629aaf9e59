"""Parts: the results of some pictures as one file of JSON lines or Parquet; writing and reading."""

import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ppsolo.atomic import atomic_writer
from ppsolo.bulk.manifest import ResultsFormat
from ppsolo.errors import ConfigError
from ppsolo.results.instances import Instances

Entry = dict[str, Any]


def entries_of(instances: Instances, *, image_id: int, file_name: str) -> list[Entry]:
    """Return an entry per instance, as in `predictions.json`: COCO results with `file_name`."""
    return [{**entry, "file_name": file_name} for entry in instances.to_coco(image_id)]


def write_part(path: Path, entries: Sequence[Entry], format: ResultsFormat) -> None:
    """Write a part, whole or not at all. Raises OSError."""
    if format == "jsonl":
        with atomic_writer(path, "w") as stream:
            stream.writelines(json_line(entry) for entry in entries)
        return
    pyarrow, parquet = _pyarrow()
    table = pyarrow.Table.from_pylist([_flat(entry) for entry in entries], schema=_schema(pyarrow))
    with atomic_writer(path, "wb") as stream:
        parquet.write_table(table, stream)


def read_part(path: Path, format: ResultsFormat) -> Iterator[Entry]:
    """Yield the entries of a part. Raises ConfigError if it is missing or damaged."""
    try:
        if format == "jsonl":
            with path.open(encoding="utf-8") as stream:
                yield from map(json.loads, stream)
        else:
            _, parquet = _pyarrow()
            for batch in parquet.ParquetFile(path).iter_batches(1000):
                yield from map(_nested, batch.to_pylist())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: this part cannot be read ({error}); predict it again") from None


def json_line(entry: Entry) -> str:
    """Return an entry as one line."""
    return json.dumps(entry, ensure_ascii=False) + "\n"


def check_format(format: ResultsFormat) -> None:
    """Raise ConfigError if the format needs a missing package."""
    if format == "parquet":
        _pyarrow()


def _pyarrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise ConfigError("parquet needs the package pyarrow: pip install 'ppsolo[formats]'") from None


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
    return {**flat, "height": height, "width": width, "counts": segmentation["counts"]}


def _nested(row: Entry) -> Entry:
    """Return the entry of a row, with its keys in the order of JSON lines."""
    segmentation = {"size": [row["height"], row["width"]], "counts": row["counts"]}
    names = ("image_id", "category_id", "segmentation", "score", "bbox", "file_name")
    return {name: segmentation if name == "segmentation" else row[name] for name in names}
