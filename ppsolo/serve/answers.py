"""What the service says: instances as JSON, with run lengths or polygons, or as a picture."""

import json

import cv2
import numpy as np

from ppsolo.results.instances import Instances


def json_answer(
    instances: Instances, *, image_id: int, score_threshold: float, polygons: bool, seconds: float
) -> bytes:
    """A JSON object: the image's size, the seconds taken, and the instances of at least `score_threshold`.

    Each instance is an entry of COCO results with `category_name` beside; with `polygons`, its segmentation is a list
    of rings [x, y, x, y, ...] in place of a compressed RLE.
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
    """A PNG file: the picture, uint8 RGB [H, W, 3], with the instances of at least `score_threshold`."""
    drawn = instances.draw(image, score_threshold=score_threshold)
    return cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))[1].tobytes()
