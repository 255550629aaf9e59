"""Reads Pascal VOC segmentation: JPEGImages with masks in SegmentationObject and SegmentationClass."""

import re
from pathlib import Path

import numpy as np

from ppsolo.errors import DatasetError
from ppsolo.formats.annotated import AnnotatedImage, AnnotatedObject, AnnotatedSet, Notes
from ppsolo.formats.folder import Folder, read_lines
from ppsolo.formats.mask_files import colors_as_ids, read_mask_file
from ppsolo.formats.mask_runs import label_segmentations

NAME = "voc"
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_BORDER = (224 << 16) + (224 << 8) + 192  # the colour of pixels that are neither object nor background


def evidence(folder: Folder) -> str:
    """Return the sign that the folder has this format, or ""."""
    masks = _masks(folder, "SegmentationObject")
    return f"{len(masks)} masks in SegmentationObject" if masks and _masks(folder, "SegmentationClass") else ""


def read(folder: Folder) -> AnnotatedSet:
    """Read each colour of a SegmentationObject mask as an object; its class is the most frequent one below it.

    Class colours come from labelmap.txt, as CVAT writes it, or are VOC's own. The split comes from
    ImageSets/Segmentation. Border pixels belong to nothing.

    Raises DatasetError for masks that are missing, unreadable or of different sizes, and for a class without a name.
    """
    notes = Notes()
    names = _class_colors(folder)
    classes = {file.stem: file for file in _masks(folder, "SegmentationClass")}
    splits = _splits(folder)
    images = []
    for file in _masks(folder, "SegmentationObject"):
        found = [p for p in folder.by_stem.get(file.stem, []) if p.parent.name.startswith("JPEGImages")]
        if len(found) != 1 or file.stem not in classes:
            notes.add("mask without its picture or its class mask left out", folder.name(file))
            continue
        objects, kinds = _colors(file), _colors(classes[file.stem])
        if objects.shape != kinds.shape:
            raise DatasetError(f"{file}: its size differs from {classes[file.stem]}")
        size = (objects.shape[0], objects.shape[1])
        masks, found_kinds = label_segmentations(objects), _kinds(objects, kinds)
        listed = tuple(
            AnnotatedObject(_name_of(found_kinds.get(color), names, file), mask)
            for color, mask in masks.items()
            if color != _BORDER
        )
        images.append(AnnotatedImage(found[0], size, listed, splits.get(file.stem, "")))
    if not images:
        raise DatasetError(f"{folder.path}: no mask in SegmentationObject has a picture in JPEGImages")
    used = {one.name for image in images for one in image.objects}
    return AnnotatedSet(NAME, tuple(name for name in names.values() if name in used), tuple(images), notes.lines())


def voc_color(index: int) -> int:
    """Return the colour at an index of VOC's palette, as red * 65536 + green * 256 + blue."""
    red = green = blue = 0
    for bit in range(8):
        red |= (index >> (3 * bit) & 1) << (7 - bit)
        green |= (index >> (3 * bit + 1) & 1) << (7 - bit)
        blue |= (index >> (3 * bit + 2) & 1) << (7 - bit)
    return (red << 16) + (green << 8) + blue


def _masks(folder: Folder, name: str) -> list[Path]:
    return [file for file in folder.with_suffix(".png") if name in file.parts[:-1]]


def _colors(file: Path) -> np.ndarray:
    picture = read_mask_file(file)
    if picture.ndim == 2:  # indices saved without VOC's palette
        palette = np.array([voc_color(index) for index in range(256)], np.int64)
        return palette[np.asarray(picture, np.uint8)]
    return colors_as_ids(picture[:, :, :3], file)


def _kinds(objects: np.ndarray, kinds: np.ndarray) -> dict[int, int]:
    """Return the most frequent class colour below each colour of an object, both int64 [h, w]; the lowest of equals."""
    inside = (kinds != 0) & (kinds != _BORDER)
    pairs, counts = np.unique((objects[inside] << 24) + kinds[inside], return_counts=True)
    most: dict[int, tuple[int, int]] = {}
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        color, kind = divmod(pair, 1 << 24)
        if count > most.get(color, (0, 0))[0]:
            most[color] = (count, kind)
    return {color: kind for color, (_, kind) in most.items()}


def _name_of(color: int | None, names: dict[int, str], file: Path) -> str:
    if color is None:
        raise DatasetError(f"{file}: an object has no class in SegmentationClass")
    if color not in names:
        rgb = (color >> 16, color >> 8 & 255, color & 255)
        raise DatasetError(f"{file}: no class has the colour {rgb}; name it in labelmap.txt")
    return names[color]


def _class_colors(folder: Folder) -> dict[int, str]:
    """Return colour -> name."""
    for file in folder.files:
        if file.name == "labelmap.txt":
            found = {}
            for line in read_lines(file):
                name, color = ([*line.split(":"), "", ""])[:2]
                numbers = re.fullmatch(r"\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*", color)
                if not line.startswith("#") and name != "background" and numbers:
                    red, green, blue = map(int, numbers.groups())
                    found[(red << 16) + (green << 8) + blue] = name
            return found
    return {voc_color(index): name for index, name in enumerate(VOC_CLASSES, start=1)}


def _splits(folder: Folder) -> dict[str, str]:
    """Return stem -> "train" or "val"."""
    splits = {}
    for file in folder.with_suffix(".txt"):
        if file.parent.name == "Segmentation" and file.stem in ("train", "val", "test"):
            splits |= dict.fromkeys((line.split()[0] for line in read_lines(file)), file.stem)
    return splits
