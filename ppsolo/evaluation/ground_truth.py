"""COCO annotation files and result lists read for evaluation; a broken entry is refused by its name."""

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from ppsolo.errors import DatasetError
from ppsolo.results.instances import Instances
from ppsolo.results.rle import Rle, mask_areas, mask_boxes_xywh, read_segmentation


def load_json(path: str | Path) -> Any:
    """Read a JSON file; raises DatasetError naming `path` if it is missing or is not JSON."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not a JSON file: {error}") from error


class GroundTruth:
    """The annotations of a COCO file as columns, one row each in file order; masks are read when needed.

    source: the path of the file, or "annotations" for a mapping.
    image_ids, category_ids, category_names: sorted by id; below, an image or category is its index in these.
    image, category: int32 [M]. crowd: bool [M]. area: float64 [M] in pixels.
    annotated: bool [N], the images with at least one annotation that is not a crowd.

    An annotation without `iscrowd` is no crowd. One without `area` has its mask's, or its box's if it has no
    mask. One without `bbox` has its mask's. As in pycocotools, the key `ignore` means nothing.
    """

    def __init__(self, annotations: str | Path | Mapping[str, Any], *, image_ids: Sequence[Any] | None = None) -> None:
        """Read a path or a loaded file; `image_ids` keeps only these images (default: all).

        Raises DatasetError if the file is not COCO, an id is missing, unknown or given twice, or a field is
        broken.
        """
        self.source = "annotations" if isinstance(annotations, Mapping) else str(annotations)
        content = annotations if isinstance(annotations, Mapping) else load_json(annotations)
        images = self._records(content, "images")
        categories = self._records(content, "categories")
        self._known = set(images)
        if image_ids is not None:
            if missing := [image_id for image_id in image_ids if image_id not in images]:
                raise DatasetError(f"{self.source}: there is no image {missing[0]!r}")
            images = {image_id: images[image_id] for image_id in image_ids}
        self.image_ids = self._sorted(images, "images")
        self.category_ids = self._sorted(categories, "categories")
        self.category_names = tuple(str(categories[key].get("name", key)) for key in self.category_ids)
        self._images = [images[image_id] for image_id in self.image_ids]
        self._image_index = {image_id: index for index, image_id in enumerate(self.image_ids)}
        self._category_index = {key: index for index, key in enumerate(self.category_ids)}
        self._read_annotations(self._records(content, "annotations"))

    def image_index(self, image_id: object) -> int | None:
        """Index of an image, None if `image_ids` left it out; raises KeyError if the file has none such."""
        if not isinstance(image_id, Hashable) or image_id not in self._known:
            raise KeyError(image_id)
        return self._image_index.get(image_id)

    def category_index(self, category_id: object) -> int:
        """Index of a category; raises KeyError if the file has no such category."""
        if not isinstance(category_id, Hashable):
            raise KeyError(category_id)
        return self._category_index[category_id]

    def size(self, image: int) -> tuple[int, int]:
        """(height, width) of an image in pixels; raises DatasetError if the file does not state it."""
        record = self._images[image]
        height, width = record.get("height"), record.get("width")
        if not isinstance(height, int) or not isinstance(width, int) or height < 1 or width < 1:
            raise DatasetError(f"{self.source}: image {record['id']!r} has no height and width")
        return height, width

    def rows(self, image: int) -> np.ndarray:
        """Rows of an image's annotations, int64, in file order."""
        return np.array(self._rows[image], np.int64)

    def masks(self, rows: np.ndarray) -> list[Rle]:
        """Masks of annotations; raises DatasetError naming the annotation whose mask is missing or broken."""
        return [self._mask(row) for row in rows]

    def boxes(self, rows: np.ndarray) -> np.ndarray:
        """Boxes of annotations, float64 [n, 4]: left, top, width, height in pixels."""
        return np.array([self._box(row) for row in rows], np.float64).reshape(-1, 4)

    def _records(self, content: Any, key: str) -> dict[Any, Mapping[str, Any]]:
        """One of the file's three lists, by id."""
        if not isinstance(content, Mapping) or not isinstance(content.get(key), list):
            raise DatasetError(f"{self.source} is not a COCO annotation file: it has no list '{key}'")
        records: dict[Any, Mapping[str, Any]] = {}
        for index, record in enumerate(content[key]):
            if not isinstance(record, Mapping) or not isinstance(record.get("id"), (Integral, str)):
                raise DatasetError(f"{self.source}: entry {index} of '{key}' has no id")
            if record["id"] in records:
                raise DatasetError(f"{self.source}: the id {record['id']!r} occurs twice in '{key}'")
            records[record["id"]] = record
        return records

    def _sorted(self, records: Mapping[Any, object], key: str) -> tuple[Any, ...]:
        try:
            return tuple(sorted(records))
        except TypeError as error:
            raise DatasetError(f"{self.source}: the ids of '{key}' mix numbers and strings") from error

    def _read_annotations(self, annotations: Mapping[Any, Mapping[str, Any]]) -> None:
        self._annotations: list[Mapping[str, Any]] = []
        self._rows: list[list[int]] = [[] for _ in self.image_ids]
        image, category, crowd = [], [], []
        for key, annotation in annotations.items():
            try:
                index = self.image_index(annotation.get("image_id"))
                kind = self.category_index(annotation.get("category_id"))
            except KeyError as error:
                raise self._broken(key, f"there is no image or category {error}") from None
            if index is None:
                continue
            if annotation.get("iscrowd", 0) not in (0, 1):
                raise self._broken(key, "'iscrowd' is neither 0 nor 1")
            self._rows[index].append(len(self._annotations))
            self._annotations.append(annotation)
            image.append(index)
            category.append(kind)
            crowd.append(bool(annotation.get("iscrowd", 0)))
        self.image = np.array(image, np.int32)
        self.category = np.array(category, np.int32)
        self.crowd = np.array(crowd, bool)
        self.area = np.array([self._area(row) for row in range(len(self._annotations))], np.float64)
        self.annotated = np.zeros(len(self.image_ids), bool)
        self.annotated[self.image[~self.crowd]] = True

    def _area(self, row: int) -> float:
        annotation = self._annotations[row]
        area = annotation.get("area")
        if area is not None:
            if not _is_number(area) or area < 0:
                raise self._broken(annotation["id"], "'area' is not a number from 0")
            return float(area)
        if annotation.get("segmentation"):
            return float(mask_areas([self._mask(row)])[0])
        box = self._box(row)
        return box[2] * box[3]

    def _box(self, row: int) -> list[float]:
        annotation = self._annotations[row]
        if not annotation.get("bbox"):
            return mask_boxes_xywh([self._mask(row)])[0].tolist()
        if not _is_box(annotation["bbox"]):
            raise self._broken(annotation["id"], "'bbox' is not left, top, width, height")
        return [float(value) for value in annotation["bbox"]]

    def _mask(self, row: int) -> Rle:
        annotation = self._annotations[row]
        if "segmentation" not in annotation:
            raise self._broken(annotation["id"], "it has no 'segmentation'")
        try:
            return read_segmentation(annotation["segmentation"], self.size(self.image[row]))
        except ValueError as error:
            raise self._broken(annotation["id"], str(error)) from error

    def _broken(self, annotation_id: object, reason: str) -> DatasetError:
        return DatasetError(f"{self.source}: annotation {annotation_id!r}: {reason}")


@dataclass(frozen=True)
class ImageResults:
    """The results of one image, in the order given.

    image: index of the image. category: int32 [D]. score: float64 [D].
    masks: D, or None if not every entry has one. boxes: float64 [D, 4] left, top, width, height in pixels.
    area: float64 [D] in pixels, by which a detection counts as small, medium or large.
    """

    image: int
    category: np.ndarray
    score: np.ndarray
    masks: list[Rle] | None
    boxes: np.ndarray
    area: np.ndarray


def read_detections(
    entries: Sequence[tuple[int, Mapping[str, Any]]],
    *,
    image: int,
    truth: GroundTruth,
    box_from_mask: bool,
    needs_masks: bool,
) -> ImageResults:
    """Read one image's COCO result entries, each with its index in the list that it came from.

    As pycocotools' `loadRes` has it, the box of an entry is its `bbox`, and its area that of the `bbox`;
    without one, both are its mask's. With `box_from_mask`, an entry's `bbox` counts only if it has no mask.

    Raises DatasetError naming index and image if a category is unknown, the score is no number, the mask or
    box is missing or broken, or the mask has another size than the image.
    """
    category, score, masks, boxes, area = [], [], [], [], []
    for index, entry in entries:
        try:
            category.append(_category(entry, truth))
            score.append(_score(entry))
            mask = _result_mask(entry, image, truth)
            if mask is None and needs_masks:
                raise ValueError("it has no 'segmentation'")
            box, size = _box_and_area(entry, mask, box_from_mask)
        except ValueError as error:
            raise DatasetError(f"result {index} (image {truth.image_ids[image]!r}): {error}") from error
        if mask is not None:
            masks.append(mask)
        boxes.append(box)
        area.append(size)
    return ImageResults(
        image=image,
        category=np.array(category, np.int32),
        score=np.array(score, np.float64),
        masks=masks if len(masks) == len(boxes) else None,
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        area=np.array(area, np.float64),
    )


def detections_of(instances: Instances, *, image: int, truth: GroundTruth) -> ImageResults:
    """What a predictor found in an image; boxes and areas are those of the masks.

    Raises DatasetError if the size is not the image's, or a category is unknown.
    """
    name = repr(truth.image_ids[image])
    if len(instances) > 0 and instances.size != truth.size(image):
        raise DatasetError(
            f"{truth.source}: image {name} has the size (height, width) {instances.size}, not {truth.size(image)} "
            "as stated"
        )
    try:
        categories = [truth.category_index(instances.category_ids[label]) for label in instances.labels]
    except KeyError as error:
        raise DatasetError(f"image {name}: {truth.source} has no category {error}") from None
    return ImageResults(
        image=image,
        category=np.array(categories, np.int32),
        score=instances.scores.astype(np.float64),
        masks=list(instances.rles),
        boxes=mask_boxes_xywh(instances.rles),
        area=instances.areas.astype(np.float64),
    )


def _category(entry: Mapping[str, Any], truth: GroundTruth) -> int:
    try:
        return truth.category_index(entry.get("category_id"))
    except KeyError:
        raise ValueError(f"{truth.source} has no category {entry.get('category_id')!r}") from None


def _score(entry: Mapping[str, Any]) -> float:
    if not _is_number(entry.get("score")):
        raise ValueError("it has no finite 'score'")
    return float(entry["score"])


def _result_mask(entry: Mapping[str, Any], image: int, truth: GroundTruth) -> Rle | None:
    segmentation = entry.get("segmentation")
    return None if segmentation is None else read_segmentation(segmentation, truth.size(image))


def _box_and_area(
    entry: Mapping[str, Any], mask: Rle | None, box_from_mask: bool
) -> tuple[Sequence[float] | np.ndarray, float]:
    box = entry.get("bbox")
    missing = box is None or (isinstance(box, list) and not box)  # either is a way of saying that there is none
    if not missing and (mask is None or not box_from_mask):
        if not _is_box(box):
            raise ValueError("its 'bbox' is not left, top, width, height")
        left, top, width, height = (float(value) for value in box)
        return [left, top, width, height], width * height
    if mask is None:
        raise ValueError("it has neither 'segmentation' nor 'bbox'")
    return mask_boxes_xywh([mask])[0], float(mask_areas([mask])[0])


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def _is_box(box: Any) -> TypeGuard[Sequence[float]]:
    return (
        isinstance(box, (Sequence, np.ndarray))
        and len(box) == 4
        and all(_is_number(value) for value in box)
        and box[2] >= 0
        and box[3] >= 0
    )
