"""A small picture of instances without the image, for notebooks."""

from collections.abc import Sequence

import cv2
import numpy as np

from ppsolo.results.draw import draw_masks
from ppsolo.results.rle import Rle, decode_mask, encode_mask

LONGEST_SIDE = 800  # pixels


def preview_png(
    rles: Sequence[Rle], *, size: tuple[int, int], scores: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> bytes:
    """Return a PNG of the masks on black; only every k-th row and column, so that no side exceeds LONGEST_SIDE pixels.

    size: (height, width) of the masks. scores, labels, names: of each mask.
    """
    step = max(1, -(-max(size) // LONGEST_SIDE))
    height, width = -(-size[0] // step), -(-size[1] // step)
    drawn = draw_masks(
        np.zeros((height, width, 3), np.uint8),
        [encode_mask(decode_mask(rle)[::step, ::step]) for rle in rles],
        size=(height, width),
        scores=scores,
        labels=labels,
        names=names,
    )
    return cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))[1].tobytes()
