"""The instances that were found in one image: masks, scores, labels and boxes, and their written forms."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ppsolo.atomic import atomic_writer
from ppsolo.results.draw import draw_masks
from ppsolo.results.polygons import mask_polygons
from ppsolo.results.rle import Rle, decode_mask, encode_mask, mask_areas, mask_boxes, mask_boxes_xywh

_LABELME_VERSION = "5.5.0"  # of the file format that `to_labelme` writes


class Instances:
    """The n instances of one image, in the order given (the predictor's: best score first). Not to be changed.

    Masks are kept as run lengths, a few hundred bytes each; `masks` decodes them when first asked for.

    Attributes:
        rles: tuple of n compressed COCO RLEs {"size": [height, width], "counts": bytes}.
        scores: float32 [n], confidence in [0, 1].
        labels: int64 [n], index into `class_names`, from 0.
        size: (height, width) of the image in pixels.
        class_names: the names of all classes.
        category_ids: the COCO category id of each class.
    """

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
        """Arguments are as the attributes; counts may also be str.

        Raises:
            ValueError: lengths differ, a label has no class, or an RLE is not of the image's size.
        """
        self.rles = tuple(_checked_rle(rle, size) for rle in rles)
        self.scores = np.array(scores, np.float32)
        self.labels = _checked_labels(labels, classes=len(class_names))
        self.size = (int(size[0]), int(size[1]))
        self.class_names = tuple(class_names)
        self.category_ids = tuple(int(i) for i in category_ids)
        n = len(self.rles)
        if self.scores.shape != (n,) or self.labels.shape != (n,):
            raise ValueError(
                f"scores and labels must be [{n}] like the masks, got {self.scores.shape} and {self.labels.shape}"
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
        """Instances of masks, bool [n, height, width]; the other arguments are as for `Instances`.

        Raises:
            ValueError: as `Instances`, or masks are not bool [n, height, width].
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

    @cached_property
    def masks(self) -> np.ndarray:
        """bool [n, height, width], decoded once and kept: n bytes per pixel of the image."""
        masks = np.empty((len(self), *self.size), bool)
        for mask, rle in zip(masks, self.rles, strict=True):
            mask[:] = decode_mask(rle)
        return masks

    @cached_property
    def boxes(self) -> np.ndarray:
        """float32 [n, 4]: the tight x1, y1, x2, y2 of each mask in pixels, x2 and y2 exclusive; zeros if empty."""
        return mask_boxes(self.rles)

    @cached_property
    def areas(self) -> np.ndarray:
        """int64 [n]: the pixels of each mask."""
        return mask_areas(self.rles)

    @property
    def names(self) -> list[str]:
        """The class name of each instance."""
        return [self.class_names[label] for label in self.labels]

    def __len__(self) -> int:
        return len(self.rles)

    def __iter__(self) -> Iterator["Instances"]:
        """Each instance as Instances of one."""
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> "Instances":
        """The chosen instances: by position, slice, positions, or a bool per instance; always Instances.

        Raises:
            IndexError: there is no such instance, or not one bool per instance.
        """
        chosen = np.atleast_1d(np.arange(len(self))[index])
        if chosen.ndim != 1:
            raise IndexError(f"instances have one axis, the index has {chosen.ndim}")
        return Instances(
            rles=[self.rles[i] for i in chosen],
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

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "masks"}  # pickled as run lengths

    def above(self, score: float) -> "Instances":
        """The instances with at least this score."""
        return self[self.scores >= score]

    def rle(self) -> list[dict[str, Any]]:
        """The masks for JSON: n compressed COCO RLEs {"size": [height, width], "counts": str}."""
        return [{"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")} for rle in self.rles]

    def polygons(self, tolerance: float = 0.75) -> list[list[list[float]]]:
        """The outlines of each mask in the COCO convention: per instance, per part, [x0, y0, x1, y1, ...] in pixels.

        Rings follow the edges of pixels, a hole is cut open to the ring around it, and an empty mask has no part:
        see `ppsolo.results.polygons.mask_polygons`, also for `tolerance` (pixels; 0 gives back exactly the mask).
        """
        return [mask_polygons(rle, tolerance) for rle in self.rles]

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """The instances as entries of a COCO results file, ready for JSON.

        Returns:
            n dicts: image_id, category_id, segmentation (compressed RLE, counts a str), score, and bbox
            [x, y, width, height] in pixels.
        """
        boxes = mask_boxes_xywh(self.rles)
        return [
            {
                "image_id": image_id,
                "category_id": self.category_ids[label],
                "segmentation": rle,
                "score": float(score),
                "bbox": box.tolist(),
            }
            for label, rle, score, box in zip(self.labels, self.rle(), self.scores, boxes, strict=True)
        ]

    def to_labelme(
        self, path: str | os.PathLike, image_path: str | os.PathLike | None = None, *, tolerance: float = 0.75
    ) -> None:
        """Write the instances as a labelme JSON file of polygons; an existing file is replaced in one step.

        The parts of one instance share a group_id. Each shape holds its score under "score", a key that labelme
        leaves alone. Instances with an empty mask have no shape.

        Args:
            path: the JSON file.
            image_path: the image, stored relative to the JSON file; without it labelme cannot open the file.
            tolerance: see `polygons`.

        Raises:
            OSError: the file cannot be written.
        """
        path = Path(path)
        relative = "" if image_path is None else os.path.relpath(image_path, path.parent)
        content = {
            "version": _LABELME_VERSION,
            "flags": {},
            "shapes": self._labelme_shapes(tolerance),
            "imagePath": relative.replace(os.sep, "/"),
            "imageData": None,
            "imageHeight": self.size[0],
            "imageWidth": self.size[1],
        }
        text = json.dumps(content, ensure_ascii=False, indent=2)
        with atomic_writer(path, "w") as stream:
            stream.write(text)

    def draw(
        self,
        image: np.ndarray,
        *,
        score_threshold: float = 0.0,
        alpha: float = 0.5,
        color_by: Literal["instance", "class"] = "instance",
        write_labels: bool = True,
    ) -> np.ndarray:
        """A copy of the image, uint8 RGB [height, width, 3], with the instances of at least `score_threshold` drawn.

        The other arguments and the errors are those of `ppsolo.results.draw.draw_masks`.

        Raises:
            ValueError: the image is not uint8 RGB, or not of this size.
        """
        shown = self.above(score_threshold)
        return draw_masks(
            image,
            shown.rles,
            size=self.size,
            scores=shown.scores,
            labels=shown.labels,
            names=shown.names,
            alpha=alpha,
            color_by=color_by,
            write_labels=write_labels,
        )

    def _labelme_shapes(self, tolerance: float) -> list[dict[str, Any]]:
        shapes = []
        for i, (name, score, rings) in enumerate(zip(self.names, self.scores, self.polygons(tolerance), strict=True)):
            for ring in rings:
                shapes.append(
                    {
                        "label": name,
                        "points": [[x, y] for x, y in zip(ring[0::2], ring[1::2], strict=True)],
                        "group_id": i if len(rings) > 1 else None,
                        "description": "",
                        "shape_type": "polygon",
                        "flags": {},
                        "score": round(float(score), 6),
                    }
                )
        return shapes


def _checked_rle(rle: Rle, size: tuple[int, int]) -> Rle:
    if list(rle["size"]) != list(size):
        raise ValueError(f"a mask has size {list(rle['size'])}, the image {list(size)}")
    counts = rle["counts"]
    if isinstance(counts, str):
        counts = counts.encode("ascii")
    if not isinstance(counts, bytes):
        raise ValueError("counts must be those of a compressed RLE, bytes or str")
    return {"size": [int(size[0]), int(size[1])], "counts": counts}


def _checked_labels(labels: np.ndarray, *, classes: int) -> np.ndarray:
    checked = np.array(labels).astype(np.int64)
    if not np.array_equal(checked, labels):
        raise ValueError("labels must be whole numbers")
    if checked.size and (checked.min() < 0 or checked.max() >= classes):
        raise ValueError(f"labels must lie in 0 .. {classes - 1}, got {checked.min()} .. {checked.max()}")
    return checked
