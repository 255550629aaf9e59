"""Masks of objects as run lengths, made without drawing the whole picture for each object."""

from typing import Any

import numpy as np

from ppsolo.formats.annotated import json_rle
from ppsolo.results.rle import encode_edges


def label_segmentations(labels: np.ndarray) -> dict[int, dict[str, Any]]:
    """Return the mask of each value above 0 in a label map, int [h, w], in ascending order of the values.

    One pass over the pixels serves all values: a map may have tens of thousands.
    """
    size = (labels.shape[0], labels.shape[1])
    columns = labels.T.ravel()
    starts = np.flatnonzero(np.concatenate([[True], columns[1:] != columns[:-1]]))
    ends = np.append(starts[1:], len(columns))
    values = columns[starts]
    order = np.argsort(values, kind="stable")
    order = order[values[order] > 0]
    edges = np.stack([starts[order], ends[order]], axis=1)
    found, first = np.unique(values[order], return_index=True)
    parts = np.split(edges, first)[1:]
    return {int(value): json_rle(encode_edges(part.ravel(), size)) for value, part in zip(found, parts, strict=True)}


def box_segmentation(inside: np.ndarray, top: int, left: int, size: tuple[int, int]) -> dict[str, Any]:
    """Return the mask of a picture of `size` that is `inside`, bool [h, w], from row `top` and column `left` on.

    What lies outside the picture is cut off.
    """
    inside = inside[max(-top, 0) : max(size[0] - top, 0), max(-left, 0) : max(size[1] - left, 0)]
    top, left = (max(top, 0), max(left, 0)) if inside.size else (0, 0)
    height, width = inside.shape
    columns = np.zeros((width, height + 2), np.int8)  # a margin ends every run
    columns[:, 1:-1] = inside.T
    column, row = np.nonzero(np.diff(columns, axis=1))
    edges = (left + column) * size[0] + top + row
    touching = np.flatnonzero(edges[1:-1:2] == edges[2::2])  # at the foot of a column and at the head of the next
    edges = np.delete(edges, np.concatenate([2 * touching + 1, 2 * touching + 2]))
    return json_rle(encode_edges(edges, size))
