"""Data to calibrate a quantized model: prepared pictures, and a function that measures average precision."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ppsolo.build.pipeline import build_preprocess
from ppsolo.config import Config
from ppsolo.data.annotations.json_file import read_json
from ppsolo.data.files import find_images
from ppsolo.data.images import read_image
from ppsolo.errors import ConfigError
from ppsolo.evaluation.evaluate import EvaluationSet, evaluate, with_classes
from ppsolo.legacy.dataset_folder import found_data
from ppsolo.pipeline import Pipeline
from ppsolo.progress import Progress

MOST_IMAGES = 128

Measure = Callable[[Pipeline], float]


def calibration_data(
    config: Config,
    source: str | os.PathLike[str],
    *,
    image_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> tuple[list[np.ndarray], Measure | None]:
    """Return prepared images, float32 [3, H, W], and a function that measures the mask AP of a predictor.

    The images are at most MOST_IMAGES pictures, evenly chosen.

    Args:
        config: says how to prepare pictures; names the validation data.
        source: a folder of pictures or a COCO file. AP is measured on all pictures of the COCO file. For a folder,
            AP is measured on the validation data of the configuration; without such data, the function is None.
        image_dir: the pictures of the COCO file. Default: the configuration's folder that holds its first picture,
            or else the folder of the file.
        progress: called with the pictures evaluated so far.

    Raises PpsoloError if a file is missing or cannot be read.
    """
    source = Path(source)
    if source.is_dir():
        paths = list(find_images(source).images)
        data = found_data(config.data)
        annotations = Path(data.root) / data.val_annotations if data.val_annotations else None
        dataset = None
        if annotations is not None and annotations.is_file():
            dataset = EvaluationSet(annotations, Path(data.root) / data.val_images)
    elif source.is_file():
        dataset = EvaluationSet(source, Path(image_dir) if image_dir is not None else _image_dir(config, source))
        paths = [path for _, path in dataset.images]
    else:
        raise ConfigError(f"--calibrate {source}: no such folder or COCO file")
    places = np.linspace(0, len(paths) - 1, min(MOST_IMAGES, len(paths))).round().astype(int)
    chosen = [paths[place] for place in np.unique(places)]
    preprocess = build_preprocess(config)
    images = [preprocess(read_image(path))[0] for path in chosen]
    return images, None if dataset is None else _measure(config, dataset, progress)


def _measure(config: Config, dataset: EvaluationSet, progress: Progress | None) -> Measure:
    config = with_classes(
        config, category_ids=dataset.category_ids, class_names=dataset.class_names, source=dataset.source
    )

    def measure(predictor: Pipeline) -> float:
        found = evaluate(predictor.adapted(config), dataset, iou_types=("segm",), progress=progress)
        return float(found.report["segm"]["stats"][0])

    return measure


def _image_dir(config: Config, annotations: Path) -> Path:
    """Find the folder that holds the first picture of a COCO file; raise ConfigError if none of the usual ones does."""
    images = read_json(annotations).get("images") or [{}]
    name = str(images[0].get("file_name", ""))
    data = config.data
    stem = annotations.stem.removeprefix("instances_")
    candidates = [
        Path(data.root) / data.val_images,
        Path(data.root) / data.train_images,
        annotations.parent,
        annotations.parent / stem,
        annotations.parent / "images",
        annotations.parent.parent / stem,
        annotations.parent.parent / "images",
    ]
    for folder in candidates:
        if name and (folder / name).is_file():
            return folder
    raise ConfigError(f"{annotations}: its pictures were not found: add --calibrate_images DIR")
