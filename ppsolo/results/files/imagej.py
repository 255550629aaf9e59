"""A zip file of ROIs for ImageJ's ROI Manager."""

import io
import zipfile
from typing import Any

import numpy as np

from ppsolo.errors import PpsoloError
from ppsolo.results.files.image_results import ImageResults
from ppsolo.results.polygons import Part, mask_parts

_MOVE, _LINE, _CLOSE = 0.0, 1.0, 4.0  # codes in the path of a composite ROI
_LARGEST = 2**15 - 1  # largest coordinate of a composite ROI's box


def imagej_zip(found: ImageResults) -> bytes:
    """Return one ROI per instance: a traced outline, or a composite if it has several parts or holes.

    ROIs are named by number, class and score. Instances with an empty mask are left out.

    Raises:
        PpsoloError: roifile is not installed.
    """
    roifile = _roifile()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for i, (name, score, rle) in enumerate(zip(found.names, found.scores, found.rles, strict=True)):
            parts = mask_parts(rle)
            if parts:
                title = f"{i + 1:04d} {name} {score:.3f}".replace("/", "-")
                archive.writestr(f"{title}.roi", _roi(roifile, parts, title).tobytes())
    return stream.getvalue()


def _roi(roifile: Any, parts: list[Part], title: str) -> Any:
    if len(parts) == 1 and not parts[0].holes:
        roi = roifile.ImagejRoi.frompoints(parts[0].outer, name=title)
        roi.roitype = roifile.ROI_TYPE.TRACED
        # Outlines follow the edges of pixels, so the box ends where the last pixel ends.
        roi.right, roi.bottom = roi.right - 1, roi.bottom - 1
        return roi
    rings = [ring for part in parts for ring in (part.outer, *part.holes)]
    (left, top), (right, bottom) = np.min([r.min(0) for r in rings], 0), np.max([r.max(0) for r in rings], 0)
    roi = roifile.ImagejRoi.frompoints([[int(left), int(top)]], name=title)
    roi.roitype = roifile.ROI_TYPE.RECT
    roi.integer_coordinates, roi.n_coordinates = None, 0
    roi.left, roi.top, roi.right, roi.bottom = (min(int(v), _LARGEST) for v in (left, top, right, bottom))
    roi.multi_coordinates = np.concatenate([_path(ring) for ring in rings])
    roi.shape_roi_size = len(roi.multi_coordinates)
    return roi


def _path(ring: np.ndarray) -> np.ndarray:
    steps = [_MOVE] + [_LINE] * (len(ring) - 1)
    return np.append(np.column_stack([steps, ring]).ravel(), _CLOSE).astype(np.float32)


def _roifile() -> Any:
    try:
        import roifile
    except ModuleNotFoundError:
        raise PpsoloError("ImageJ ROIs need the package roifile: pip install 'ppsolo[formats]'") from None
    return roifile
