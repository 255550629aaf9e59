"""Evaluation of a predictor on a COCO data set, image by image, in one or several processes."""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ppsolo.atomic import atomic_writer, made_folder
from ppsolo.checkpoint.zoo import ZooEntry
from ppsolo.data.annotations.cache import open_annotations
from ppsolo.data.annotations.image_files import ImageFiles
from ppsolo.data.classes import COCO_CLASSES, default_category_ids
from ppsolo.data.coco import log_findings
from ppsolo.data.images import read_ahead
from ppsolo.errors import ConfigError, DatasetError, ImageError, PpsoloError
from ppsolo.evaluation.coco_evaluator import IOU_TYPES, MAX_DETECTIONS, CocoEvaluator
from ppsolo.evaluation.ground_truth import GroundTruth
from ppsolo.formats.data_config import data_in_place
from ppsolo.model_source import ModelSource
from ppsolo.pipeline import Pipeline
from ppsolo.processes import ALONE, Processes
from ppsolo.progress import Progress
from ppsolo.results.instances import Instances
from ppsolo.schema import Config
from ppsolo.text import counted, first_few

logger = logging.getLogger(__name__)

# Tolerated difference between a measured and a published AP, in points.
TOLERATED_DIFFERENCE = 0.2


class EvaluationSet:
    """The images and annotations of a COCO file; no pixels are read.

    source: the file. images: (id, path) of every image, sorted by id. category_ids, class_names: in the order of
    the file. annotations: as read for training.
    Raises DatasetError if the file cannot be read, an annotation is broken, there are no images or outlines, or an
    image file does not exist.
    """

    def __init__(self, annotations: Path, image_dir: Path):
        self.source = annotations
        table = open_annotations(annotations)
        if not len(table.image_ids):
            raise DatasetError(f"{annotations}: there are no images to evaluate on")
        findings = table.findings.copy()
        files = ImageFiles(table, image_dir, findings)
        if (error := findings.first_error()) is not None:
            raise DatasetError(f"{annotations}: {error}")
        self.annotations = table
        self.truth = GroundTruth(table)
        self.truth.check_masks()
        log_findings(findings, str(annotations), annotations=len(table))
        self.images = tuple((image_id, files[index]) for index, image_id in enumerate(table.image_ids))
        self.category_ids = table.category_ids
        self.class_names = table.category_names

    def truth_of(self, image_id: Any, predicted: Instances) -> Instances:
        """Return the annotations of an image without crowds, with the classes and the size of `predicted`."""
        truth = self.truth
        rows = truth.rows(truth.image_index(image_id) or 0)
        rows = rows[~truth.crowd[rows] & truth.outlined[rows]]
        ids = [truth.category_ids[category] for category in truth.category[rows]]
        known = np.array([category_id in predicted.category_ids for category_id in ids], bool)
        return Instances(
            rles=truth.masks(rows[known]),
            scores=np.ones(int(known.sum()), np.float32),
            labels=np.array([predicted.category_ids.index(i) for i in ids if i in predicted.category_ids], np.int64),
            size=predicted.size,
            class_names=predicted.class_names,
            category_ids=predicted.category_ids,
        )


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    report: see `CocoEvaluator.summarize`. results: the COCO results of all images; empty unless they were asked for.
    They have no boxes, so that pycocotools takes sizes from the masks, as it does for the published numbers.
    origin: where the weights come from. description: the runtime of the network.
    matches: every detection with its match, MATCH [m], for each IoU type; see `ppsolo.evaluation.matching`.
    """

    report: dict[str, Any]
    results: list[dict[str, Any]]
    origin: str
    description: str
    matches: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        aps = ", ".join(
            f"{kind}_AP {100 * self.report[kind]['stats'][0]:.1f}" for kind in IOU_TYPES if kind in self.report
        )
        return f"Evaluation({counted(self.report['images'], 'image')}: {aps})"


def evaluate(
    predictor: Pipeline,
    dataset: EvaluationSet,
    *,
    batch_size: int = 1,
    iou_types: Sequence[str] = IOU_TYPES,
    keep_results: bool = False,
    max_detections: int = MAX_DETECTIONS,
    processes: Processes = ALONE,
    progress: Progress | None = None,
) -> Evaluation:
    """Predict on every image of a data set and compare with its annotations; boxes come from the masks.

    Each mask is compared at once and then dropped. If there are several processes, each takes a share of the images,
    and all return the whole report. `progress` counts the images of this process. `max_detections`: see
    `CocoEvaluator`. Raises ImageError if an image cannot be read, because AP without this image would be wrong.
    """
    evaluator = CocoEvaluator(
        dataset.annotations, iou_types=iou_types, box_from_mask=True, max_detections=max_detections
    )
    share = dataset.images[processes.rank :: processes.world_size]
    results: list[dict[str, Any]] = []
    with closing(read_ahead([path for _, path in share], depth=batch_size + 1, read=predictor.read)) as ahead:
        images = ((image_id, _readable(read)) for (image_id, _), read in zip(share, ahead, strict=True))
        done = 0
        for found in predictor.stream(iter(lambda: list(islice(images, batch_size)), [])):
            for image_id, _, instances in found:
                evaluator.add(image_id, instances)
                if keep_results:
                    results += [_without_box(entry) for entry in instances.to_coco(image_id)]
            done += len(found)
            if progress is not None:
                progress(done, len(share))
    states = processes.gather(evaluator.state())
    evaluator.merge(state for rank, state in enumerate(states) if rank != processes.rank)
    shares = processes.gather(results) if keep_results else [results]
    place = {image_id: number for number, (image_id, _) in enumerate(dataset.images)}
    results = sorted((entry for entries in shares for entry in entries), key=lambda entry: place[entry["image_id"]])
    report = {**evaluator.summarize(), "annotations": str(dataset.source)}
    return Evaluation(report, results, predictor.origin, predictor.description, evaluator.state().matches)


def open_evaluation_set(config: Config) -> tuple[EvaluationSet, Config]:
    """Return the validation images of a configuration, and the configuration with their classes.

    Raises PpsoloError if there are none, or they cannot be read.
    """
    if not config.data.val_annotations:
        raise ConfigError("there are no annotations to evaluate on: set data.val_annotations")
    data = data_in_place(config.data, Path(config.train.output_dir) / config.name / "annotations", needed="val")
    dataset = EvaluationSet(Path(data.root) / data.val_annotations, Path(data.root) / data.val_images)
    config = with_classes(
        config, category_ids=dataset.category_ids, class_names=dataset.class_names, source=dataset.source
    )
    return dataset, config


def evaluate_source(
    source: ModelSource,
    *,
    batch_size: int = 1,
    keep_results: bool = False,
    max_detections: int = MAX_DETECTIONS,
    processes: Processes = ALONE,
    download: Progress | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Run `evaluate` for a model on the validation images of its configuration.

    download: called with (bytes done, all bytes) while published weights are fetched. Raises PpsoloError.
    """
    dataset, config = open_evaluation_set(source.config)
    predictor = dataclasses.replace(source, config=config).open(progress=download)
    return evaluate(
        predictor,
        dataset,
        batch_size=batch_size,
        keep_results=keep_results,
        max_detections=max_detections,
        processes=processes,
        progress=progress,
    )


def compare_with_published(entry: ZooEntry, report: Mapping[str, Any]) -> tuple[str, bool]:
    """Return a line with both mask APs, and whether they agree; True if none was published.

    The measured AP counts only images with annotations, because the published systems were evaluated on these only.
    """
    measured = 100 * report["segm"]["stats_annotated"][0]
    if entry.mask_ap is None:
        return f"{entry.name}: mask AP measured {measured:.1f}, none published", True
    agrees = abs(measured - entry.mask_ap) <= TOLERATED_DIFFERENCE
    verdict = "agree" if agrees else f"differ by more than {TOLERATED_DIFFERENCE}"
    both = f"published {entry.mask_ap:.1f}, measured {measured:.1f} ({measured - entry.mask_ap:+.2f})"
    return f"{entry.name}: mask AP {both}: they {verdict}", agrees


def write_results(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Write COCO results, whole or not at all; create missing folders. Raises PpsoloError if that fails."""
    try:
        with made_folder(path.parent), atomic_writer(path, "w") as stream:
            stream.write("[\n" + ",\n".join(map(json.dumps, results)) + "\n]\n")
    except OSError as error:
        raise PpsoloError(f"cannot write {path}: {error.strerror or error}") from None


def with_classes(
    config: Config,
    *,
    category_ids: Sequence[int | str],
    class_names: Sequence[str],
    source: Path,
    order_of_file: bool = False,
) -> Config:
    """Fill the classes of a data set into a configuration that does not state them.

    Labels follow the order of the categories in the file, as in PaddleDetection. A file with COCO's 80 categories gets
    the published order, unless `order_of_file`. A warning names the order if the ids do not ascend.

    category_ids, class_names: those of the data set, in its order. source: its name in errors.
    Raises ConfigError if the ids or their number differ; it says what to set.
    """
    number = len(category_ids)
    if texts := [identity for identity in category_ids if isinstance(identity, str)]:
        raise ConfigError(f"{source}: the category id {texts[0]!r} is not a number; number the categories from 1")
    numbers = tuple(identity for identity in category_ids if isinstance(identity, int))
    if config.category_ids:
        if unknown := [i for i in config.category_ids if i not in category_ids]:
            raise ConfigError(
                f"{source} has no category {unknown[0]} but the configuration's category_ids or the training "
                "annotations have: correct one of them"
            )
        ids = config.category_ids
    elif number != config.num_classes:
        shown = first_few(class_names)
        raise ConfigError(
            f"{source} has {counted(number, 'category')} ({shown}), the configuration "
            f"{counted(config.num_classes, 'class')}: set num_classes={number}"
        )
    else:
        published = default_category_ids(number)
        is_coco = number == len(COCO_CLASSES) and set(published) == set(category_ids) and not order_of_file
        ids = published if is_coco else numbers
        if list(numbers) != sorted(numbers):
            order = "the published order" if is_coco else "the order of the file"
            logger.warning("%s: labels 0, 1, ... are the categories %s: %s", source, first_few(ids, 5), order)
    names = dict(zip(category_ids, class_names, strict=True))
    if len(set(class_names)) < number:
        names = {category_id: f"{name} {category_id}" for category_id, name in names.items()}
    own_names = config.class_names or tuple(names[i] for i in ids)
    return dataclasses.replace(config, category_ids=ids, class_names=own_names)


def _readable(source: tuple[Path, np.ndarray | ImageError]) -> np.ndarray:
    """Return the image, or raise the error that came instead of it."""
    _, image = source
    if isinstance(image, ImageError):
        raise image
    return image


def _without_box(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "bbox"}
