"""Reads COCO annotation files into flat arrays, and counts every fault and unusual entry."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ppsolo.data.annotations.findings import Findings
from ppsolo.data.annotations.json_file import parse_json, read_utf8
from ppsolo.data.annotations.keys import Categories, Images
from ppsolo.data.annotations.rows import Rows
from ppsolo.data.annotations.table import Annotations
from ppsolo.data.annotations.usual import read_usual
from ppsolo.errors import DatasetError

LISTS = ("images", "annotations", "categories")
_AT_ONCE = 1024  # annotations that are Python objects at the same time


class _Lists(msgspec.Struct):
    """The three lists of a file, unparsed: only some entries at a time become Python objects."""

    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[msgspec.Raw]


def read_annotation_file(path: str | os.PathLike[str]) -> Annotations:
    """Read a COCO file; faults of its entries are in `findings`.

    Raises DatasetError: the file cannot be read, is not JSON, or lacks one of the three lists.
    """
    content = read_utf8(path)
    try:
        lists = msgspec.json.decode(content, type=_Lists)
        rows = _empty_rows(map(msgspec.json.decode, lists.images), map(msgspec.json.decode, lists.categories))
        _add_raw(rows, lists.annotations)
        return rows.packed(str(path))
    except (msgspec.MsgspecError, RecursionError):  # Python's parser accepts NaN, and its messages name line and column
        return pack_annotations(parse_json(content, path), str(path))


def pack_annotations(content: Any, source: str) -> Annotations:
    """Pack a parsed file; the content is not changed. Raises DatasetError if it lacks one of the lists."""
    for key in LISTS:
        if not isinstance(content, Mapping) or not isinstance(content.get(key), (list, tuple)):
            raise DatasetError(f"{source}: not in COCO's format: it has no list '{key}'")
    rows = _empty_rows(content["images"], content["categories"])
    for position, entry in enumerate(content["annotations"]):
        rows.add(position, entry)
    return rows.packed(source)


def _empty_rows(images: Iterable[Any], categories: Iterable[Any]) -> Rows:
    findings = Findings()
    return Rows(Images(images, findings), Categories(categories, findings), findings)


def _add_raw(rows: Rows, entries: Sequence[msgspec.Raw]) -> None:
    """Add unparsed annotations: many at once, or one by one if one of them has another form than usual."""
    for start in range(0, len(entries), _AT_ONCE):
        some = entries[start : start + _AT_ONCE]
        usual = read_usual(some, rows.images, rows.categories)
        if usual is None or not rows.add_usual(usual):
            for position, entry in enumerate(some, start):
                rows.add(position, msgspec.json.decode(entry))
