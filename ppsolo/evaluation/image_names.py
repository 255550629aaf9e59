"""Results matched to annotations by file name, if their image ids differ."""

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
    """Replace the image ids of the results by those of `truth`; unchanged entries are returned as they are.

    A result names its image by `image_id`, by `file_name`, or by a file name in the place of the id. If names and ids
    contradict each other, the name decides, provided that exactly one image has it.

    results: COCO result entries. source: their name in errors and in the log.
    Raises DatasetError if ids and names contradict each other, and the names do not identify the images.
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
            f"{source}: {len(unknown)} results are for images that {truth.source} does not have, or has twice, by name "
            f"({first_few(dict.fromkeys(unknown))}): evaluate against the annotations of the same images"
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
    """Map each file name, with and without its folders, to the ids of its images."""
    images: dict[str, list[Identity]] = defaultdict(list)
    for image_id in truth.table.image_ids:
        if name := truth.file_name(image_id):
            for form in {_plain(name), PurePosixPath(_plain(name)).name, PurePosixPath(_plain(name)).stem}:
                images[form].append(image_id)
    return images


def _plain(name: str) -> str:
    return str(PurePosixPath(name.replace("\\", "/")))


def _same(name: str, stated: str) -> bool:
    """Whether two names may mean one file: equal with or without folders and extension; `stated` may be empty."""
    if not stated:
        return True
    one, other = PurePosixPath(_plain(name)), PurePosixPath(_plain(stated))
    return one == other or one.name == other.name or str(one) in (other.name, other.stem)
