"""Smooth random maps, for masks with parts and holes of any shape."""

import cv2
import numpy as np


def noise(n: int, cells: tuple[int, int], seed: int, spread: float = 0.0) -> np.ndarray:
    """float32 [n, *cells] in 0 .. 1; a larger `spread`, in cells, makes larger blobs."""
    values = np.random.default_rng(seed).normal(size=(n, *cells)).astype(np.float32)
    if spread:
        values = np.stack([cv2.GaussianBlur(v, (0, 0), spread) for v in values])
        values /= values.std() + 1e-6
    return 1 / (1 + np.exp(-3 * values))
