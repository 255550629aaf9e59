"""Files that once failed, with their right answers: PPSOLO_CASES names the folder."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest


def case(*parts: str) -> Path:
    """A file of the cases; skips the test where they are not here."""
    if "PPSOLO_CASES" not in os.environ:
        pytest.skip("PPSOLO_CASES is not set")
    return Path(os.environ["PPSOLO_CASES"]).joinpath(*parts)


def right_pixels(path: Path) -> np.ndarray:
    """uint8 RGB [H, W, 3] of a PNG, as OpenCV reads it."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None
    return image[:, :, ::-1]
