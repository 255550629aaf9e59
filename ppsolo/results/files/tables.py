"""Measurements as CSV and Parquet, for one image or a whole run."""

import csv
import io
import math
from typing import Any, TextIO

import numpy as np

from ppsolo.errors import PpsoloError
from ppsolo.results.files.image_results import ImageResults
from ppsolo.results.files.measures import measures
from ppsolo.text import needed_package


class CsvTable:
    """A CSV file that grows: a header, then a line per instance; unknown values stay empty.

    Numbers have up to ten significant digits. A leading apostrophe protects a text that a spreadsheet would read as a
    formula.
    """

    def __init__(self, stream: TextIO):
        self._writer = csv.writer(stream, lineterminator="\n")
        self._columns: list[str] | None = None

    def add(self, found: ImageResults) -> None:
        """Append the instances of an image."""
        table = measures(found)
        if self._columns is None:
            self._columns = list(table)
            self._writer.writerow(self._columns)
        self._writer.writerows(zip(*([_cell(value) for value in table[name].tolist()] for name in table), strict=True))


def csv_bytes(found: ImageResults) -> bytes:
    """Return the measurements of one image as CSV, UTF-8."""
    stream = io.StringIO()
    CsvTable(stream).add(found)
    return stream.getvalue().encode()


class ParquetTable:
    """A Parquet file that grows by the rows of several images. Raises PpsoloError without pyarrow."""

    ROWS_AT_ONCE = 50_000

    def __init__(self, stream: Any):
        self._pyarrow, self._parquet = _pyarrow()
        self._stream = stream
        self._writer: Any = None
        self._held: list[dict[str, np.ndarray]] = []
        self._rows = 0

    def add(self, found: ImageResults) -> None:
        """Append the instances of an image."""
        self._held.append(measures(found))
        self._rows += len(found.rles)
        if self._rows >= self.ROWS_AT_ONCE:
            self._write()

    def close(self) -> None:
        """Write the remaining rows and the end of the file. Without images, the file has no columns and stays empty."""
        self._write()
        if self._writer is None:
            self._writer = self._parquet.ParquetWriter(self._stream, self._pyarrow.schema([]))
        self._writer.close()

    def _write(self) -> None:
        if not self._held:
            return
        columns = {name: np.concatenate([table[name] for table in self._held]) for name in self._held[0]}
        arrays = {name: self._array(name, values) for name, values in columns.items()}
        table = self._pyarrow.table(arrays)
        if self._writer is None:
            self._writer = self._parquet.ParquetWriter(self._stream, table.schema)
        self._writer.write_table(table)
        self._held, self._rows = [], 0

    def _array(self, name: str, values: np.ndarray) -> Any:
        if values.dtype.kind in "OU":
            return self._pyarrow.array([str(value) for value in values], self._pyarrow.string())
        return self._pyarrow.array(values)


def parquet_bytes(found: ImageResults) -> bytes:
    """Return the measurements of one image as Parquet."""
    stream = io.BytesIO()
    table = ParquetTable(stream)
    table.add(found)
    table.close()
    return stream.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.10g}"
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return value


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:  # not installed, or incompatible with this numpy
        raise PpsoloError(f"Parquet needs {needed_package(error, 'pyarrow', 'formats')}") from None
    return pyarrow, pyarrow.parquet
