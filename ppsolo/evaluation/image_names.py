"""Results and annotations of the same pictures, matched by file name where their ids do not agree."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from ppsolo.data.annotations.rules import Identity, read_identity
from ppsolo.errors import DatasetError
from ppsolo.evaluation.ground_truth import GroundTruth
from ppsolo.text import first_few

logger = logging.getLogger(__name__)

_NAME_KEYS = ("file_name", "image_name")


def with_image_ids(
    results: Sequence[Mapping[str, Any]], truth: GroundTruth, *, source: str
) -> Sequence[Mapping[str, Any]]:
    """The results with the image ids of `truth`; entries that need no change are the same objects.

    A result names its image by `image_id`, by `file_name`, or by a file name in place of the id. Where the names of
    results and annotations say other than their ids, the names decide, if each is known and belongs to one image.

    results: COCO result entries. source: what errors and the log call them.
    Raises DatasetError: ids and names disagree, and the names do not tell which image is meant.
    """
    names = _image_of_name(truth)
    by_name: list[int] = []
    unknown: list[str] = []
    found: dict[int, Identity] = {}
    for position, entry in enumerate(results):
        if not isinstance(entry, Mapping):
            continue
        image_id = read_identity(entry.get("image_id"))
        known = image_id is not None and truth.knows(image_id)
        name = next((entry[key] for key in _NAME_KEYS if isinstance(entry.get(key), str)), None)
        if name is None and not known and isinstance(image_id, str):
            name = image_id
        if name is None or (known and _same(name, truth.file_name(image_id))):
            continue
        others = names.get(_plain(name)) or names.get(PurePosixPath(_plain(name)).name, [])
        if len(others) == 1:
            found[position] = others[0]
            by_name.append(position)
        elif not known or truth.file_name(image_id):
            unknown.append(name)
    if unknown and (by_name or names):
        raise DatasetError(
            f"{source}: {len(unknown)} results are for images that {truth.source} does not have under these names "
            f"({first_few(dict.fromkeys(unknown))}), or has twice; evaluate against the annotations of the same images"
        )
    if not found:
        return results
    logger.warning(
        "%s: image ids differ from those of %s: %d of %d results matched by file name",
        source,
        truth.source,
        len(by_name),
        len(results),
    )
    return [{**entry, "image_id": found[i]} if i in found else entry for i, entry in enumerate(results)]


def _image_of_name(truth: GroundTruth) -> dict[str, list[Identity]]:
    """The ids of the images of each name, and of each name without its folders."""
    images: dict[str, list[Identity]] = defaultdict(list)
    for image_id in truth.table.image_ids:
        if name := truth.file_name(image_id):
            for form in {_plain(name), PurePosixPath(_plain(name)).name, PurePosixPath(_plain(name)).stem}:
                images[form].append(image_id)
    return images


def _plain(name: str) -> str:
    return str(PurePosixPath(name.replace("\\", "/")))


def _same(name: str, stated: str) -> bool:
    """Whether two names can be of one file: equal, or equal without folders, or one of them says nothing."""
    if not stated:
        return True
    one, other = PurePosixPath(_plain(name)), PurePosixPath(_plain(stated))
    return one == other or one.name == other.name or str(one) in (other.name, other.stem)
