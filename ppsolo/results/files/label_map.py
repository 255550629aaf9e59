"""PNG files of masks: one label map for all instances, or one picture per instance."""

import io
import re
import zipfile

import cv2
import numpy as np

from ppsolo.errors import PpsoloError
from ppsolo.results.files.image_results import ImageResults
from ppsolo.results.rle import decode_mask, decode_window, mask_boxes
from ppsolo.text import cut_name, printable

MOST_LABELS = 2**16 - 1  # limit of a 16-bit PNG
LONGEST_NAME = 100  # bytes of a class name in a file name


def label_map(found: ImageResults) -> np.ndarray:
    """Return [height, width]: 0 for background, i + 1 for instance i; where masks overlap, the best score wins.

    uint8 for up to 255 instances, else uint16. Raises PpsoloError for more than MOST_LABELS.
    """
    number = len(found.rles)
    if number > MOST_LABELS:
        raise PpsoloError(f"a 16-bit label map has at most {MOST_LABELS} instances, not {number}: use masks or coco")
    labels = np.zeros(found.size, np.uint8 if number <= 255 else np.uint16)
    boxes = mask_boxes(found.rles).astype(int)
    # Paint the best instances last. Of equal scores, the first one wins.
    for i in np.argsort(-found.scores, kind="stable")[::-1]:
        x1, y1, x2, y2 = boxes[i].tolist()
        if x2 > x1:
            labels[y1:y2, x1:x2][decode_window(found.rles[i], (x1, y1, x2, y2))] = i + 1
    return labels


def label_map_png(found: ImageResults) -> bytes:
    """Return the label map as a grey PNG of 8 or 16 bits."""
    return _png(label_map(found))


def mask_pngs(found: ImageResults) -> dict[str, bytes]:
    """Return file name -> grey PNG, 255 inside and 0 outside, for each instance with at least one pixel."""
    files = {}
    for i, (name, rle) in enumerate(zip(found.names, found.rles, strict=True)):
        mask = decode_mask(rle)
        if mask.any():
            files[f"{i + 1:04d}_{_plain(name)}.png"] = _png(np.where(mask, np.uint8(255), np.uint8(0)))
    return files


def masks_zip(found: ImageResults) -> bytes:
    """Return `mask_pngs` as a zip file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in mask_pngs(found).items():
            archive.writestr(name, data)
    return stream.getvalue()


def _png(array: np.ndarray) -> bytes:
    encoded, data = cv2.imencode(".png", array)
    if not encoded:
        raise PpsoloError(f"OpenCV cannot write {array.shape[0]} x {array.shape[1]} pixels as PNG")
    return data.tobytes()


def _plain(name: str) -> str:
    """Remove characters from a class name that file names cannot contain, and what is too long for them."""
    plain = re.sub(r'[\x00-\x1f/\\:*?"<>|]', "-", printable(name)).strip(" .")
    return cut_name(plain, LONGEST_NAME) or "object"
