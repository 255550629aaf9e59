"""Three instances of a small image, for tests of writers: a square, one with two parts and a hole, an empty one."""

import numpy as np

from ppsolo.results.instances import Instances

NAMES = ("person", "dog", "Würstchen")
IDS = (1, 18, 90)
SIZE = (12, 20)  # height, width


def masks() -> np.ndarray:
    """bool [3, *SIZE]"""
    masks = np.zeros((3, *SIZE), bool)
    masks[0, 2:5, 3:9] = True
    masks[1, 6:11, 1:6] = masks[1, 0, 19] = True
    masks[1, 8, 3] = False
    return masks


def three() -> Instances:
    """The three instances, best first."""
    return Instances.from_masks(
        masks(), scores=np.array([0.9, 0.5, 0.25]), labels=np.array([0, 2, 0]), class_names=NAMES, category_ids=IDS
    )
