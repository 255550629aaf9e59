"""Instance annotations in COCO's format: read, checked, and turned into training samples."""

import json
import logging
import math
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppsolo.data.augment import BoxConvention, TrainingSample
from ppsolo.data.images import ImageReader, read_image
from ppsolo.errors import DatasetError, ImageError
from ppsolo.results import rle
from ppsolo.text import one_line

logger = logging.getLogger(__name__)

# Polygons, each float64 [2 * points] as x, y, x, y, ...; or compressed run lengths.
Outline = tuple[np.ndarray, ...] | rle.Rle

MIN_BOX_SIDE = 1e-5


@dataclass(frozen=True)
class ImageRecord:
    """One image of an annotation file: n instances to train on, and the regions that only evaluation knows.

    Attributes:
        image_id: as in the file.
        path: the image file.
        size: (height, width) according to the annotation file.
        boxes: float32 [n, 4], xyxy in pixels, in the data set's box convention.
        labels: int64 [n], the category's position in the file.
        outlines: n outlines; `decode_mask` draws one.
        annotation_ids: n ids, as in the file.
        crowds: the outlines of the annotations marked `iscrowd` or `ignore`.
    """

    image_id: int
    path: Path
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    outlines: tuple[Outline, ...]
    annotation_ids: tuple[int, ...]
    crowds: tuple[Outline, ...]


class CocoDataset:
    """The images of an annotation file as `ImageRecord`s, by ascending id; no pixel is read yet.

    box_convention: "exclusive": x2 = x + width, rounded to 3 digits (2.x); "inclusive": x2 = x + width - 1, cut
        to 0 .. image width - 1 (0.5).
    keep_empty: keep the images without an instance to train on.

    Annotations whose area or box is not above zero are left out with a warning. A missing `iscrowd` counts as 0,
    a missing `area` as above zero; a missing `bbox` is taken from the outline.

    category_ids, class_names: one per label, in the order of the file.

    Raises DatasetError, naming the annotation or the image: unreadable file, unknown category, outline that
    is missing, broken or not finite, image file that does not exist, nothing left.
    """

    def __init__(
        self,
        annotations_path: str | os.PathLike,
        image_dir: str | os.PathLike,
        *,
        box_convention: BoxConvention = "exclusive",
        keep_empty: bool = False,
    ):
        content = _read_annotations(Path(annotations_path))
        self.category_ids: tuple[int, ...] = tuple(entry["id"] for entry in content["categories"])
        self.class_names = tuple(one_line(str(entry.get("name", entry["id"]))) for entry in content["categories"])
        labels = {category_id: label for label, category_id in enumerate(self.category_ids)}
        records, left_out = [], []
        for image, annotations in _by_image(content):
            try:
                record, ignored = _record(image, annotations, Path(image_dir), labels, box_convention)
            except DatasetError as error:
                raise DatasetError(f"{annotations_path}: {error}") from None
            left_out += ignored
            if keep_empty or record.annotation_ids:
                records.append(record)
        if left_out:
            shown = ", ".join(map(str, left_out[:10])) + (", ..." if len(left_out) > 10 else "")
            logger.warning("%s: left out for an area or box of zero: annotations %s", annotations_path, shown)
        if not records:
            raise DatasetError(f"{annotations_path}: no image has an instance to train on; annotate some")
        self._records: list[ImageRecord] = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> ImageRecord:
        return self._records[index]


def load_sample(record: ImageRecord, read: ImageReader | None = None) -> TrainingSample:
    """Read the image, by `read_image` or what is given, and draw the masks at its size.

    Raises ImageError for an unreadable image, DatasetError for one of another size than its annotations.
    """
    try:
        image = (read or read_image)(record.path)
    except ImageError as error:
        raise ImageError(
            f"image {record.image_id}: {error}; replace the file, or remove the image from the annotations"
        ) from None
    size = (image.shape[0], image.shape[1])
    if size != record.size:
        raise DatasetError(
            f"image {record.image_id}: {record.path} is {size[0]} x {size[1]} (height x width), its annotations are "
            f"for {record.size[0]} x {record.size[1]}; correct the annotation file or the image's rotation"
        )
    return TrainingSample(
        image=image,
        boxes=record.boxes,
        labels=record.labels,
        masks=rle.decode_masks([_run_lengths(outline, size) for outline in record.outlines], size),
        image_id=record.image_id,
        original_size=size,
    )


def decode_mask(outline: Outline, size: tuple[int, int]) -> np.ndarray:
    """The pixels of an outline, as pycocotools draws them: uint8 [height, width], 0 or 1."""
    return rle.decode_masks([_run_lengths(outline, size)], size)[0]


def _run_lengths(outline: Outline, size: tuple[int, int]) -> rle.Rle:
    return rle.draw_polygons(outline, size) if isinstance(outline, tuple) else outline


def read_lists(path: Path) -> dict[str, list[Any]]:
    """The images, annotations and categories of a COCO file, their entries unchecked. Raises DatasetError."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not a JSON file ({error}); write it anew") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DatasetError(f"{path}: not in COCO's format, it has no list '{key}'")
    return content


def _read_annotations(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The lists of a COCO file, every entry with an id of its own and every annotation with an image."""
    content = read_lists(path)
    for key in ("images", "annotations", "categories"):
        entries = content[key]
        if not all(isinstance(entry, dict) for entry in entries):
            raise DatasetError(f"{path}: not in COCO's format, '{key}' is not a list of objects")
        ids = [entry.get("id") for entry in entries]
        if not all(isinstance(identity, int) for identity in ids):
            raise DatasetError(f"{path}: every entry of '{key}' needs a whole number as 'id'")
        if len(set(ids)) < len(ids):
            twice = Counter(ids).most_common(1)[0][0]
            raise DatasetError(f"{path}: '{key}' has the id {twice} twice; give every entry its own")
    known = {image["id"] for image in content["images"]}
    for annotation in content["annotations"]:
        image_id = annotation.get("image_id")
        if not isinstance(image_id, int) or image_id not in known:
            raise DatasetError(
                f"{path}: annotation {annotation['id']} is for image {image_id}, which is not among 'images'; "
                "add it there or remove the annotation"
            )
    return content


def _by_image(content: dict[str, Any]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The images by ascending id, each with its annotations in the order of the file."""
    annotations = defaultdict(list)
    for annotation in content["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    images = sorted(content["images"], key=lambda image: image["id"])
    return [(image, annotations[image["id"]]) for image in images]


def _record(
    image: dict[str, Any],
    annotations: Sequence[dict[str, Any]],
    image_dir: Path,
    labels: Mapping[int, int],
    box_convention: BoxConvention,
) -> tuple[ImageRecord, list[int]]:
    """-> the record, and the ids of the annotations that were left out."""
    path, size = _image_file(image, image_dir)
    boxes, classes, outlines, ids, crowds, left_out = [], [], [], [], [], []
    for annotation in annotations:
        where = f"annotation {annotation['id']} of image {image['id']}"
        category_id = annotation.get("category_id")
        if not isinstance(category_id, int) or category_id not in labels:
            raise DatasetError(
                f"{where}: category {category_id} is not among the file's categories; "
                "add it there or remove the annotation"
            )
        if not annotation_area(annotation, where) > 0:
            left_out.append(annotation["id"])
            continue
        outline = annotation_outline(annotation.get("segmentation"), size, where)
        if annotation.get("iscrowd") or annotation.get("ignore"):
            crowds.append(outline)
            continue
        box = annotation_box(annotation.get("bbox"), outline, size, box_convention, where)
        if box is None:
            left_out.append(annotation["id"])
            continue
        boxes.append(box)
        classes.append(labels[category_id])
        outlines.append(outline)
        ids.append(annotation["id"])
    record = ImageRecord(
        image_id=image["id"],
        path=path,
        size=size,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(classes, np.int64),
        outlines=tuple(outlines),
        annotation_ids=tuple(ids),
        crowds=tuple(crowds),
    )
    return record, left_out


def _image_file(image: dict[str, Any], image_dir: Path) -> tuple[Path, tuple[int, int]]:
    """-> (path, (height, width))"""
    name, height, width = image.get("file_name"), image.get("height"), image.get("width")
    if not (isinstance(name, str) and isinstance(height, int) and isinstance(width, int) and min(height, width) > 0):
        raise DatasetError(f"image {image['id']}: needs a 'file_name' and whole 'height' and 'width' above zero")
    path = image_dir / name
    if not os.path.isfile(path):
        raise DatasetError(f"image {image['id']}: {path} does not exist; check the image folder and 'file_name'")
    return path, (height, width)


def annotation_area(annotation: dict[str, Any], where: str) -> float:
    """The stated area; 1 where there is none. Raises DatasetError for what is no number."""
    area = annotation.get("area")
    if area is None:
        return 1.0
    if not isinstance(area, (int, float)):
        raise DatasetError(f"{where}: area {area!r} is not a number; correct or remove it")
    return area


def annotation_box(
    bbox: Any, outline: Outline, size: tuple[int, int], box_convention: BoxConvention, where: str
) -> list[float] | None:
    """[x1, y1, x2, y2], or None where nothing is left of it."""
    if bbox is None:
        bbox = _surrounding_box(outline)
    try:
        x, y, width, height = map(float, bbox)
    except (TypeError, ValueError, OverflowError):
        raise DatasetError(f"{where}: bbox {bbox!r} is not [x, y, width, height]; correct or remove it") from None
    if not all(map(math.isfinite, (x, y, width, height))):
        raise DatasetError(f"{where}: bbox {bbox!r} is not finite; correct or remove it")
    if max(map(abs, (x, y, x + width, y + height))) > rle.MAX_COORDINATE:
        raise DatasetError(f"{where}: bbox {bbox!r} is far outside the image; correct or remove it")
    if box_convention == "exclusive":
        fits = width > MIN_BOX_SIDE and height > MIN_BOX_SIDE
        return [round(value, 3) for value in (x, y, x + width, y + height)] if fits else None
    x1, y1 = max(0.0, x), max(0.0, y)
    x2 = min(size[1] - 1.0, x1 + max(0.0, width - 1))
    y2 = min(size[0] - 1.0, y1 + max(0.0, height - 1))
    return [x1, y1, x2, y2] if x2 >= x1 and y2 >= y1 else None


def _surrounding_box(outline: Outline) -> list[float]:
    """[x, y, width, height]"""
    if not isinstance(outline, tuple):
        return rle.mask_boxes_xywh([outline])[0].tolist()
    x, y = np.concatenate(outline).reshape(-1, 2).T
    return [float(value) for value in (x.min(), y.min(), np.ptp(x), np.ptp(y))]


def annotation_outline(segmentation: Any, size: tuple[int, int], where: str) -> Outline:
    """Check a `segmentation` and keep it compact."""
    if not segmentation:
        raise DatasetError(f"{where}: has no segmentation; add its outline or remove the annotation")
    try:
        if isinstance(segmentation, list):
            return rle.read_polygons(segmentation)
        return rle.read_segmentation(segmentation, size)
    except ValueError as error:
        raise DatasetError(f"{where}: {error}; draw the outline anew") from None
