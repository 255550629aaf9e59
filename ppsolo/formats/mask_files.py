"""Reads PNG masks: one label map per picture, or one file per instance."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from ppsolo.data.decoder_lines import decoder_lines
from ppsolo.data.headers import format_of, without_packed_texts
from ppsolo.data.images import MAX_PIXELS
from ppsolo.data.pnm import decode_pnm
from ppsolo.data.tiff import first_tags
from ppsolo.errors import DatasetError, ImageError
from ppsolo.formats.annotated import (
    AnnotatedImage,
    AnnotatedObject,
    AnnotatedSet,
    Notes,
    mask_segmentation,
    sorted_names,
)
from ppsolo.formats.folder import Folder, picture_sizes
from ppsolo.formats.mask_runs import label_segmentations
from ppsolo.text import counted

LABEL_MAPS, INSTANCE_MASKS = "label_maps", "instance_masks"

_MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
MASK_FOLDERS = (
    *("masks", "mask", "labels", "label", "label_map", "label_maps", "labelmap", "annotations", "gt", "ground_truth"),
    *("groundtruth", "instances", "instance_masks", "segmentation", "segmentations"),
)
_MASK_ENDINGS = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "_instances", "_seg", "-mask", "-label")
_NUMBERED = re.compile(r"\d+[_-](.*\D.*)")  # 0001_person
_WIDEST_MASK = 2**16  # more values than that in one map cannot be ids
_MOST_COLORS = 4096  # more colours than that are a photograph

Pairs = dict[Path, list[Path]]  # picture -> its masks


def label_map_evidence(folder: Folder) -> str:
    """Return the sign that the folder has label maps, or ""."""
    pairs = _label_map_pairs(folder)
    return f"{counted(len(pairs), 'picture')} with a mask of the same name" if pairs else ""


def instance_mask_evidence(folder: Folder) -> str:
    """Return the sign that the folder has one mask per instance, or ""."""
    pairs = _instance_pairs(folder)
    masks = sum(map(len, pairs.values()))
    return f"{len(pairs)} pictures with {masks} masks, a file per instance" if pairs else ""


def read_label_maps(folder: Folder, class_name: str = "object") -> AnnotatedSet:
    """Read masks in which each value except 0 is one object, even in several parts; in a colour mask, each colour but
    black.

    If every mask has only one value, masks do not distinguish objects: each connected part becomes an object, and a
    note says so.

    Raises DatasetError for a mask that is unreadable, has another size than its picture, or is a photograph.
    """
    notes = Notes()
    pairs = {picture: masks[0] for picture, masks in _label_map_pairs(folder).items()}
    _note_unpaired(folder, {*pairs, *pairs.values()}, notes)
    maps = ((picture, mask, read_label_map(mask)) for picture, mask in pairs.items())
    values = {mask: np.unique(labels[labels > 0]) for _, mask, labels in maps}
    connected = all(len(found) <= 1 for found in values.values()) and len(set(map(tuple, values.values()))) <= 2
    images = []
    sizes = picture_sizes(pairs)
    for picture, mask in pairs.items():
        labels = read_label_map(mask)
        _check_size(mask, labels.shape, picture, sizes[picture])
        if connected:
            notes.add("mask with a single value: each connected part is used as an object", folder.name(mask))
            parts, labels = cv2.connectedComponents((labels > 0).view(np.uint8), connectivity=8)
            if parts - 1 > _WIDEST_MASK:
                raise DatasetError(f"{mask}: {parts - 1} separate parts cannot be objects; remove its noise")
        objects = tuple(AnnotatedObject(class_name, mask) for mask in label_segmentations(labels).values())
        images.append(AnnotatedImage(picture, (labels.shape[0], labels.shape[1]), objects, folder.split_of(picture)))
    return AnnotatedSet(LABEL_MAPS, (class_name,), tuple(images), notes.lines())


def read_instance_masks(folder: Folder, class_name: str = "object") -> AnnotatedSet:
    """Read masks in which each file is one object: the pixels above half of its largest value.

    Names like "0001_person.png" give the class; others get `class_name`. Raises DatasetError like `read_label_maps`.
    """
    notes = Notes()
    images = []
    pairs = _instance_pairs(folder)
    _note_unpaired(folder, {*pairs, *(mask for masks in pairs.values() for mask in masks)}, notes)
    sizes = picture_sizes(pairs)
    for picture, masks in pairs.items():
        objects, size = [], None
        for file in masks:
            mask = _grey(file)
            if size not in (None, mask.shape):
                raise DatasetError(
                    f"{file}: this mask is {mask.shape}, others of its picture are {size} (height, width)"
                )
            _check_size(file, mask.shape, picture, sizes[picture])
            size = mask.shape
            inside = mask > mask.max() / 2
            if not inside.any():
                notes.add("empty mask left out", folder.name(file))
                continue
            named = _NUMBERED.fullmatch(file.stem)
            objects.append(AnnotatedObject(named[1] if named else class_name, mask_segmentation(inside)))
        if size is not None:
            images.append(AnnotatedImage(picture, (size[0], size[1]), tuple(objects), folder.split_of(picture)))
    return AnnotatedSet(INSTANCE_MASKS, sorted_names(images), tuple(images), notes.lines())


def _note_unpaired(folder: Folder, used: set[Path], notes: Notes) -> None:
    for file in folder.pictures:
        if file not in used:
            notes.add("picture without a mask, or mask without a picture, left out", folder.name(file))


def _check_size(mask: Path, size: tuple[int, ...], picture: Path, wanted: tuple[int, int]) -> None:
    """Raise DatasetError for a mask that has another size than its picture."""
    if size != wanted:
        sizes = f"{size[0]} x {size[1]}, its picture {picture} {wanted[0]} x {wanted[1]} (height x width)"
        raise DatasetError(f"{mask}: this mask is {sizes}; make it again in the picture's size")


def read_label_map(file: Path) -> np.ndarray:
    """Return the ids of a mask: int64 [h, w], 0 for background. In a colour mask, each colour except black is an id."""
    picture = read_mask_file(file)
    if picture.ndim == 3:
        if picture.shape[2] == 4:  # opacity has no meaning for ids
            picture = picture[:, :, :3]
        return colors_as_ids(picture, file)
    if picture.dtype.kind == "f" and not np.array_equal(picture, np.rint(picture)):
        raise DatasetError(f"{file}: a mask must have integers, this one has fractions")
    ids = picture.astype(np.int64)
    if ids.max() > 0 and len(np.unique(ids)) > _WIDEST_MASK:
        raise DatasetError(f"{file}: more than {_WIDEST_MASK} values cannot be ids of objects")
    return ids


def colors_as_ids(picture: np.ndarray, file: Path) -> np.ndarray:
    """[h, w, 3] -> int64 [h, w]: red * 65536 + green * 256 + blue, from OpenCV's order of channels.

    Raises DatasetError for more than `_MOST_COLORS` colours: then it is a photograph.
    """
    blue, green, red = np.moveaxis(picture.astype(np.int64), 2, 0)
    ids = (red << 16) + (green << 8) + blue
    if len(np.unique(ids)) > _MOST_COLORS:
        raise DatasetError(f"{file}: more than {_MOST_COLORS} colours: a photograph, not a mask")
    return ids


def _grey(file: Path) -> np.ndarray:
    picture = read_mask_file(file)
    return picture[:, :, :3].max(axis=2) if picture.ndim == 3 else picture


def read_mask_file(file: Path) -> np.ndarray:
    """Read the stored values of a mask file: [h, w] or [h, w, channels]. Raises DatasetError."""
    try:
        return decode_mask_file(file.read_bytes())
    except ValueError as error:
        raise DatasetError(f"{file}: this mask cannot be read ({error}); save it as PNG") from None


def decode_mask_file(data: bytes) -> np.ndarray:
    """Decode the bytes of a mask file. Raises ValueError: damage, too many pixels, or no picture."""
    try:
        known = format_of(data)
        if known.check is not None:
            known.check(data, MAX_PIXELS)
        elif known.name == "TIFF":
            first_tags(data, MAX_PIXELS)
        if known.name == "PNM":  # OpenCV may find another size in its header than the checked one
            return decode_pnm(data).values[..., ::-1] if data[1:2] in b"36" else decode_pnm(data).values
        if known.name == "PNG":
            data = without_packed_texts(data)
        with decoder_lines():
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (ImageError, cv2.error) as error:
        raise ValueError(str(error.err if isinstance(error, cv2.error) else error)) from None
    if picture is None:
        raise ValueError("it is damaged, cut short or of an unusual kind")
    return picture


def _label_map_pairs(folder: Folder) -> Pairs:
    """Return pictures with one mask each: with the same stem in a folder of masks, or next to them with a suffix."""
    pairs: Pairs = {}
    masks = [file for file in folder.pictures if file.suffix.lower() in _MASK_SUFFIXES and _is_mask(folder, file)]
    taken = set(masks)
    pictures = defaultdict(list)
    for picture in folder.pictures:
        if picture not in taken:
            pictures[picture.stem].append(picture)
    for mask in masks:
        same = pictures.get(mask.stem) or pictures.get(_bare_stem(mask), [])
        near = [p for p in same if folder.split_of(p) == folder.split_of(mask)] if len(same) > 1 else same
        if len(near) == 1:
            pairs.setdefault(near[0], []).append(mask)
    return {picture: found for picture, found in sorted(pairs.items()) if len(found) == 1}


def _is_mask(folder: Folder, file: Path) -> bool:
    """Whether a folder of the file's path, or the end of its name, says that it is a mask."""
    folders = file.relative_to(folder.path).parts[:-1]
    return any(part.lower() in MASK_FOLDERS for part in folders) or _bare_stem(file) != file.stem


def _bare_stem(mask: Path) -> str:
    for ending in _MASK_ENDINGS:
        if mask.stem.lower().endswith(ending):
            return mask.stem[: -len(ending)]
    return mask.stem


def _instance_pairs(folder: Folder) -> Pairs:
    """Return pictures with a folder of masks: X/images/X.png with X/masks/*, or X.png with masks/X/*."""
    of_folder = defaultdict(list)
    for file in folder.pictures:
        if file.suffix.lower() in _MASK_SUFFIXES:
            of_folder[file.parent].append(file)
    pairs: Pairs = {}
    for place, masks in of_folder.items():
        picture = _picture_of(folder, place, _pictures_beside(folder, place))
        if picture is not None:
            pairs[picture] = masks
    return dict(sorted(pairs.items()))


def _pictures_beside(folder: Folder, place: Path) -> list[Path]:
    return [picture for picture in folder.pictures if picture.parent == place.parent / "images"]


def _picture_of(folder: Folder, place: Path, beside: Iterable[Path]) -> Path | None:
    if place.name.lower() in MASK_FOLDERS:
        beside = list(beside)
        return beside[0] if len(beside) == 1 and place.parent != folder.path else None
    if place.parent.name.lower() in MASK_FOLDERS:
        same = [p for p in folder.by_stem.get(place.name, []) if p.parent != place]
        return same[0] if len(same) == 1 else None
    return None
