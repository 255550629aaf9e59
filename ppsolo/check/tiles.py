"""When tiles pay: in large pictures that are scaled down so far that their objects become too small."""

import numpy as np

SMALL = 16  # pixels: of objects smaller than four cells of the mask features in each direction, little is found
LEAST_SHARE = 0.1  # of the instances
_STEP = 16  # pixels, of overlaps


def tiles_that_pay(boxes: np.ndarray, sizes: np.ndarray, *, short_side: int) -> str | None:
    """Say which tiles to take, and what they gain; None where they gain little.

    boxes: float32 [n, 4], xyxy of the objects, in pixels of the pictures. sizes: [n], sizes of the objects after
    scaling for training. short_side: of pictures after that scaling. In tiles of this size objects are not scaled.
    """
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    own = np.sqrt(sides[:, 0] * sides[:, 1])
    scaled, whole = int((sizes < SMALL).sum()), int((own < SMALL).sum())
    if scaled == 0 or scaled < LEAST_SHARE * len(own) or 2 * whole > scaled:
        return None
    large = float(np.quantile(sides.max(axis=1), 0.95))
    overlap = min(int(np.ceil(large / _STEP)) * _STEP, short_side // 2)
    return (
        f"{scaled} of {len(own)} instances are smaller than {SMALL} pixels once their images are scaled, {whole} in "
        f"tiles of {short_side} pixels: predict with --tile {short_side} --overlap {overlap}, train on such tiles too"
    )
