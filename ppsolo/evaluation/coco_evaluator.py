"""COCO's average precision and recall of masks, boxes and boundaries, image by image as results arrive."""

import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.cocoeval import Params

from ppsolo.data.annotations.cache import open_annotations
from ppsolo.data.annotations.json_file import read_json
from ppsolo.data.annotations.table import Annotations
from ppsolo.data.coco import log_findings
from ppsolo.errors import DatasetError
from ppsolo.evaluation.accumulation import Accumulation, accumulate, per_class
from ppsolo.evaluation.boundary import boundary_width, lower_to_boundary_ious
from ppsolo.evaluation.ground_truth import GroundTruth, ImageResults, detections_of, read_detections
from ppsolo.evaluation.image_names import with_image_ids
from ppsolo.evaluation.matching import MATCH, match_detections, overlaps, pack
from ppsolo.evaluation.plain_results import IOU_TYPES as PLAIN_IOU_TYPES
from ppsolo.evaluation.plain_results import PlainResults, evaluate_plain, read_plain
from ppsolo.results.instances import Instances

IOU_TYPES = ("segm", "bbox", "boundary")

# The order of pycocotools: AP at IoU 0.50:0.95, 0.50 and 0.75, AP of small (area up to 32^2), medium (up to 96^2)
# and large objects; AR with 1, 10 and 100 detections per image and class, AR of small, medium and large objects.
STAT_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
UNIT = "0 to 1; -1 or null where there is nothing to find"
MAX_DETECTIONS = 100  # detections per picture and class that count, as in COCO


@dataclass(frozen=True)
class EvaluationState:
    """Part of an evaluation, to be pickled and merged with others: 32 bytes per detection and IoU type.

    fingerprint: hash of the annotations and settings. images: indices of the images seen, int32 [n].
    detections: number of results of each image, int32 [n]. matches: MATCH [m] per IoU type.
    """

    fingerprint: str
    images: np.ndarray
    detections: np.ndarray
    matches: Mapping[str, np.ndarray]


class CocoEvaluator:
    """Evaluates results against COCO annotations, with the same numbers as one COCOeval over everything.

    Each image is matched as its results arrive. Its masks are then dropped; 32 bytes per detection and IoU type
    remain. pycocotools computes IoUs, accumulation and summary. The matching is our own: equal, and faster. One
    difference: for pycocotools an annotation with the id 0 means "no match"; here it counts like any other.

    "boundary" is Boundary AP (Cheng et al., CVPR 2021, arXiv 2103.16562). It takes the smaller one of mask IoU and
    boundary IoU.
    """

    def __init__(
        self,
        annotations: str | Path | Mapping[str, Any] | Annotations,
        *,
        iou_types: Sequence[str] = IOU_TYPES,
        image_ids: Sequence[Any] | None = None,
        box_from_mask: bool = False,
        dilation_ratio: float = 0.02,
        max_detections: int = MAX_DETECTIONS,
    ) -> None:
        """Read the annotations.

        annotations: the path of a COCO file, its content (which stays unchanged), or annotations already read.
        iou_types: one or more of "segm", "bbox", "boundary".
        image_ids: evaluate only these images, and ignore results of the other ones; default: all.
        box_from_mask: ignore the `bbox` of a result that has a mask. By default, as in pycocotools, the area of the
            `bbox` says whether the detection is small, medium or large, even for "segm".
        dilation_ratio: width of the boundary as a share of the image's diagonal.
        max_detections: so many detections of an image and class count, the best ones. COCO's number is too small for
            a large picture with more objects of a class. "AR100" then has this number too.

        Annotations without an outline count for "bbox" only. Raises DatasetError if the annotations are broken, or if
        masks are to be evaluated and no annotation has an outline.
        """
        if not iou_types or any(name not in IOU_TYPES for name in iou_types):
            raise ValueError(f"iou_types must be some of {IOU_TYPES}, not {tuple(iou_types)}")
        self._truth = GroundTruth(annotations, image_ids=image_ids)
        self._iou_types = tuple(dict.fromkeys(iou_types))
        if self._iou_types != ("bbox",):
            self._truth.check_masks()
        self._box_from_mask = box_from_mask
        self._dilation_ratio = dilation_ratio
        self._max_detections = max_detections
        self._params = Params(iouType="segm")  # the same thresholds, area ranges and limits for every type
        self._areas = np.array(self._params.areaRng, np.float64)
        self._truth_ignored = self._truth.crowd | _outside(self._truth.area, self._areas)
        self._lock = threading.Lock()
        self._detections: dict[int, int] = {}  # results per image seen
        self._matches: dict[str, list[np.ndarray]] = {name: [] for name in self._iou_types}

    @property
    def truth(self) -> GroundTruth:
        """The ground truths."""
        return self._truth

    def update(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Evaluate all results of one or several images. Threads may call it at the same time.

        results: COCO result entries with `image_id`, `category_id`, `score`, and `segmentation` (polygons or
            run lengths, compressed or not) or, for "bbox" alone, `bbox`. An image without results counts as an
            image where nothing was found.

        Raises DatasetError if an entry is broken or an image was given before; it names the entry and the image, and
        the evaluation stays as it was.
        """
        self._keep([self._match_image(detections) for detections in self._read(results)])

    def add(self, image_id: Any, instances: Instances) -> None:
        """Evaluate the instances of one image; boxes and areas come from the masks.

        Gives the same numbers as `update` with the entries of `instances.to_coco(image_id)` without `bbox`, but does
        not encode and read the masks again. Raises DatasetError like `update`.
        """
        try:
            image = self._truth.image_index(image_id)
        except KeyError:
            raise DatasetError(f"{self._truth.source} has no image {image_id!r}") from None
        if image is not None:
            self._keep([self._match_image(detections_of(instances, image=image, truth=self._truth))])

    def _keep(self, found: Sequence[tuple[int, int, dict[str, np.ndarray]]]) -> None:
        """Store what `_match_image` returned for several images: all of it or nothing."""
        with self._lock:
            for image, _, _ in found:
                if image in self._detections:
                    image_id = self._truth.image_ids[image]
                    raise DatasetError(f"image {image_id!r} was given before: give all its results at once")
            for image, count, matches in found:
                self._detections[image] = count
                for name, rows in matches.items():
                    self._matches[name].append(rows)

    def state(self) -> EvaluationState:
        """Return everything found so far, for the process that merges."""
        with self._lock:
            return EvaluationState(
                fingerprint=self._fingerprint(),
                images=np.array(list(self._detections), np.int32),
                detections=np.array(list(self._detections.values()), np.int32),
                matches={name: _joined(rows) for name, rows in self._matches.items()},
            )

    def merge(self, states: Iterable[EvaluationState]) -> None:
        """Add what other evaluators of the same annotations found, in any order.

        Images that this evaluator already has are skipped: a sampler that pads the last batch gives some images to
        two processes. Raises ValueError if a state comes from other annotations or settings.
        """
        for state in states:
            if state.fingerprint != self._fingerprint():
                raise ValueError("cannot merge: the states come from different annotations or settings")
            with self._lock:
                new = np.array([image not in self._detections for image in state.images.tolist()], bool)
                images = state.images[new]
                self._detections.update(zip(images.tolist(), state.detections[new].tolist(), strict=True))
                for name, rows in state.matches.items():
                    self._matches[name].append(rows[np.isin(rows["image"], images)])

    def summarize(self) -> dict[str, Any]:
        """Return the report, ready for JSON.

        There is one entry per IoU type: {"stats": [12], "stats_annotated": [12], "per_class": [...],
        "per_class_annotated": [...]}. The numbers have the order of STAT_NAMES; they are in [0, 1], or -1 where there
        is nothing to find. "stats" counts every image of the file. "stats_annotated" counts only images with an
        annotation other than crowds: published numbers do so, because their models never see the other images. A
        class is {"id", "name", "ground_truths", "AP", "AP50", "AP75", "AR100"}. Its numbers are None if it has no
        ground truths, and the means leave it out.

        The other keys: "stat_names"; "unit" of all numbers; "annotations", the file; the counts "images",
        "annotated_images", "images_with_detections", "ground_truths" (without crowds), "crowds", "detections";
        "max_detections", and "beyond_max_detections", how many did not count; "boundary_dilation_ratio"; and "skipped",
        {IoU type: why it was not evaluated}.
        """
        state = self.state()
        counted = max(len(rows) for rows in state.matches.values())
        report = self.counts(state.detections, beyond=int(state.detections.sum()) - counted)
        for name in self._iou_types:
            report[name] = self._summary(name, state.matches[name])
        return report

    def counts(self, detections: np.ndarray, *, beyond: int) -> dict[str, Any]:
        """Return the part of the report that is the same for all IoU types.

        detections: int [n], results per image. beyond: how many of all do not count.
        """
        truth = self._truth
        return {
            "stat_names": list(STAT_NAMES),
            "unit": UNIT,
            "annotations": truth.source,
            "images": len(truth.image_ids),
            "annotated_images": int(truth.annotated.sum()),
            "images_with_detections": int((detections > 0).sum()),
            "ground_truths": int((~truth.crowd).sum()),
            "crowds": int(truth.crowd.sum()),
            "detections": int(detections.sum()),
            "max_detections": self._max_detections,
            "beyond_max_detections": beyond,
            "boundary_dilation_ratio": self._dilation_ratio,
            "skipped": {},
        }

    def _read(self, results: Sequence[Mapping[str, Any]]) -> Iterator[ImageResults]:
        grouped: dict[int, list[tuple[int, Mapping[str, Any]]]] = {}
        for index, entry in enumerate(results):
            if not isinstance(entry, Mapping):
                raise DatasetError(f"result {index} is not a mapping")
            try:
                image = self._truth.image_index(entry.get("image_id"))
            except KeyError:
                raise DatasetError(
                    f"result {index}: {self._truth.source} has no image {entry.get('image_id')!r}"
                ) from None
            if image is not None:
                grouped.setdefault(image, []).append((index, entry))
        for image, entries in grouped.items():
            yield read_detections(
                entries,
                image=image,
                truth=self._truth,
                box_from_mask=self._box_from_mask,
                needs_masks=self._iou_types != ("bbox",),
            )

    def _match_image(self, detections: ImageResults) -> tuple[int, int, dict[str, np.ndarray]]:
        """Return (image, number of results, MATCH rows per IoU type)."""
        truth, params = self._truth, self._params
        found: dict[str, list[np.ndarray]] = {name: [] for name in self._iou_types}
        truth_rows = truth.rows(detections.image)
        for category in np.unique(detections.category):
            chosen = np.flatnonzero(detections.category == category)
            chosen = chosen[np.argsort(-detections.score[chosen], kind="mergesort")][: self._max_detections]
            of_category = truth_rows[truth.category[truth_rows] == category]
            score = detections.score[chosen]
            for name, (ious, rows) in self._ious(detections, chosen, of_category).items():
                matched, ignored = match_detections(
                    ious,
                    crowd=truth.crowd[rows],
                    truth_ignored=self._truth_ignored[:, rows],
                    detection_outside=_outside(detections.area[chosen], self._areas),
                    thresholds=params.iouThrs,
                )
                packed = pack(matched, ignored, image=detections.image, category=category, score=score)
                found[name].append(packed)
        matches = {name: _joined(rows) for name, rows in found.items()}
        return detections.image, len(detections.score), matches

    def _ious(
        self, detections: ImageResults, chosen: np.ndarray, rows: np.ndarray
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Per IoU type: IoUs of `chosen` detections and ground truths, float64 [D, G], and the ground truths' rows."""
        ious = {}
        if "bbox" in self._iou_types:
            boxes = detections.boxes[chosen], self._truth.boxes(rows)
            ious["bbox"] = overlaps(*boxes, self._truth.crowd[rows]), rows
        if detections.masks is None or self._iou_types == ("bbox",):
            return ious
        rows = rows[self._truth.outlined[rows]]
        crowd = self._truth.crowd[rows]
        masks, truths = [detections.masks[d] for d in chosen], self._truth.masks(rows)
        mask_ious = overlaps(masks, truths, crowd)
        if "segm" in self._iou_types:
            ious["segm"] = mask_ious, rows
        if "boundary" in self._iou_types:
            boundary_ious = lower_to_boundary_ious(
                mask_ious,
                masks,
                truths,
                crowd=crowd,
                width=boundary_width(self._truth.size(detections.image), dilation_ratio=self._dilation_ratio),
                lowest_threshold=self._params.iouThrs[0],
            )
            ious["boundary"] = boundary_ious, rows
        return ious

    def _summary(self, name: str, matches: np.ndarray) -> dict[str, Any]:
        truth, counted = self._truth, self._truth.annotated[matches["image"]]
        # Masks were never matched to annotations without an outline, so ignore these.
        ignored = self._truth_ignored if name == "bbox" else self._truth_ignored | ~truth.outlined
        everywhere = accumulate(matches, truth, ignored)
        annotated = everywhere if counted.all() else accumulate(matches[counted], truth, ignored)
        return _numbers(everywhere, annotated, truth)

    def _fingerprint(self) -> str:
        truth = self._truth
        settings = (self._iou_types, self._box_from_mask, self._dilation_ratio, self._max_detections)
        digest = hashlib.sha256(repr((truth.image_ids, truth.category_ids, settings)).encode())
        for column in (truth.image, truth.category, self._truth_ignored):
            digest.update(column.tobytes())
        return digest.hexdigest()


def evaluate_results(
    annotations: str | Path | Mapping[str, Any],
    results: str | Path | Sequence[Mapping[str, Any]],
    *,
    iou_types: Sequence[str] | None = None,
    image_ids: Sequence[Any] | None = None,
    box_from_mask: bool = False,
    dilation_ratio: float = 0.02,
    max_detections: int = MAX_DETECTIONS,
) -> dict[str, Any]:
    """Evaluate a list of COCO results; return the report of `CocoEvaluator.summarize`.

    annotations, results: paths of JSON files, or their content, which stays unchanged. If hotcoco is installed, it
        evaluates files of the usual form: the same numbers, in less time.
    iou_types: default all three, but only "bbox" if no entry has a mask; "skipped" in the report then says so.
    The other arguments are those of CocoEvaluator.

    Raises DatasetError that names the broken file, annotation or result.
    """
    source = str(results) if isinstance(results, (str, Path)) else "results"
    if isinstance(annotations, (str, Path)) and isinstance(results, (str, Path)) and image_ids is None:
        table = open_annotations(annotations)
        usual = iou_types != ("boundary",) and max_detections == MAX_DETECTIONS
        plain = read_plain(Path(results), table, box_from_mask=box_from_mask) if usual else None
        if plain is not None:
            report = _report_plain(plain, table, tuple(iou_types or IOU_TYPES), dilation_ratio=dilation_ratio)
            if report is not None:
                return report
        annotations_read: Any = table
    else:
        annotations_read = annotations
    entries = read_json(results) if isinstance(results, (str, Path)) else results
    if not isinstance(entries, Sequence) or isinstance(entries, (str, bytes)):
        raise DatasetError(f"{source} is not a COCO result file: it is not a list")
    boxes_only = len(entries) > 0 and not any(isinstance(e, Mapping) and "segmentation" in e for e in entries)
    skipped = {}
    if iou_types is None:
        iou_types = ("bbox",) if boxes_only else IOU_TYPES
        skipped = {name: "the results have no masks" for name in IOU_TYPES if name not in iou_types}
    evaluator = CocoEvaluator(
        annotations_read,
        iou_types=iou_types,
        image_ids=image_ids,
        box_from_mask=box_from_mask,
        dilation_ratio=dilation_ratio,
        max_detections=max_detections,
    )
    truth = evaluator.truth
    log_findings(truth.table.findings, truth.source, annotations=len(truth.table))
    evaluator.update(with_image_ids(entries, truth, source=source))
    return {**evaluator.summarize(), "results": source, "skipped": skipped}


def _report_plain(
    results: PlainResults, table: Annotations, iou_types: tuple[str, ...], *, dilation_ratio: float
) -> dict[str, Any] | None:
    """Return the report of `evaluate_results`: hotcoco computes masks and boxes, ppsolo computes boundaries.

    None if a mask is broken.
    """
    evaluator = CocoEvaluator(table, iou_types=iou_types, dilation_ratio=dilation_ratio)
    truth = evaluator.truth
    fast = [name for name in PLAIN_IOU_TYPES if name in iou_types]
    numbers = evaluate_plain(results, table, fast, annotated=truth.annotated)
    if numbers is None:
        return None
    _, of_pair = np.unique(results.images * len(table.category_ids) + results.labels, return_counts=True)
    beyond = int((of_pair - MAX_DETECTIONS).clip(0).sum())
    report = evaluator.counts(np.bincount(results.images), beyond=beyond)
    for name, (everywhere, annotated) in zip(fast, numbers, strict=True):
        report[name] = _numbers(everywhere, annotated, truth)
    if "boundary" in iou_types:
        outlines = CocoEvaluator(table, iou_types=("boundary",), dilation_ratio=dilation_ratio)
        outlines.update(read_json(results.path))
        report["boundary"] = outlines.summarize()["boundary"]
    return {**report, "results": str(results.path)}


def _numbers(everywhere: Accumulation, annotated: Accumulation, truth: GroundTruth) -> dict[str, Any]:
    """Return the part of a report for one IoU type."""
    classes = per_class(everywhere, truth)
    return {
        "stats": everywhere.stats,
        "stats_annotated": annotated.stats,
        "per_class": classes,
        "per_class_annotated": classes if annotated is everywhere else per_class(annotated, truth),
    }


def _outside(area: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """Say for each of the ranges [A, 2] whether each area [n] lies outside: bool [A, n]."""
    return (area < ranges[:, :1]) | (area > ranges[:, 1:])


def _joined(rows: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(rows) if rows else np.zeros(0, MATCH)
