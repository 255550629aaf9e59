"""Answers in the formats of other tools, over HTTP."""

import csv
import io

import pytest
from servers import picture, png

from ppsolo.results.files.catalogue import FORMATS
from ppsolo.results.files.names import FORMAT_NAMES
from ppsolo.serve.application import FORMS

IMAGE = picture(3)


def post(server, query: str):
    return server.client.post(f"/predict{query}", content=png(IMAGE), headers={"Content-Type": "image/png"})


@pytest.mark.parametrize("form", FORMAT_NAMES)
def test_every_format_is_that_of_the_instances(server, predictor, form):
    if FORMATS[form].package:
        pytest.importorskip(FORMATS[form].package)
    query = f"?format={form}&score_threshold=0.3&image_id=7&image_name=a.png&pixel_size=0.5"
    response = post(server, query)
    assert response.status_code == 200
    assert response.headers["content-type"] == FORMATS[form].media_type
    expected = (
        predictor.instances(IMAGE)
        .above(0.3)
        .to_bytes(form, image=IMAGE, image_id=7, image_name="a.png", pixel_size=0.5)
    )
    if FORMATS[form].suffix == ".zip":  # holds the time
        assert len(response.content) == len(expected) > 100
    else:
        assert response.content == expected


def test_tables_measure_the_picture(server):
    response = post(server, "?format=csv&pixel_size=2")
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert rows and all(row["pixel_size_um"] == "2" for row in rows)
    assert any(row["mean_intensity"] for row in rows)
    assert all(row["mean_intensity"] for row in rows if row["area_px"] != "0")


def test_a_missing_package_is_named(server, monkeypatch):
    monkeypatch.setitem(FORMATS, "csv", FORMATS["csv"]._replace(package="no_such_package"))
    response = post(server, "?format=csv")
    assert response.status_code == 422 and "no_such_package" in response.json()["error"]


def test_the_forms_are_described():
    assert set(FORMS) == {"json", "polygons", "png", *FORMATS}


def test_numbers_of_pictures_have_at_most_64_bits(server):
    assert post(server, f"?format=csv&image_id={-(2**63)}").status_code == 200
    response = post(server, f"?format=csv&image_id={2**63}")
    assert response.status_code == 422 and "image_id" in response.json()["error"]


@pytest.mark.parametrize("value", ["0", "-1", "1e308", "inf", "nan", "x"])
def test_wrong_pixel_sizes_are_refused(server, value):
    response = post(server, f"?format=csv&pixel_size={value}")
    assert response.status_code == 422 and "pixel_size" in response.json()["error"]
