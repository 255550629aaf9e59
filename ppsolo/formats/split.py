"""Splits the pictures of a data set into training, validation and test."""

import csv
import io
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from ppsolo.errors import DatasetError
from ppsolo.formats.annotated import AnnotatedImage

VAL_SHARE = 0.2  # default share of the pictures
LARGEST_TABLE = 2**28  # bytes: the groups of millions of pictures


def divide(
    images: Sequence[AnnotatedImage],
    *,
    val_share: float | None = None,
    seed: int = 0,
    groups: Mapping[str, str] | None = None,
) -> dict[str, list[AnnotatedImage]]:
    """Return the pictures of "train", "val" and, if the source has them, "test"; each in the given order.

    Without `val_share` the source's own split is kept; if it has no validation pictures, VAL_SHARE of the training
    pictures become validation pictures. With `val_share`, all pictures except the test pictures are split again.

    Args:
        images: of the data set.
        val_share: share of the pictures for validation, 0 .. 1; at least one picture if it is above 0.
        seed: the same seed gives the same split.
        groups: a picture's file name, with or without suffix -> its group. Groups stay together.

    Raises DatasetError if no picture is left for training.
    """
    test = [image for image in images if image.split == "test"]
    others = [image for image in images if image.split != "test"]
    val = [image for image in others if image.split == "val"]
    if val_share is not None or not val:
        chosen = _chosen(others, VAL_SHARE if val_share is None else val_share, seed, groups or {})
        val = [image for image in others if id(image) in chosen]
    in_val = set(map(id, val))
    train = [image for image in others if id(image) not in in_val]
    if not train:
        raise DatasetError(f"none of {len(images)} pictures is left for training; use fewer for validation or testing")
    return {name: part for name, part in (("train", train), ("val", val), ("test", test)) if part or name != "test"}


def read_groups(file: Path, column: str) -> dict[str, str]:
    """Read groups from a CSV file: the picture is in its first column, or in the column file_name.

    Raises DatasetError for a file that cannot be read or lacks the column.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(LARGEST_TABLE + 1)
        if len(content) > LARGEST_TABLE:
            raise DatasetError(f"{file}: larger than {LARGEST_TABLE} bytes, the limit for a table of groups")
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: cannot be read ({error})") from None
    delimiter = ";" if text.partition("\n")[0].count(";") > text.partition("\n")[0].count(",") else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        names, rows = list(reader.fieldnames or ()), list(reader)
    except csv.Error as error:
        raise DatasetError(f"{file}: not a table of comma-separated values ({error})") from None
    if column not in names:
        raise DatasetError(f"{file}: there is no column {column!r}; its columns are {', '.join(names) or 'none'}")
    key = "file_name" if "file_name" in names else names[0]
    return {str(row[key]): str(row[column]) for row in rows}


def _chosen(images: Sequence[AnnotatedImage], share: float, seed: int, groups: Mapping[str, str]) -> set[int]:
    """Return the identities of the pictures for validation: whole groups, until the share is reached."""
    members = defaultdict(list)
    for number, image in enumerate(images):
        # A picture without a group is known by its position, which does not depend on the folder's path.
        group = image.group or groups.get(image.path.name) or groups.get(image.path.stem) or f"\0{number:09d}"
        members[group].append(image)
    order = sorted(members)
    random.Random(seed).shuffle(order)
    wanted = max(1, round(share * len(images))) if share > 0 else 0
    chosen: list[int] = []
    for group in order:
        grown = len(chosen) + len(members[group])
        # A group that would exceed the share by more than the gap stays in training, unless it is the first.
        fits = grown - wanted <= wanted - len(chosen) or not chosen
        if len(chosen) < wanted and fits and grown < len(images):
            chosen += map(id, members[group])
    return set(chosen)
