"""labelme's JSON: one file of polygons per image."""

import os
from pathlib import Path
from typing import Any

from ppsolo.atomic import atomic_writer
from ppsolo.results.files.image_results import ImageResults
from ppsolo.results.polygons import close_polygons, mask_polygons
from ppsolo.results.rle import Rle
from ppsolo.text import json_text

_VERSION = "5.5.0"  # version of the file format


def labelme_document(found: ImageResults, *, folder: Path, tolerance: float | None = None) -> dict[str, Any]:
    """Return the content of a labelme file in `folder`.

    The parts of one instance share a group_id. A hole is joined to the outer ring by a cut. Each shape stores its score
    under "score", a key that labelme ignores. Instances with an empty mask have no shape.

    tolerance: see `mask_polygons`; None: see `close_polygons`.
    """
    relative = "" if found.image_path is None else os.path.relpath(found.image_path, folder)
    return {
        "version": _VERSION,
        "flags": {},
        "shapes": [
            {
                "label": name,
                "points": [[x, y] for x, y in zip(ring[0::2], ring[1::2], strict=True)],
                "group_id": i if len(rings) > 1 else None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
                "score": round(float(score), 6),
            }
            for i, (name, score, rle) in enumerate(zip(found.names, found.scores, found.rles, strict=True))
            for rings in [_polygons(rle, tolerance)]
            for ring in rings
        ],
        "imagePath": relative.replace(os.sep, "/"),
        "imageData": None,
        "imageHeight": found.size[0],
        "imageWidth": found.size[1],
    }


def labelme_text(found: ImageResults, *, folder: Path, tolerance: float | None = None) -> str:
    """Return `labelme_document` as JSON."""
    return json_text(labelme_document(found, folder=folder, tolerance=tolerance), indent=2)


def write_labelme(path: Path, found: ImageResults, *, tolerance: float | None = None) -> None:
    """Write a labelme file in one step. Raises OSError."""
    text = labelme_text(found, folder=path.parent, tolerance=tolerance)
    with atomic_writer(path, "w") as stream:
        stream.write(text)


def labelme_json(found: ImageResults) -> bytes:
    """Return a labelme file for the image's own folder, as UTF-8."""
    folder = Path() if found.image_path is None else found.image_path.parent
    return labelme_text(found, folder=folder).encode()


def _polygons(rle: Rle, tolerance: float | None) -> list[list[float]]:
    return close_polygons(rle) if tolerance is None else mask_polygons(rle, tolerance)
