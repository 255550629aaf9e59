"""Recognises the format of a folder and reads its data set."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ppsolo.errors import DatasetError
from ppsolo.formats import coco, cvat, label_studio, labelme, mask_files, pascal_voc, strangers, yolo
from ppsolo.formats.annotated import AnnotatedSet, with_printable_names
from ppsolo.formats.folder import ARCHIVE_SUFFIXES, Folder
from ppsolo.text import counted


class Reader(NamedTuple):
    """One format: `evidence` returns the sign of this format ("" for none), `read` reads the folder."""

    evidence: Callable[[Folder], str]
    read: Callable[[Folder], AnnotatedSet]


# If several fit, the first counts: VOC's masks are label maps too.
READERS: dict[str, Reader] = {
    coco.NAME: Reader(coco.evidence, coco.read),
    labelme.NAME: Reader(labelme.evidence, labelme.read),
    cvat.NAME: Reader(cvat.evidence, cvat.read),
    label_studio.NAME: Reader(label_studio.evidence, label_studio.read),
    pascal_voc.NAME: Reader(pascal_voc.evidence, pascal_voc.read),
    yolo.NAME: Reader(yolo.evidence, yolo.read),
    mask_files.INSTANCE_MASKS: Reader(mask_files.instance_mask_evidence, mask_files.read_instance_masks),
    mask_files.LABEL_MAPS: Reader(mask_files.label_map_evidence, mask_files.read_label_maps),
}
_NAMED_CLASS = {  # formats whose files may lack class names
    mask_files.INSTANCE_MASKS: mask_files.read_instance_masks,
    mask_files.LABEL_MAPS: mask_files.read_label_maps,
}
_CONTAINS = {  # a format -> other formats that its folders look like
    pascal_voc.NAME: (mask_files.LABEL_MAPS, mask_files.INSTANCE_MASKS),
    mask_files.INSTANCE_MASKS: (mask_files.LABEL_MAPS,),
}


def recognise(folder: Folder) -> dict[str, str]:
    """Return the formats that a folder may have, each with its evidence."""
    found = {name: shown for name, reader in READERS.items() if (shown := reader.evidence(folder))}
    covered = {other for name in found for other in _CONTAINS.get(name, ())}
    return {name: shown for name, shown in found.items() if name not in covered}


def read_folder(path: Path, format: str | None = None, *, class_name: str = "object") -> AnnotatedSet:
    """Read a folder of annotations.

    format: a name in READERS; None: recognise it. class_name: for masks without a class. Class names are put on one
    line of printable characters.

    Raises DatasetError if no known format fits, or several do; and the errors of the readers.

    >>> from ppsolo.data.synthetic import draw_dataset
    >>> _ = draw_dataset("drawn", train=2, val=1)
    >>> dataset = read_folder(Path("drawn"))
    >>> dataset.format, len(dataset.images)
    ('coco', 3)
    """
    folder = Folder(path)
    if format is None:
        found = recognise(folder)
        if not found:
            raise DatasetError(f"{path}: {describe(folder)}; the known formats are {', '.join(READERS)}")
        if len(found) > 1:
            shown = "; ".join(f"{name}: {text}" for name, text in found.items())
            raise DatasetError(f"{path} holds several kinds of annotations ({shown}): choose one with --format")
        (format,) = found
    elif not READERS[format].evidence(folder):
        raise DatasetError(f"{path}: {describe(folder)}, but nothing in the format {format}")
    read = READERS[format].read
    if format in _NAMED_CLASS:
        read = partial(_NAMED_CLASS[format], class_name=class_name)
    return with_printable_names(read(folder))


def describe(folder: Folder) -> str:
    """Describe a folder of no known format in a few words."""
    if not folder.files:
        return "an empty folder"
    if (stranger := strangers.advice(folder)) != "":
        return stranger
    archives = folder.with_suffix(*ARCHIVE_SUFFIXES)
    if archives and not folder.pictures:
        return f"an archive ({folder.name(archives[0])}) and no pictures: unpack it"
    kinds: dict[str, int] = {}
    for file in folder.files:
        kinds[file.suffix.lower() or "no suffix"] = kinds.get(file.suffix.lower() or "no suffix", 0) + 1
    common = sorted(kinds.items(), key=lambda kind: -kind[1])[:4]
    shown = ", ".join(f"{number} x {suffix}" for suffix, number in common)
    if len(folder.pictures) == len(folder.files):
        return f"{counted(len(folder.pictures), 'picture')} and no annotations"
    return f"files of no known format ({shown})"
