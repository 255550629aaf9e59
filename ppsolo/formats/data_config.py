"""The data settings of a configuration whose folder has annotations of another tool."""

import dataclasses
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
from ppsolo.legacy.dataset_folder import found_data
from ppsolo.schema import DataConfig
from ppsolo.text import json_text, typed

logger = logging.getLogger(__name__)


def data_in_place(data: DataConfig, cache: Path, *, needed: Literal["train", "val"]) -> DataConfig:
    """Return the settings unchanged if their annotation file exists; else use the annotations in `data.root`.

    If the default root does not exist, PaddleDetection's `dataset/coco` replaces it.

    The folder is used only if no annotation file was named: the setting is the default, or empty for training. It is
    read like `ppsolo import-data`: its own split into training and validation is kept; otherwise every fifth picture,
    with a fixed seed, goes to validation. The annotations are written as COCO files to the folder `cache`; the
    pictures stay where they are.

    needed: the part whose annotation file must exist.

    Raises DatasetError if neither exists, or a named file does not; the message describes the folder and names a
    command that helps.
    """
    data = found_data(data)
    root = Path(data.root)
    named = data.train_annotations if needed == "train" else data.val_annotations
    if (needed == "val" and not named) or (root / (named or ".")).is_file():
        return data
    if not root.is_dir():
        raise DatasetError(
            f"{root / named}: no such file; data.root names the folder of the data set: -o data.root=DIR"
        )
    folder = Folder(root)
    if not _from_folder(data, needed):
        raise _missing(folder, named, needed)
    if needed == "train" and not _from_folder(data, "val") and not (root / data.val_annotations).is_file():
        raise _missing(folder, data.val_annotations, "val")
    found = _only_format(folder, named, needed)
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
            stream.write(json_text(content))
    logger.info(
        "%s: %s; %d images to train on, %d for validation, written as COCO files to %s",
        root,
        found,
        len(parts["train"]),
        len(parts["val"]),
        cache,
    )
    for line in (*dataset.notes, *notes.lines()):
        logger.warning("%s: %s", root, line)
    if _from_folder(data, "train"):
        data = dataclasses.replace(data, train_annotations=str(files["train"]), train_images=".")
    if _from_folder(data, "val"):
        val = str(files["val"]) if data.val_annotations and parts["val"] else ""
        data = dataclasses.replace(data, val_annotations=val, val_images=".")
    return data


def _only_format(folder: Folder, named: str | None, needed: Literal["train", "val"]) -> str:
    """Return the evidence of the folder's format. Raises DatasetError if it has none, or several."""
    found, root = recognise(folder), folder.path
    if len(found) != 1:
        shown = "; ".join(f"{name}: {text}" for name, text in found.items()) or describe(folder)
        chosen = f" --format {next(iter(found))}" if found else ""
        raise DatasetError(
            f"{root / (named or f'data.{needed}_annotations')}: no such file, and {root} holds {shown}; "
            f"set data.{needed}_annotations, or make a data set: ppsolo import-data {typed(root)}{chosen} --output DIR"
        )
    return next(iter(found.values()))


def _from_folder(data: DataConfig, name: Literal["train", "val"]) -> bool:
    """Whether no annotation file was named for a part, so that the folder may provide it."""
    default = DataConfig()
    if name == "train":
        return data.train_annotations in ("", default.train_annotations)
    return data.val_annotations in ("", default.val_annotations)


def _missing(folder: Folder, named: str, name: Literal["train", "val"]) -> DatasetError:
    """Return the error for a named file that does not exist."""
    files = [folder.name(file) for file in folder.with_suffix(".json")]
    shown = ", ".join(files[:5]) + (", ..." if len(files) > 5 else "")
    formats = "; ".join(f"{found}: {text}" for found, text in recognise(folder).items())
    there = f"the JSON files {shown}" if files else formats or describe(folder)
    return DatasetError(
        f"{folder.path / named}: no such file, and {folder.path} holds {there}; "
        f"correct data.{name}_annotations, or make a data set: ppsolo import-data {typed(folder.path)} --output DIR"
    )
