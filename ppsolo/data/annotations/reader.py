"""Reads COCO annotation files into flat arrays, and counts every fault and unusual entry."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ppsolo.data.annotations.findings import Findings
from ppsolo.data.annotations.json_file import parse_json, read_utf8
from ppsolo.data.annotations.keys import Categories, Images
from ppsolo.data.annotations.rows import Rows
from ppsolo.data.annotations.table import Annotations
from ppsolo.errors import DatasetError

LISTS = ("images", "annotations", "categories")


class _Lists(msgspec.Struct):
    """The three lists of a file, unparsed: only one entry at a time becomes a Python object."""

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
        parts = [map(msgspec.json.decode, getattr(lists, key)) for key in LISTS]
        return _pack(parts[0], parts[1], parts[2], str(path))
    except (msgspec.MsgspecError, RecursionError):  # Python's parser accepts NaN, and its messages name line and column
        return pack_annotations(parse_json(content, path), str(path))


def pack_annotations(content: Any, source: str) -> Annotations:
    """Pack a parsed file; the content is not changed. Raises DatasetError if it lacks one of the lists."""
    for key in LISTS:
        if not isinstance(content, Mapping) or not isinstance(content.get(key), (list, tuple)):
            raise DatasetError(f"{source}: not in COCO's format: it has no list '{key}'")
    images, annotations, categories = (iter(content[key]) for key in LISTS)
    return _pack(images, annotations, categories, source)


def _pack(images: Iterator[Any], annotations: Iterator[Any], categories: Iterator[Any], source: str) -> Annotations:
    findings = Findings()
    rows = Rows(Images(images, findings), Categories(categories, findings), findings)
    for position, entry in enumerate(annotations):
        rows.add(position, entry)
    return rows.packed(source)
