"""COCO annotation files and result lists, read for evaluation; a broken entry raises an error that names it."""

import logging
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from ppsolo.data.annotations.cache import open_annotations
from ppsolo.data.annotations.reader import pack_annotations
from ppsolo.data.annotations.rules import Identity, read_identity
from ppsolo.data.annotations.table import Annotations, Outline
from ppsolo.errors import DatasetError
from ppsolo.results.instances import Instances
from ppsolo.results.rle import Rle, draw_polygons, mask_areas, mask_boxes_xywh, read_segmentation

logger = logging.getLogger(__name__)

# Faults of image files and their entries do not matter: results are evaluated without them.
_OF_IMAGES = ("image-entry", "missing-image", "nothing-to-train")


class GroundTruth:
    """The annotations of a COCO file as columns: one row each, sorted by image, in file order within an image.

    They are read by the rules of training: see `ppsolo.data.annotations`. Masks are drawn when needed.

    source: the path of the file, or "annotations" for a mapping.
    image_ids, category_ids, category_names: sorted by id. Elsewhere, images and categories are indices into these.
    image, category: int32 [M]. crowd, outlined: bool [M]. area: float64 [M] in pixels.
    annotated: bool [N], images with at least one annotation that is not a crowd.

    Missing fields get a default. No `iscrowd`: not a crowd. No `area`: that of the mask, or of the box without a mask.
    No `bbox`: that of the mask. The key `ignore` is not used, as in pycocotools.
    """

    def __init__(
        self,
        annotations: str | Path | Mapping[str, Any] | Annotations,
        *,
        image_ids: Sequence[Any] | None = None,
    ) -> None:
        """Read a path or a loaded file; `image_ids`: keep only these images (default: all).

        Raises DatasetError if the annotations are not COCO, an id is missing, unknown or given twice, or a field is
        broken.
        """
        table = _table(annotations)
        self.source = table.source
        table.refuse_errors(_OF_IMAGES)
        self.table = table
        self._known = {identity: index for index, identity in enumerate(table.image_ids)}
        self._images = np.arange(len(self._known))
        if image_ids is not None:
            if missing := [image_id for image_id in image_ids if not self.knows(image_id)]:
                raise DatasetError(f"{self.source}: there is no image {missing[0]!r}")
            self._images = np.array(sorted(self._known[image_id] for image_id in image_ids), np.int64)
        self.image_ids = table.image_ids.some(self._images)
        order = sorted(range(len(table.category_ids)), key=lambda label: _sort_key(table.category_ids[label]))
        self.category_ids = tuple(table.category_ids[label] for label in order)
        self.category_names = tuple(table.category_names[label] for label in order)
        self._image_index = {image_id: index for index, image_id in enumerate(self.image_ids)}
        self._category_index = {key: index for index, key in enumerate(self.category_ids)}
        self._select(np.argsort(order).astype(np.int32))

    def knows(self, image_id: object) -> bool:
        """Whether the file has this image, even if `image_ids` left it out."""
        return isinstance(image_id, Hashable) and not isinstance(image_id, bool) and image_id in self._known

    def file_name(self, image_id: object) -> str:
        """Return the file name that the annotations give to one of their images; "" if they give none."""
        return self.table.file_names[self._known[image_id]]  # type: ignore[index]

    def image_index(self, image_id: object) -> int | None:
        """Index of an image; None if `image_ids` left it out; raises KeyError if the file has no such image."""
        if not self.knows(image_id):
            identity = read_identity(image_id)
            if identity is None or not self.knows(identity):
                raise KeyError(image_id)
            image_id = identity
        return self._image_index.get(image_id)  # type: ignore[arg-type]

    def category_index(self, category_id: object) -> int:
        """Index of a category; raises KeyError if the file has no such category."""
        if not isinstance(category_id, Hashable):
            raise KeyError(category_id)
        index = self._category_index.get(category_id)  # type: ignore[arg-type]
        if index is None:
            identity = read_identity(category_id)
            if identity is None or identity not in self._category_index:
                raise KeyError(category_id)
            return self._category_index[identity]
        return index

    def size(self, image: int) -> tuple[int, int]:
        """(height, width) of an image in pixels; raises DatasetError if the file does not state it."""
        return self.table.size(int(self._images[image]))

    def rows(self, image: int) -> np.ndarray:
        """Rows of an image's annotations, int64, in file order."""
        return np.arange(self._offsets[image], self._offsets[image + 1])

    def masks(self, rows: np.ndarray) -> list[Rle]:
        """Masks of annotations; raises DatasetError that names an annotation without one, or an image without size."""
        return [self._mask(row) for row in rows.tolist()]

    def boxes(self, rows: np.ndarray) -> np.ndarray:
        """Boxes of annotations, float64 [n, 4]: left, top, width, height in pixels."""
        return np.array([self._box(row) for row in rows.tolist()], np.float64).reshape(-1, 4)

    def check_masks(self) -> None:
        """Raise DatasetError if masks cannot be drawn: no annotation has an outline, or an image has no size."""
        if len(self.image) and not self.outlined.any():
            raise DatasetError(
                f"{self.source}: none of the {len(self.image)} annotations has an outline, masks cannot be evaluated: "
                "add a 'segmentation' to them"
            )
        for image in np.unique(self.image[self.outlined]).tolist():
            self.size(image)

    def _select(self, index_of_label: np.ndarray) -> None:
        table = self.table
        sizes = (table.offsets[1:] - table.offsets[:-1])[self._images]
        self._offsets = np.concatenate([[0], np.cumsum(sizes)])
        if len(self._images) == len(self._known):
            self._rows = np.arange(len(table))
        else:
            spans = [np.arange(table.offsets[i], table.offsets[i + 1]) for i in self._images.tolist()]
            self._rows = np.concatenate([np.zeros(0, np.int64), *spans])
        self.image = np.repeat(np.arange(len(self._images), dtype=np.int32), sizes)
        self.category = index_of_label[table.label[self._rows]] if len(index_of_label) else np.zeros(0, np.int32)
        self.crowd = table.crowd[self._rows]
        self.outlined = table.outlined[self._rows]
        self.area = np.maximum(table.areas[self._rows], 0.0)
        for row in np.flatnonzero(np.isnan(self.area)).tolist():
            self.area[row] = self._area(row)
        self.annotated = np.zeros(len(self.image_ids), bool)
        self.annotated[self.image[~self.crowd]] = True

    def _area(self, row: int) -> float:
        if self.outlined[row]:
            return float(mask_areas([self._mask(row)])[0])
        box = self._box(row)
        return box[2] * box[3]

    def _box(self, row: int) -> list[float]:
        box = self.table.bbox(int(self._rows[row]))
        return mask_boxes_xywh([self._mask(row)])[0].tolist() if box is None else box

    def _mask(self, row: int) -> Rle:
        outline: Outline | None = self.table.outline(int(self._rows[row]))
        size = self.size(int(self.image[row]))
        if outline is None:
            raise self._broken(row, "it has no 'segmentation'")
        try:
            return draw_polygons(outline, size) if isinstance(outline, tuple) else outline
        except ValueError as error:
            raise self._broken(row, str(error)) from None

    def _broken(self, row: int, reason: str) -> DatasetError:
        return DatasetError(f"{self.source}: annotation {self.table.ids[int(self._rows[row])]!r}: {reason}")


def _table(annotations: str | Path | Mapping[str, Any] | Annotations) -> Annotations:
    if isinstance(annotations, Annotations):
        return annotations
    if isinstance(annotations, Mapping):
        return pack_annotations(annotations, "annotations")
    return open_annotations(annotations)


def _sort_key(identity: Identity) -> tuple[bool, Identity]:
    return isinstance(identity, str), identity


@dataclass(frozen=True)
class ImageResults:
    """The results of one image, in the order given.

    image: index of the image. category: int32 [D]. score: float64 [D].
    masks: D masks, or None unless every entry has one. boxes: float64 [D, 4] left, top, width, height in pixels.
    area: float64 [D] in pixels; it says whether a detection is small, medium or large.
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
    """Read the COCO result entries of one image, each with its index in the original list.

    Box and area come from the `bbox` of an entry, as in `loadRes` of pycocotools; without a `bbox`, from its mask.
    With `box_from_mask`, they come from the mask if there is one.

    Raises DatasetError that names index and image if a category is unknown, the score is not a number, the mask or
    box is missing or broken, or mask and image have different sizes.
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
            raise DatasetError(f"result {index} (image {truth.image_ids[image]!r}): {error}") from None
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
    """Return the results of one image; boxes and areas come from the masks.

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
    missing = box is None or (isinstance(box, list) and not box)  # some tools write [] for no box
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
    except OverflowError:  # an integer that no float can hold
        return False


def _is_box(box: Any) -> TypeGuard[Sequence[float]]:
    return (
        isinstance(box, (Sequence, np.ndarray))
        and len(box) == 4
        and all(_is_number(value) for value in box)
        and box[2] >= 0
        and box[3] >= 0
    )
