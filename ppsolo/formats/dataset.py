"""Writes a COCO data set from annotated pictures: annotation files, pictures, and a configuration to train with."""

import contextlib
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ppsolo.atomic import atomic_writer, is_draft, made_folder, scratch_folder
from ppsolo.checkpoint.lock import WITHOUT_LOCKS, sole_holder
from ppsolo.errors import DatasetError
from ppsolo.formats.annotated import AnnotatedImage, AnnotatedObject, AnnotatedSet, Notes
from ppsolo.outputs import check_output_folder
from ppsolo.progress import Progress
from ppsolo.results.rle import Rle, mask_areas, mask_boxes_xywh, read_segmentation
from ppsolo.text import json_text, one_line

LOCK = "import.lock"
CONFIG_FILE = "config.yml"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WrittenSet:
    """The result of writing a data set.

    Attributes:
        folder: the folder of the data set.
        images, objects: their numbers in each part: "train", "val" and perhaps "test".
        class_names: one per category; category ids are 1, 2, ...
        notes: a line for each kind of object that was left out.
    """

    folder: Path
    images: dict[str, int]
    objects: dict[str, int]
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


def check_new_dataset(output: Path, source: Path) -> None:
    """Raise an error, before anything is read, if a data set made of the folder `source` cannot be written there.

    Raises ConfigError if the place is not writable; DatasetError if it is not empty, or lies in `source`: the next
    import of `source` would read it too.
    """
    check_output_folder(output, "--output")
    if output.is_dir() and any(name != LOCK and not is_draft(name) for name in os.listdir(output)):
        raise DatasetError(f"{output}: this folder is not empty; choose another --output")
    if Path(os.path.realpath(output)).is_relative_to(os.path.realpath(source)):
        raise DatasetError(f"{output}: this folder lies in {source}, which is the source; choose another --output")


@contextlib.contextmanager
def new_dataset(output: Path) -> Iterator[Path]:
    """Yield a hidden folder in `output`; if the block succeeds, its content moves to `output`, config.yml last.

    After any exception nothing is left. What an import that was killed left is removed, and the log says so.

    Raises:
        DatasetError: the folder is not empty, or another import is at work in it.
        OSError: it cannot be written to.
    """
    with made_folder(output), _sole_import(output):
        before = os.listdir(output)
        with scratch_folder(output.absolute() / "draft") as draft:
            if set(os.listdir(output)) - {draft.name, LOCK}:
                raise DatasetError(f"{output}: this folder is not empty; choose another --output")
            if any(name != LOCK for name in before):
                logger.warning("%s: an earlier import did not finish; starting again", output)
            yield draft
            for name in sorted(os.listdir(draft), key=lambda name: name == CONFIG_FILE):
                os.rename(draft / name, output / name)


@contextlib.contextmanager
def _sole_import(output: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(sole_holder(output / LOCK, patience=0.0))
        except BlockingIOError:
            raise DatasetError(f"{output}: another import is at work there; choose another --output") from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
        yield


def write_dataset(
    parts: dict[str, list[AnnotatedImage]],
    class_names: Sequence[str],
    output: Path,
    *,
    pictures: Literal["link", "copy"] = "link",
    progress: Progress | None = None,
) -> WrittenSet:
    """Write `instances_<part>.json` and a folder `<part>` of pictures for each part.

    Pictures keep their names; a second picture of the same name gets _2, and so on. "link" makes hard links, or copies
    if the file system has no links.

    Raises:
        DatasetError: the folder is not empty, or a picture cannot be read.
        OSError: a file cannot be written.
    """
    if output.exists() and any(output.iterdir()):
        raise DatasetError(f"{output}: this folder is not empty; choose another --output")
    notes, images, objects = Notes(), {}, {}
    total, done = sum(map(len, parts.values())), 0
    for name, members in parts.items():
        folder = output / name
        folder.mkdir(parents=True, exist_ok=True)
        files = _file_names(members)
        for image, file in zip(members, files, strict=True):
            _place(image.path, folder / file, pictures)
            done += 1
            if progress is not None:
                progress(done, total)
        content = coco_content(members, files, class_names, notes)
        with atomic_writer(output / f"instances_{name}.json", "w") as stream:
            stream.write(json_text(content))
        images[name], objects[name] = len(members), len(content["annotations"])
    return WrittenSet(output, images, objects, tuple(class_names), notes.lines())


def coco_content(
    images: Sequence[AnnotatedImage], file_names: Sequence[str], class_names: Sequence[str], notes: Notes
) -> dict[str, Any]:
    """Return the content of a COCO file. Ids of pictures, annotations and categories count from 1.

    An object without a pixel or with an invalid outline is left out and noted.
    """
    ids = {name: number for number, name in enumerate(class_names, start=1)}
    annotations: list[dict[str, Any]] = []
    for image_id, (image, file) in enumerate(zip(images, file_names, strict=True), start=1):
        read: list[tuple[AnnotatedObject, Rle]] = []
        for one in image.objects:
            try:
                read.append((one, read_segmentation(one.segmentation, image.size)))
            except ValueError as error:
                notes.add(f"object left out: {error}", file)
        rles = [rle for _, rle in read]
        areas, boxes = mask_areas(rles).tolist(), mask_boxes_xywh(rles).tolist()
        for (one, _), area, box in zip(read, areas, boxes, strict=True):
            if area == 0:
                notes.add("object without a pixel left out", file)
                continue
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": ids[one.name],
                    "segmentation": one.segmentation,
                    "area": area,
                    "bbox": box,
                    "iscrowd": int(one.crowd),
                }
            )
    return {
        "info": {"description": "written by ppsolo import-data"},
        "images": [
            {"id": number, "file_name": file, "height": image.size[0], "width": image.size[1]}
            for number, (image, file) in enumerate(zip(images, file_names, strict=True), start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }


def training_config(written: WrittenSet, bases: Sequence[str], weights: str | None) -> str:
    """Return a configuration, as YAML, to train on the data set.

    bases: configurations that it builds on. weights: the start of training.
    """
    data = {"root": str(written.folder.resolve()), "train_annotations": "instances_train.json", "train_images": "train"}
    has_val = written.objects.get("val", 0) > 0
    data |= {"val_annotations": "instances_val.json" if has_val else "", "val_images": "val"}
    lines = [
        f"_BASE_: {json_text(list(bases))}",
        f"name: {json_text(one_line(written.folder.resolve().name))}",
        *([] if weights is None else [f"weights: {weights}"]),
        f"num_classes: {len(written.class_names)}",
        "data:",
        *(f"  {key}: {json_text(value)}" for key, value in data.items()),
    ]
    return "\n".join(lines) + "\n"


def _file_names(images: Sequence[AnnotatedImage]) -> list[str]:
    """Give each picture a unique name."""
    taken: Counter[str] = Counter()
    names = []
    for image in images:
        name, number = image.path.name, 1
        while taken[name.casefold()]:
            number += 1
            name = f"{image.path.stem}_{number}{image.path.suffix}"
        taken[name.casefold()] = 1
        names.append(name)
    return names


def _place(source: Path, target: Path, how: Literal["link", "copy"]) -> None:
    try:
        if how == "link":
            try:
                os.link(source.resolve(), target)
                return
            except OSError:  # another file system, or no links
                pass
        shutil.copyfile(source, target)
    except OSError as error:
        raise DatasetError(f"{source}: cannot be linked or copied to {target} ({error.strerror or error})") from None


def check_classes(dataset: AnnotatedSet) -> None:
    """Raise DatasetError if no picture has an object."""
    if not dataset.class_names or not any(image.objects for image in dataset.images):
        raise DatasetError("no picture has an outlined object; draw some first")
