"""The output formats by name, with their requirements."""

import importlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ppsolo.errors import ConfigError
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
        suffix: of its file name.
        media_type: for HTTP.
        package: the required package, "" for none.
    """

    encode: Callable[[ImageResults], bytes]
    suffix: str
    media_type: str
    package: str = ""


FORMATS: dict[str, Format] = {
    "coco": Format(coco_json, ".json", "application/json"),
    "labelme": Format(labelme_json, ".json", "application/json"),
    "yolo": Format(yolo_bytes, ".txt", "text/plain; charset=utf-8"),
    "label_map": Format(label_map_png, ".png", "image/png"),
    "masks": Format(masks_zip, ".zip", "application/zip"),
    "geojson": Format(geojson_bytes, ".geojson", "application/geo+json"),
    "imagej": Format(imagej_zip, ".zip", "application/zip", "roifile"),
    "csv": Format(csv_bytes, ".csv", "text/csv; charset=utf-8"),
    "parquet": Format(parquet_bytes, ".parquet", "application/vnd.apache.parquet", "pyarrow"),
}


def checked_formats(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names, each once. Raises ConfigError for a name not in FORMATS, or if its package is missing."""
    for name in names:
        if name not in FORMATS:
            raise ConfigError(f"there is no format {name!r}: choose among {', '.join(FORMATS)}")
        if FORMATS[name].package:
            _check_package(name, FORMATS[name].package)
    return tuple(dict.fromkeys(names))


def _check_package(name: str, package: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError:  # not installed, or incompatible with this numpy
        raise ConfigError(f"{name} needs the package {package}: pip install 'ppsolo[formats]'") from None
