"""GeoJSON: valid shapes that cover exactly the masks, as shapely and geojson read them."""

import json

import numpy as np
import pytest
from blobs import noise
from found import three

from ppsolo.results.instances import Instances


def test_features_as_qupath_writes_them():
    document = three().to_geojson()
    assert document["type"] == "FeatureCollection"
    square, parts = document["features"]  # the empty mask is left out
    assert square["geometry"]["type"] == "Polygon" and parts["geometry"]["type"] == "MultiPolygon"
    assert square["geometry"]["coordinates"][0][0] == square["geometry"]["coordinates"][0][-1]
    properties = parts["properties"]
    assert properties["objectType"] == "detection" and properties["measurements"] == {"score": 0.5}
    assert properties["classification"]["name"] == "Würstchen" and len(properties["classification"]["color"]) == 3
    assert square["id"] != parts["id"]


def test_geojson_and_shapely_read_it():
    geojson, shapely = pytest.importorskip("geojson"), pytest.importorskip("shapely")
    masks = noise(6, (50, 60), seed=4, spread=2.0) > 0.5
    instances = Instances.from_masks(
        masks, scores=np.ones(6), labels=np.zeros(6, int), class_names=["cell"], category_ids=[1]
    )
    data = instances.to_bytes("geojson").decode()
    collection = geojson.loads(data)
    assert collection.is_valid and len(collection.features) == 6
    holes = 0
    for feature, mask in zip(json.loads(data)["features"], masks, strict=True):
        shape = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert shape.is_valid and shape.area == mask.sum()
        rows, columns = np.nonzero(mask)
        assert shapely.contains_xy(shape, columns + 0.5, rows + 0.5).all()
        holes += sum(len(part.interiors) for part in shape.geoms)
    assert holes > 0
