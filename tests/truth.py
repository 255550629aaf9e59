"""Real and drawn instances with holes and parts, and their comparison with what a reader returns."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from blobs import noise
from pycocotools import mask as pycocotools_mask

from ppsolo.data.images import write_image
from ppsolo.formats.annotated import AnnotatedSet
from ppsolo.results.instances import Instances
from ppsolo.results.rle import Rle, decode_window, encode_mask, mask_areas, mask_boxes, read_segmentation

coco_mask: Any = pycocotools_mask


class Pictured(NamedTuple):
    """The instances of one picture file."""

    path: Path
    instances: Instances


def coco_truth(annotations: Path, pictures: Path, number: int | None = None) -> list[Pictured]:
    """The pictures of a COCO file that have instances, crowds left out."""
    content = json.loads(annotations.read_text())
    ids = [category["id"] for category in content["categories"]]
    names = [category["name"] for category in content["categories"]]
    truth = []
    for image in content["images"]:
        size = (image["height"], image["width"])
        own = [one for one in content["annotations"] if one["image_id"] == image["id"] and not one["iscrowd"]]
        if own:
            instances = Instances(
                rles=[read_segmentation(one["segmentation"], size) for one in own],
                scores=np.linspace(1.0, 0.5, len(own)),
                labels=np.array([ids.index(one["category_id"]) for one in own]),
                size=size,
                class_names=names,
                category_ids=ids,
            )
            truth.append(Pictured(pictures / image["file_name"], instances))
    return truth[:number]


def made_truth(folder: Path, number: int = 4) -> list[Pictured]:
    """Pictures of blobs with holes and parts that do not overlap, of two classes."""
    truth = []
    for seed in range(number):
        values = noise(3, (60, 80), seed=seed, spread=3.0)
        masks = (values > 0.55) & (values == values.max(axis=0))
        path = folder / f"blobs {seed}.png"
        write_image(path, (255 * values.transpose(1, 2, 0)).astype(np.uint8))
        instances = Instances.from_masks(
            masks,
            scores=np.array([0.9, 0.8, 0.7]),
            labels=np.array([0, 1, seed % 2]),
            class_names=["cell", "Würstchen"],
            category_ids=[1, 2],
        )
        truth.append(Pictured(path, instances))
    return truth


class Comparison(NamedTuple):
    """counts: objects in the truth, and objects read. parts, holes: in the truth. worst: least IoU of an object."""

    counts: tuple[int, int]
    parts: int
    holes: int
    worst: float
    classes_kept: bool


def compare(truth: Sequence[Pictured], read: AnnotatedSet, *, visible: bool = False) -> Comparison:
    """Compare each object of the truth with the most similar object that was read.

    visible: where masks overlap, only the pixels that a label map shows count; classes are not compared.
    """
    images = {image.path.name: image for image in read.images}
    worst, kept, expected, found, parts, holes = 1.0, True, 0, 0, 0, 0
    for path, instances in truth:
        image = images[path.name]
        rles = _visible(instances) if visible else [rle for rle in instances.rles if mask_areas([rle])[0]]
        names = [name for name, area in zip(instances.names, instances.areas, strict=True) if area]
        others = [read_segmentation(one.segmentation, image.size) for one in image.objects]
        expected, found = expected + len(rles), found + len(others)
        overlaps = coco_mask.iou(others, rles, [0] * len(rles))  # [others, rles]
        worst = min(worst, float(overlaps.max(axis=0).min()))
        best = [image.objects[i].name for i in overlaps.argmax(axis=0)]
        kept = kept and (visible or best == names)
        for rle in rles:
            x1, y1, x2, y2 = mask_boxes([rle])[0].astype(int).tolist()
            some_parts, some_holes = structure(np.ascontiguousarray(decode_window(rle, (x1, y1, x2, y2))))
            parts, holes = parts + some_parts, holes + some_holes
    return Comparison((expected, found), parts, holes, worst, kept)


def structure(mask: np.ndarray) -> tuple[int, int]:
    """The 8-connected parts of a mask and its holes."""
    parts = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)[0] - 1
    holes = cv2.connectedComponents(np.pad(~mask, 1, constant_values=True).view(np.uint8), connectivity=4)[0] - 2
    return parts, holes


def _visible(instances: Instances) -> list[Rle]:
    labels = instances.to_label_map()
    return [encode_mask(labels == value) for value in np.unique(labels) if value]
