"""The instances of one image: masks, scores, labels and boxes, and their written forms."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np

from ppsolo.results.rle import Rle, checked_rle, decode_mask, encode_mask, mask_areas, mask_boxes

if TYPE_CHECKING:
    import pandas
    import supervision

    from ppsolo.results.files.image_results import ImageResults


class Instances:
    """The n instances of one image, in the given order (a predictor's: best score first). They are immutable.

    Masks are stored as run lengths, a few hundred bytes each. `masks` decodes them on first use.

    Attributes:
        rles: tuple of n compressed COCO RLEs {"size": [height, width], "counts": bytes}; new dicts on each access.
        scores: float32 [n], confidence in [0, 1].
        labels: int64 [n], index into `class_names`, from 0.
        size: (height, width) of the image in pixels.
        class_names: the names of all classes.
        category_ids: the COCO category id of each class.

    >>> masks = np.zeros((2, 4, 6), bool)
    >>> masks[0, :2, :3] = masks[1, 3, 5] = True
    >>> instances = Instances.from_masks(
    ...     masks, scores=np.array([0.9, 0.4]), labels=np.array([0, 1]), class_names=("cat", "dog"), category_ids=(1, 2)
    ... )
    >>> instances
    Instances(2: 1 cat, 1 dog; 4x6)
    >>> instances.above(0.5).boxes.tolist()
    [[0.0, 0.0, 3.0, 2.0]]
    >>> instances.areas.tolist()
    [6, 1]
    >>> instances.polygons()[0]
    [[0.0, 0.0, 0.0, 2.0, 3.0, 2.0, 3.0, 0.0]]
    >>> instances.draw(np.zeros((4, 6, 3), np.uint8)).shape
    (4, 6, 3)
    >>> instances.to_coco("a.png")[0]["bbox"]
    [0.0, 0.0, 3.0, 2.0]
    """

    scores: np.ndarray
    labels: np.ndarray
    size: tuple[int, int]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    _rles: tuple[Rle, ...]

    def __init__(
        self,
        *,
        rles: Sequence[Rle],
        scores: np.ndarray,
        labels: np.ndarray,
        size: tuple[int, int],
        class_names: Sequence[str],
        category_ids: Sequence[int],
    ) -> None:
        """Arguments are the attributes of the same names; counts may also be str.

        Raises:
            ValueError: lengths differ, a label has no class, or an RLE has another size than the image.
        """
        whole = np.array(labels).astype(np.int64)
        if not np.array_equal(whole, labels):
            raise ValueError("labels must be integers")
        if whole.size and (whole.min() < 0 or whole.max() >= len(class_names)):
            raise ValueError(f"labels must lie in 0 .. {len(class_names) - 1}, got {whole.min()} .. {whole.max()}")
        values = {
            "scores": _read_only(np.array(scores, np.float32)),
            "labels": _read_only(whole),
            "size": (int(size[0]), int(size[1])),
            "class_names": tuple(class_names),
            "category_ids": tuple(int(i) for i in category_ids),
            "_rles": tuple(checked_rle(rle, size) for rle in rles),
        }
        self.__dict__.update(values)  # around __setattr__, which raises
        n = len(self._rles)
        if self.scores.shape != (n,) or self.labels.shape != (n,):
            raise ValueError(
                f"scores and labels must be [{n}], one per mask, got {self.scores.shape} and {self.labels.shape}"
            )
        if len(self.category_ids) != len(self.class_names):
            raise ValueError(f"{len(self.class_names)} class names but {len(self.category_ids)} category ids")

    @classmethod
    def from_masks(
        cls,
        masks: np.ndarray,
        *,
        scores: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        category_ids: Sequence[int],
    ) -> "Instances":
        """Make instances from masks, bool [n, height, width]; other arguments: see `Instances`.

        Raises:
            ValueError: see `Instances`; or masks are not bool [n, height, width].
        """
        if masks.ndim != 3 or masks.dtype != bool:
            raise ValueError(f"masks must be bool [n, height, width], got {masks.dtype} {list(masks.shape)}")
        return cls(
            rles=[encode_mask(mask) for mask in masks],
            scores=scores,
            labels=labels,
            size=(masks.shape[1], masks.shape[2]),
            class_names=class_names,
            category_ids=category_ids,
        )

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"Instances cannot be changed: make new ones instead of setting '{name}'")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"Instances cannot be changed: '{name}' cannot be deleted")

    @property
    def rles(self) -> tuple[Rle, ...]:
        return tuple({"size": list(rle["size"]), "counts": rle["counts"]} for rle in self._rles)

    @cached_property
    def masks(self) -> np.ndarray:
        """bool [n, height, width], decoded once and stored: n bytes per pixel of the image."""
        masks = np.empty((len(self), *self.size), bool)
        for mask, rle in zip(masks, self._rles, strict=True):
            mask[:] = decode_mask(rle)
        return _read_only(masks)

    @cached_property
    def boxes(self) -> np.ndarray:
        """float32 [n, 4]: the tight x1, y1, x2, y2 of each mask in pixels, x2 and y2 exclusive; zeros if empty."""
        return _read_only(mask_boxes(self._rles))

    @cached_property
    def areas(self) -> np.ndarray:
        """int64 [n]: the number of pixels of each mask."""
        return _read_only(mask_areas(self._rles))

    @property
    def names(self) -> list[str]:
        return [self.class_names[label] for label in self.labels]

    def __len__(self) -> int:
        return len(self._rles)

    def __iter__(self) -> Iterator["Instances"]:
        """Yield each instance as Instances with one instance."""
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> "Instances":
        """Select instances by position, slice, positions, or one bool per instance; the result is always Instances.

        Raises:
            IndexError: there is no such instance, or the number of bools differs.
        """
        chosen = np.atleast_1d(np.arange(len(self))[index])
        if chosen.ndim != 1:
            raise IndexError(f"instances have one axis, the index has {chosen.ndim}")
        return Instances(
            rles=[self._rles[i] for i in chosen],
            scores=self.scores[chosen],
            labels=self.labels[chosen],
            size=self.size,
            class_names=self.class_names,
            category_ids=self.category_ids,
        )

    def __repr__(self) -> str:
        kinds = Counter(self.names).most_common()
        parts = [f"{number} {name}" for name, number in kinds[:5]]
        if len(kinds) > 5:
            parts.append(f"{len(kinds) - 5} more classes")
        found = f"{len(self)}: {', '.join(parts)}" if parts else "0"
        return f"Instances({found}; {self.size[0]}x{self.size[1]})"

    def _repr_png_(self) -> bytes:
        """Return a small PNG of the masks on black for notebooks."""
        from ppsolo.results.preview import preview_png

        return preview_png(self._rles, size=self.size, scores=self.scores, labels=self.labels, names=self.names)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "masks"}  # pickle the run lengths only

    def __setstate__(self, state: dict[str, Any]) -> None:
        for value in state.values():
            if isinstance(value, np.ndarray):
                _read_only(value)
        self.__dict__.update(state)

    def above(self, score: float) -> "Instances":
        """Return the instances with at least this score. Raises ValueError if it is not between 0 and 1."""
        if not 0 <= score <= 1:
            raise ValueError(f"a score lies between 0 and 1, got {score}")
        return self[self.scores >= score]

    def rle(self) -> list[dict[str, Any]]:
        """Return the masks for JSON: n compressed COCO RLEs {"size": [height, width], "counts": str}."""
        return [{"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")} for rle in self._rles]

    def polygons(self, tolerance: float = 0.75) -> list[list[list[float]]]:
        """Return the outlines in the COCO convention: per instance, per part, [x0, y0, x1, y1, ...] in pixels.

        Rings follow the edges of pixels. A hole is joined to the outer ring by a cut. An empty mask has no part. See
        `ppsolo.results.polygons.mask_polygons`, also for `tolerance` (pixels; 0 reproduces the mask exactly).
        """
        from ppsolo.results.polygons import mask_polygons

        return [mask_polygons(rle, tolerance) for rle in self._rles]

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """Return the instances as entries of a COCO results file, ready for JSON.

        Returns:
            n dicts: image_id, category_id, segmentation (compressed RLE, counts a str), score, and bbox
            [x, y, width, height] in pixels.
        """
        from ppsolo.results.files.coco import coco_entries

        return coco_entries(self.results(image_id=image_id))

    def to_labelme(
        self, path: str | os.PathLike, image_path: str | os.PathLike | None = None, *, tolerance: float = 0.75
    ) -> None:
        """Write a labelme JSON file of polygons, see `labelme_document`; an existing file is replaced in one step.

        Args:
            path: the JSON file, with the suffix .json.
            image_path: the image; its path is stored relative to the JSON file. labelme needs it to open the file.
            tolerance: see `polygons`.

        Raises:
            ValueError: the path does not end with .json; it may be that of the picture.
            OSError: the file cannot be written.
        """
        if Path(path).suffix.lower() != ".json":
            raise ValueError(f"{path}: a labelme file ends with .json; the picture's path is image_path")
        from ppsolo.results.files.labelme import write_labelme

        write_labelme(Path(path), self.results(image_path=image_path), tolerance=tolerance)

    def to_yolo(self) -> str:
        """Return YOLO segmentation labels: a line "class x y x y ..." per instance, coordinates from 0 to 1."""
        from ppsolo.results.files.yolo import yolo_text

        return yolo_text(self.results())

    def to_label_map(self) -> np.ndarray:
        """Return [height, width]: 0 for background, i + 1 for instance i; where masks overlap, the best score.

        uint8 for up to 255 instances, else uint16. Raises PpsoloError for more than 65535.
        """
        from ppsolo.results.files.label_map import label_map

        return label_map(self.results())

    def to_geojson(self) -> dict[str, Any]:
        """Return a GeoJSON FeatureCollection for QuPath: Polygons and MultiPolygons in pixels."""
        from ppsolo.results.files.geojson import geojson_document

        return geojson_document(self.results())

    def to_pandas(
        self, image: np.ndarray | None = None, *, pixel_size: float | None = None, image_name: str = ""
    ) -> "pandas.DataFrame":
        """Return a row per instance: area, box, centroid, perimeter, equivalent diameter, mean intensity; names have
        units.

        Args:
            image: uint8 RGB [height, width, 3], for the mean intensity.
            pixel_size: micrometres per pixel, for the columns in micrometres.
            image_name: the value of the column file_name.

        Raises:
            PpsoloError: pandas is not installed.
        """
        from ppsolo.results.files.objects import data_frame

        return data_frame(self.results(image=image, pixel_size=pixel_size, image_name=image_name))

    def to_supervision(self) -> "supervision.Detections":
        """Return Detections with masks, scores, labels, data["class_name"]. Raises PpsoloError without supervision."""
        from ppsolo.results.files.objects import detections

        return detections(self.results())

    def to_bytes(
        self,
        format: str,
        *,
        image: np.ndarray | None = None,
        image_path: str | os.PathLike | None = None,
        image_name: str = "",
        image_id: int | str = 0,
        pixel_size: float | None = None,
    ) -> bytes:
        """Return the content of a file in another tool's format.

        format: coco, labelme, yolo, label_map, masks, geojson, imagej, csv or parquet. The other arguments describe the
            image, see `ppsolo.results.files.image_results.ImageResults`.

        Raises:
            ValueError: there is no such format.
            PpsoloError: the format needs a missing package, or cannot hold so many instances.
        """
        from ppsolo.results.files.catalogue import FORMATS

        if format not in FORMATS:
            raise ValueError(f"there is no format {format!r}: choose among {', '.join(FORMATS)}")
        found = self.results(
            image=image, image_path=image_path, image_name=image_name, image_id=image_id, pixel_size=pixel_size
        )
        return FORMATS[format].encode(found)

    def results(
        self,
        *,
        image: np.ndarray | None = None,
        image_path: str | os.PathLike | None = None,
        image_name: str = "",
        image_id: int | str = 0,
        pixel_size: float | None = None,
    ) -> "ImageResults":
        """Return the instances as plain values with a description of the image, for `ppsolo.results.files`."""
        from ppsolo.results.files.image_results import ImageResults

        return ImageResults(
            rles=self._rles,
            scores=self.scores,
            labels=self.labels,
            size=self.size,
            class_names=self.class_names,
            category_ids=self.category_ids,
            image=image,
            image_path=None if image_path is None else Path(image_path),
            image_name=image_name or ("" if image_path is None else Path(image_path).name),
            image_id=image_id,
            pixel_size=pixel_size,
        )

    def draw(
        self,
        image: np.ndarray,
        *,
        score_threshold: float = 0.0,
        alpha: float = 0.5,
        color_by: Literal["instance", "class"] = "instance",
        write_labels: bool = True,
        write_names: bool | None = None,
        legend: bool = False,
        track_ids: np.ndarray | None = None,
    ) -> np.ndarray:
        """Draw instances with at least `score_threshold` on a copy of the image, uint8 RGB [height, width, 3].

        write_labels: write names and scores. write_names: write names; None: only if there are several classes. The
        other arguments and errors: see `ppsolo.results.draw.draw_masks`.

        Raises:
            ValueError: the image is not uint8 RGB, or not of this size.
        """
        from ppsolo.results.draw import draw_masks

        shown = self.above(score_threshold)
        return draw_masks(
            image,
            shown._rles,
            size=self.size,
            scores=shown.scores,
            labels=shown.labels,
            names=shown.names,
            alpha=alpha,
            color_by=color_by,
            write_scores=write_labels,
            write_names=write_labels and (len(self.class_names) > 1 if write_names is None else write_names),
            legend=legend,
            track_ids=None if track_ids is None else track_ids[self.scores >= score_threshold],
        )


def _read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
