"""Answers of the service: instances as JSON, as a picture, or as a file of another tool."""

import json

import cv2
import numpy as np

from ppsolo.results.files.catalogue import FORMATS
from ppsolo.results.instances import Instances

WITH_PIXELS = ("csv", "parquet")  # formats that measure the picture's pixels


def json_answer(
    instances: Instances, *, image_id: int, score_threshold: float, polygons: bool, seconds: float
) -> bytes:
    """Return a JSON object: image size, seconds taken, and the instances with at least `score_threshold`.

    Each instance is an entry of COCO results plus `category_name`. With `polygons`, its segmentation is a list of rings
    [x, y, x, y, ...] instead of a compressed RLE.
    """
    shown = instances.above(score_threshold)
    entries = shown.to_coco(image_id)
    outlines = shown.polygons() if polygons else [entry["segmentation"] for entry in entries]
    content = {
        "image": {"height": instances.size[0], "width": instances.size[1]},
        "seconds": round(seconds, 4),
        "instances": [
            {**entry, "category_name": name, "segmentation": outline}
            for entry, name, outline in zip(entries, shown.names, outlines, strict=True)
        ],
    }
    return json.dumps(content).encode()


def picture_answer(image: np.ndarray, instances: Instances, *, score_threshold: float) -> bytes:
    """Return a PNG file: the picture, uint8 RGB [H, W, 3], with the instances that score at least `score_threshold`."""
    drawn = instances.draw(image, score_threshold=score_threshold)
    return cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))[1].tobytes()


def file_answer(
    instances: Instances,
    format: str,
    *,
    image: np.ndarray | None,
    score_threshold: float,
    image_id: int,
    image_name: str,
    pixel_size: float | None,
) -> bytes:
    """Return the instances that score at least `score_threshold`, in a format of the catalogue.

    image: the picture, needed for the formats in WITH_PIXELS. Other arguments: see `Instances.to_bytes`.
    """
    shown = instances.above(score_threshold)
    return shown.to_bytes(format, image=image, image_id=image_id, image_name=image_name, pixel_size=pixel_size)


def media_type(form: str) -> str:
    """Return the media type of an answer form."""
    if form in FORMATS:
        return FORMATS[form].media_type
    return "image/png" if form == "png" else "application/json"
