"""The data settings of a configuration whose folder holds annotations of another tool."""

import dataclasses
import json
import logging
import os
from pathlib import Path
from typing import Literal

from ppsolo.atomic import atomic_writer
from ppsolo.errors import DatasetError
from ppsolo.formats.annotated import Notes
from ppsolo.formats.dataset import check_classes, coco_content
from ppsolo.formats.folder import Folder
from ppsolo.formats.recognition import describe, read_folder, recognise
from ppsolo.formats.split import divide
from ppsolo.schema import DataConfig

logger = logging.getLogger(__name__)


def data_in_place(data: DataConfig, cache: Path, *, needed: Literal["train", "val"]) -> DataConfig:
    """The settings as given if their annotation file exists, else those for annotations that `data.root` itself holds.

    The folder is read as `ppsolo import-data` reads it: its own division into training and validation is kept, or
    every fifth picture, by a fixed seed, goes to validation. The annotations are written as COCO files to the folder
    `cache`; the pictures stay where they are.

    needed: whose annotation file must exist.

    Raises DatasetError where there is neither: what the folder looks like, and the command that helps.
    """
    root = Path(data.root)
    named = data.train_annotations if needed == "train" else data.val_annotations
    if not named or (root / named).is_file() or not root.is_dir():
        return data
    folder = Folder(root)
    found = recognise(folder)
    if len(found) != 1:
        shown = "; ".join(f"{name}: {text}" for name, text in found.items()) or describe(folder)
        chosen = f" --format {next(iter(found))}" if found else ""
        raise DatasetError(
            f"{root / named}: no such file, and {root} holds {shown}; set data.{needed}_annotations, or make a data "
            f"set: ppsolo import-data {root}{chosen} --output DIR"
        )
    dataset = read_folder(root)
    check_classes(dataset)
    notes, parts = Notes(), divide(dataset.images)
    cache.mkdir(parents=True, exist_ok=True)
    files = {}
    for name in ("train", "val"):
        pictures = [os.path.relpath(image.path, root).replace(os.sep, "/") for image in parts[name]]
        files[name] = cache.resolve() / f"instances_{name}.json"
        with atomic_writer(files[name], "w") as stream:
            content = coco_content(parts[name], pictures, dataset.class_names, notes)
            json.dump(content, stream, ensure_ascii=False)
    logger.info(
        "%s: %s; %d images to train on, %d for validation, written as COCO files to %s",
        root,
        found[dataset.format],
        len(parts["train"]),
        len(parts["val"]),
        cache,
    )
    for line in (*dataset.notes, *notes.lines()):
        logger.warning("%s: %s", root, line)
    return dataclasses.replace(
        data,
        train_annotations=str(files["train"]),
        train_images=".",
        val_annotations=str(files["val"]) if data.val_annotations and parts["val"] else "",
        val_images=".",
    )
