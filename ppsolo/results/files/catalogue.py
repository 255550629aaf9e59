"""The formats that instances are written in, by name."""

from collections.abc import Callable
from typing import NamedTuple

from ppsolo.results.files.coco import coco_json
from ppsolo.results.files.geojson import geojson_bytes
from ppsolo.results.files.image_results import ImageResults
from ppsolo.results.files.imagej import imagej_zip
from ppsolo.results.files.label_map import label_map_png, masks_zip
from ppsolo.results.files.labelme import labelme_json
from ppsolo.results.files.tables import csv_bytes, parquet_bytes
from ppsolo.results.files.yolo import yolo_bytes


class Format(NamedTuple):
    """One format.

    Attributes:
        encode: the instances of one image -> the content of a file.
        suffix: of such a file.
        media_type: of such a file over HTTP.
        meaning: one line for help texts.
    """

    encode: Callable[[ImageResults], bytes]
    suffix: str
    media_type: str
    meaning: str


FORMATS: dict[str, Format] = {
    "coco": Format(coco_json, ".json", "application/json", "COCO results with compressed run lengths"),
    "labelme": Format(labelme_json, ".json", "application/json", "polygons for labelme"),
    "yolo": Format(yolo_bytes, ".txt", "text/plain; charset=utf-8", "YOLO segmentation labels"),
    "label_map": Format(label_map_png, ".png", "image/png", "a PNG of 8 or 16 bits, one value per instance"),
    "masks": Format(masks_zip, ".zip", "application/zip", "one PNG per instance"),
    "geojson": Format(geojson_bytes, ".geojson", "application/geo+json", "polygons with holes for QuPath"),
    "imagej": Format(imagej_zip, ".zip", "application/zip", "ROIs for ImageJ's ROI Manager"),
    "csv": Format(csv_bytes, ".csv", "text/csv; charset=utf-8", "measures of each instance"),
    "parquet": Format(
        parquet_bytes, ".parquet", "application/vnd.apache.parquet", "measures of each instance, for many"
    ),
}
