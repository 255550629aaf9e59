"""Mosaics: the pictures of a COCO data set side by side as one large picture, with their annotations."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ppsolo.data.images import read_image
from ppsolo.evaluation.coco_evaluator import CocoEvaluator
from ppsolo.results.instances import Instances
from ppsolo.results.rle import read_segmentation
from ppsolo.results.runs import from_rle, move, to_rle

IMAGE_ID = 1


class Mosaic(NamedTuple):
    """One large picture.

    image: uint8 [H, W, 3] RGB. content: its annotations, as the content of a COCO file. cell: (height, width) of the
    place of each picture.
    """

    image: np.ndarray
    content: dict[str, Any]
    cell: tuple[int, int]

    def average_precision(self, instances: Instances) -> float:
        """Mask AP of the instances found in it, from 0 to 1. All of them count, not only COCO's best 100 of a class."""
        evaluator = CocoEvaluator(self.content, iou_types=("segm",), max_detections=max(len(instances), 1))
        evaluator.add(IMAGE_ID, instances)
        return float(evaluator.summarize()["segm"]["stats"][0])


def make_mosaic(annotations: Path, image_dir: Path, *, columns: int, rows: int, ignore_cut: bool = False) -> Mosaic:
    """The pictures of a COCO file in a grid; every cell has the size of the largest, filled up with black.

    Where there are fewer pictures than cells, they come again. ignore_cut: an object that the edge of its own picture
    cuts does not count (`iscrowd`). In the mosaic it may meet a part of another object, and both look like one.
    """
    content = json.loads(annotations.read_text(encoding="utf-8"))
    entries = content["images"][: columns * rows]
    height, width = (max(entry[side] for entry in entries) for side in ("height", "width"))
    image = np.zeros((rows * height, columns * width, 3), np.uint8)
    moved: list[dict[str, Any]] = []
    for number in range(rows * columns):
        entry = entries[number % len(entries)]
        top, left = (number // columns) * height, (number % columns) * width
        image[top : top + entry["height"], left : left + entry["width"]] = read_image(image_dir / entry["file_name"])
        size = (entry["height"], entry["width"])
        for annotation in content["annotations"]:
            if annotation["image_id"] != entry["id"]:
                continue
            runs = from_rle(read_segmentation(annotation["segmentation"], size))
            rle = to_rle(move(runs, height=size[0], to_height=len(image), top=top, left=left), image.shape[:2])
            x, y, w, h = annotation["bbox"]
            is_cut = min(x, y) < 1 or x + w > size[1] - 1 or y + h > size[0] - 1
            moved.append(
                {
                    **annotation,
                    "id": len(moved) + 1,
                    "image_id": IMAGE_ID,
                    "iscrowd": int((ignore_cut and is_cut) or annotation.get("iscrowd", 0)),
                    "segmentation": {"size": list(image.shape[:2]), "counts": rle["counts"].decode("ascii")},
                    "bbox": [x + left, y + top, w, h],
                }
            )
    one = {"id": IMAGE_ID, "file_name": "mosaic.png", "height": image.shape[0], "width": image.shape[1]}
    content = {"images": [one], "annotations": moved, "categories": content["categories"]}
    return Mosaic(image, content, (height, width))
