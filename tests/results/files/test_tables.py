"""CSV and Parquet, read by the csv module and pyarrow."""

import csv
import io

import numpy as np
import pytest
from found import three

from ppsolo.results.files.measures import COLUMNS
from ppsolo.results.files.tables import CsvTable, ParquetTable
from ppsolo.results.instances import Instances


def test_csv():
    rows = list(csv.DictReader(io.StringIO(three().to_bytes("csv", pixel_size=0.5).decode())))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 3
    assert rows[0]["area_px"] == "18" and rows[0]["area_um2"] == "4.5" and rows[0]["score"] == "0.9"
    assert rows[0]["mean_intensity"] == "" and rows[1]["category"] == "Würstchen"
    assert three()[:0].to_bytes("csv").decode().strip() == ",".join(COLUMNS)


def test_csv_of_several_images_has_one_header():
    stream = io.StringIO()
    table = CsvTable(stream)
    for name in ("a.png", "b,c.png"):
        table.add(three().results(image_name=name))
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert [row["file_name"] for row in rows] == ["a.png"] * 3 + ["b,c.png"] * 3


def test_no_cell_is_a_formula():
    instances = Instances.from_masks(
        np.ones((1, 2, 2), bool), scores=np.ones(1), labels=np.zeros(1, int), class_names=["=1+1"], category_ids=[1]
    )
    assert "'=1+1" in instances.to_bytes("csv").decode()


def test_parquet_of_many(monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(ParquetTable, "ROWS_AT_ONCE", 4)
    stream = io.BytesIO()
    table = ParquetTable(stream)
    for number in range(5):
        table.add(three().results(image_id=number, image_name=f"{number}.png"))
    table.close()
    read = parquet.read_table(io.BytesIO(stream.getvalue()))
    assert tuple(read.column_names) == COLUMNS and read.num_rows == 15
    assert read["image_id"].to_pylist() == [number for number in range(5) for _ in range(3)]
    assert read["category"].to_pylist()[:3] == ["person", "Würstchen", "person"]
    assert parquet.ParquetFile(io.BytesIO(stream.getvalue())).num_row_groups == 3


def test_parquet_without_an_image():
    parquet = pytest.importorskip("pyarrow.parquet")
    stream = io.BytesIO()
    ParquetTable(stream).close()
    assert parquet.read_table(io.BytesIO(stream.getvalue())).num_rows == 0
