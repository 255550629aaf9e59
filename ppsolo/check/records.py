"""The records of a data set as training makes them, with everything found on the way."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ppsolo.data.annotations.cache import open_annotations
from ppsolo.data.annotations.findings import Findings, Identity
from ppsolo.data.annotations.image_files import ImageFiles
from ppsolo.data.coco import ImageRecord, image_record, nothing_to_train, training_boxes, training_rows
from ppsolo.data.sample import BoxConvention
from ppsolo.errors import DatasetError


class CheckedRecords(Sequence[ImageRecord]):
    """Every image with a usable size, sorted by id, with its usable annotations; `findings` has the faults.

    names: categories by id, in the order of the file. Raises DatasetError if it is not a COCO file, or the image
    folder does not exist.
    """

    def __init__(self, annotations: Path, image_dir: Path, box_convention: BoxConvention):
        table = open_annotations(annotations)
        if not image_dir.is_dir():
            raise DatasetError(f"{image_dir}: no such image folder: give the one that 'file_name' is relative to")
        self.findings: Findings = table.findings.copy()
        self.names: dict[Identity, str] = dict(zip(table.category_ids, table.category_names, strict=True))
        self._table = table
        self._box_convention: BoxConvention = box_convention
        self._files = ImageFiles(table, image_dir, self.findings)
        self._trained = training_rows(table, box_convention)
        usable = table.sizes[:, 0] > 0
        self._images = np.array([i for i in np.flatnonzero(usable).tolist() if table.file_names[i]], np.int64)
        listed = np.zeros(len(usable), bool)
        listed[self._images] = True
        self._rows = np.flatnonzero(self._trained & listed[table.image])
        counts = np.bincount(table.image[self._trained], minlength=len(table.image_ids))
        for image in self._images[counts[self._images] == 0].tolist():
            self.findings.add("empty-image", table.image_ids[image])

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> ImageRecord:  # type: ignore[override]
        image = int(self._images[index])
        return image_record(self._table, image, self._trained, self._files[image], self._box_convention)

    def paths(self) -> Iterator[Path]:
        """The image file of each record."""
        return (self._files[image] for image in self._images.tolist())

    def boxes(self) -> np.ndarray:
        """The boxes of all records, one after the other: float32 [n, 4], xyxy in pixels."""
        return training_boxes(self._table, self._rows, self._box_convention)

    def sizes(self) -> np.ndarray:
        """(height, width) of the image of each box: int32 [n, 2]."""
        return self._table.sizes[self._table.image[self._rows]]

    def labels(self) -> np.ndarray:
        """The category's position of each box: int32 [n]."""
        return self._table.label[self._rows]

    def annotation_id(self, row: int) -> Identity:
        """The id of the annotation that has a box, by the box's index."""
        return self._table.ids[int(self._rows[row])]

    def nothing_to_train(self) -> str:
        """Say why no annotation can be used for training, in the words of training."""
        return nothing_to_train(self._table, self.findings)
