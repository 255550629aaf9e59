"""Instance annotations in COCO's format, as image records for training."""

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ppsolo.data.annotations.cache import open_annotations
from ppsolo.data.annotations.findings import MANY_CROWDS, Findings
from ppsolo.data.annotations.image_files import ImageFiles
from ppsolo.data.annotations.table import Annotations, Identity, Outline
from ppsolo.data.images import ImageReader, read_image
from ppsolo.data.masks import CroppedMasks
from ppsolo.data.sample import BoxConvention, TrainingSample
from ppsolo.errors import DatasetError, ImageError
from ppsolo.results import rle

__all__ = ["CocoDataset", "ImageRecord", "Outline", "decode_mask", "load_sample", "training_rows"]

logger = logging.getLogger(__name__)

MIN_BOX_SIDE = 1e-5
# Not logged here: `CocoDataset` counts these, or only the report of check-data needs them.
_NOT_LOGGED = ("crowd", "empty-image")


@dataclass(frozen=True)
class ImageRecord:
    """One image of an annotation file: n instances for training, and crowd regions for evaluation.

    Attributes:
        image_id: as in the file.
        path: the image file.
        size: (height, width) according to the annotation file.
        boxes: float32 [n, 4], xyxy in pixels, in the data set's box convention.
        labels: int64 [n], the category's position in the file.
        outlines: n outlines; `decode_mask` draws one.
        annotation_ids: n ids, as in the file.
        crowds: outlines of the annotations marked `iscrowd` or `ignore`.
    """

    image_id: Identity
    path: Path
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    outlines: tuple[Outline, ...]
    annotation_ids: tuple[Identity, ...]
    crowds: tuple[Outline, ...]


class CocoDataset(Sequence[ImageRecord]):
    """The images of an annotation file as `ImageRecord`s, sorted by id; no pixels are read.

    Records are created on access. For a large file, all processes of the machine share the underlying arrays: see
    `ppsolo.data.annotations.cache`.

    box_convention: "exclusive": x2 = x + width, rounded to 3 digits (2.x); "inclusive": x2 = x + width - 1, cut
        to 0 .. image width - 1 (0.5).
    keep_empty: keep images without an instance for training.

    Annotations without an outline, and annotations with an area or box of zero, are left out with a warning. A missing
    `iscrowd` counts as 0, a missing `area` as above zero. A missing `bbox` is computed from the outline.

    category_ids, class_names: one per label, in the order of the file.

    Raises DatasetError that names the annotation or image: unreadable file, unknown category, broken outline, outline
    that is not finite, missing image file, or no instance left.

    >>> from ppsolo.data.synthetic import draw_dataset
    >>> train, val = draw_dataset("drawn", train=2, val=1)
    >>> dataset = CocoDataset(train.annotations, train.image_dir)
    >>> len(dataset), dataset[0].size, dataset.class_names
    (2, (128, 160), ('circle', 'rectangle', 'triangle'))
    """

    def __init__(
        self,
        annotations_path: str | os.PathLike[str],
        image_dir: str | os.PathLike[str],
        *,
        box_convention: BoxConvention = "exclusive",
        keep_empty: bool = False,
    ):
        table = open_annotations(annotations_path)
        findings = table.findings.copy()
        self._files = ImageFiles(table, Path(image_dir), findings)
        if (error := findings.first_error()) is not None:
            raise DatasetError(f"{annotations_path}: {error}")
        self._table = table
        self._box_convention: BoxConvention = box_convention
        self.category_ids = table.category_ids
        self.class_names = table.category_names
        self._trained = training_rows(table, box_convention)
        self.instances = int(self._trained.sum())
        log_findings(findings, str(annotations_path), annotations=len(table))
        _log_crowds(findings, str(annotations_path), annotations=len(table))
        if not self.instances:
            raise DatasetError(f"{annotations_path}: {nothing_to_train(table, findings)}")
        per_image = np.bincount(table.image[self._trained], minlength=len(table.image_ids))
        self._images = np.arange(len(per_image)) if keep_empty else np.flatnonzero(per_image)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> ImageRecord:  # type: ignore[override]
        image = int(self._images[index])
        return image_record(self._table, image, self._trained, self._files[image], self._box_convention)

    def digest(self) -> str:
        """Return a SHA-256 over the ids and sizes of all records."""
        found = hashlib.sha256()
        table = self._table
        for image in self._images.tolist():
            rows = table.offsets[image] + np.flatnonzero(self._trained[table.offsets[image] : table.offsets[image + 1]])
            size = (int(table.sizes[image, 0]), int(table.sizes[image, 1]))
            found.update(repr((table.image_ids[image], size, table.ids.some(rows))).encode())
        return found.hexdigest()


def image_record(
    table: Annotations, image: int, trained: np.ndarray, path: Path, box_convention: BoxConvention
) -> ImageRecord:
    """Return the record of an image by its index. trained: bool [M], from `training_rows`."""
    first, last = table.offsets[image : image + 2].tolist()
    rows = first + np.flatnonzero(trained[first:last])
    forgiven = first + np.flatnonzero(table.crowd[first:last] | table.ignored[first:last])
    size = (int(table.sizes[image, 0]), int(table.sizes[image, 1]))
    outlines = [outline for row in rows.tolist() if (outline := table.outline(row)) is not None]
    return ImageRecord(
        image_id=table.image_ids[image],
        path=path,
        size=size,
        boxes=training_boxes(table, rows, box_convention),
        labels=table.label[rows].astype(np.int64),
        outlines=tuple(outlines),
        annotation_ids=table.ids.some(rows),
        crowds=tuple(
            outline
            for row in forgiven.tolist()
            if not table.areas[row] <= 0 and (outline := table.outline(row)) is not None
        ),
    )


def training_boxes(table: Annotations, rows: np.ndarray, box_convention: BoxConvention) -> np.ndarray:
    """The boxes of annotations with an outline, int64 [n] rows: float32 [n, 4], xyxy in pixels."""
    boxes = np.empty((len(rows), 4), np.float32)
    stated, sizes = table.boxes[rows].tolist(), table.sizes[table.image[rows]].tolist()
    for index, (box, (height, width)) in enumerate(zip(stated, sizes, strict=True)):
        if box[0] != box[0]:  # NaN: not stated
            outline = table.outline(int(rows[index]))
            assert outline is not None
            box = surrounding_box(outline)
        boxes[index] = corners(box, (height, width), box_convention)
    return boxes


def training_rows(table: Annotations, box_convention: BoxConvention) -> np.ndarray:
    """bool [M]: annotations for training: with an outline, no crowd, area and box above zero."""
    usable = table.outlined & ~table.crowd & ~table.ignored & ~(table.areas <= 0)
    left, top, width, height = table.boxes.T
    if box_convention == "exclusive":
        fits = (width > MIN_BOX_SIDE) & (height > MIN_BOX_SIDE)
    else:
        heights, widths = table.sizes[table.image].T.astype(np.float64)
        x1, y1 = np.maximum(left, 0.0), np.maximum(top, 0.0)
        fits = (np.minimum(widths - 1.0, x1 + np.maximum(0.0, width - 1)) >= x1) & (
            np.minimum(heights - 1.0, y1 + np.maximum(0.0, height - 1)) >= y1
        )
    unstated = np.isnan(left)
    for row in np.flatnonzero(unstated & usable).tolist():
        size = (int(table.sizes[table.image[row], 0]), int(table.sizes[table.image[row], 1]))
        outline = table.outline(row)
        if outline is not None:
            x1, y1, x2, y2 = corners(surrounding_box(outline), size, box_convention)
            least = MIN_BOX_SIDE if box_convention == "exclusive" else -MIN_BOX_SIDE
            fits[row] = min(x2 - x1, y2 - y1) > least
    return usable & fits


def corners(box: Sequence[float], size: tuple[int, int], box_convention: BoxConvention) -> list[float]:
    """Convert [x, y, width, height] in an image of `size` (height, width) to [x1, y1, x2, y2]."""
    x, y, width, height = box
    if box_convention == "exclusive":
        return [round(value, 3) for value in (x, y, x + width, y + height)]
    x1, y1 = max(0.0, x), max(0.0, y)
    x2 = min(size[1] - 1.0, x1 + max(0.0, width - 1))
    y2 = min(size[0] - 1.0, y1 + max(0.0, height - 1))
    return [x1, y1, x2, y2]


def surrounding_box(outline: Outline) -> list[float]:
    """Return [x, y, width, height] around an outline."""
    if not isinstance(outline, tuple):
        return rle.mask_boxes_xywh([outline])[0].tolist()
    x, y = np.concatenate(outline).reshape(-1, 2).T
    return [float(value) for value in (x.min(), y.min(), np.ptp(x), np.ptp(y))]


def log_findings(findings: Findings, source: str, *, annotations: int) -> None:
    """Log a line with a count for each kind of annotation that was left out or needed a special rule."""
    for problem in findings.problems(instances=annotations):
        if problem.severity != "error" and problem.kind not in _NOT_LOGGED:
            logger.warning("%s: %s: %s (%s)", source, problem.kind, problem.line, problem.where())


def _log_crowds(findings: Findings, source: str, *, annotations: int) -> None:
    crowds = len(findings.ids("crowd"))
    if crowds:
        logger.log(
            logging.WARNING if crowds > MANY_CROWDS * annotations else logging.INFO,
            "%s: crowd: %d of %d annotations are marked 'iscrowd' or 'ignore' and are not used in training, as CVAT "
            "marks brush masks; set 'iscrowd' to 0 to use them as instances",
            source,
            crowds,
            annotations,
        )


def nothing_to_train(table: Annotations, findings: Findings) -> str:
    """Say why no annotation can be used for training, and what to do."""
    crowds, boxes = len(findings.ids("crowd")), len(findings.ids("no-outline"))
    text = "no image has an instance to train on: annotate some"
    if crowds and crowds == len(table):
        return (
            f"no image has an instance to train on: all {crowds} annotations are marked 'iscrowd' or 'ignore', as CVAT "
            "marks brush masks; set 'iscrowd' to 0 to use them as instances"
        )
    if boxes:
        return (
            f"no image has an instance to train on: {boxes} annotations have no outline, but SOLOv2 learns from "
            "outlines; add a 'segmentation' to them"
        )
    return text


def load_sample(record: ImageRecord, read: ImageReader | None = None) -> TrainingSample:
    """Read the image and draw the masks at its size. read: the function that reads; default: `read_image`.

    Raises ImageError for an unreadable image, DatasetError if image and annotations have different sizes.
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
            f"image {record.image_id}: {record.path} is {size[0]} x {size[1]} (height x width), but its annotations "
            f"are for {record.size[0]} x {record.size[1]}; correct the annotation file or the image's rotation"
        )
    return TrainingSample(
        image=image,
        boxes=record.boxes,
        labels=record.labels,
        masks=CroppedMasks.from_rles(rle.draw_outlines(record.outlines, size), size),
        image_id=record.image_id,
        original_size=size,
    )


def decode_mask(outline: Outline, size: tuple[int, int]) -> np.ndarray:
    """Draw an outline as pycocotools does: uint8 [height, width], 0 or 1."""
    return rle.decode_masks(rle.draw_outlines([outline], size), size)[0]
