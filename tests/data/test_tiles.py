"""Tiles cover a picture, are full squares, and overlap as asked."""

from itertools import pairwise

import numpy as np
import pytest

from ppsolo.data.tiles import Tiling, checked_tiling
from ppsolo.errors import ConfigError


@pytest.mark.parametrize("picture", [(1, 1), (64, 64), (65, 64), (100, 1000), (640, 479), (37, 5000)])
@pytest.mark.parametrize("overlap", [0, 1, 16, 32, 48])
def test_every_pixel_is_in_a_full_tile(picture, overlap):
    covered = np.zeros(picture, int)
    places = Tiling(64, overlap).places(picture)
    for top, left, bottom, right in places:
        assert (bottom - top, right - left) == (min(64, picture[0]), min(64, picture[1]))
        covered[top:bottom, left:right] += 1
    assert covered.min() == 1 and len(set(places)) == len(places)
    lefts = sorted({left for _, left, _, _ in places})
    assert all(b - a <= 64 - overlap for a, b in pairwise(lefts))


def test_sizes_that_make_no_tiles():
    assert checked_tiling(None) is None and checked_tiling(256, 64) == Tiling(256, 64)
    assert checked_tiling(1024) == Tiling(1024, 128) and checked_tiling(100) == Tiling(100, 50)
    assert checked_tiling(256, 192) == Tiling(256, 192)
    for tile, overlap in ((0, 0), (-5, 0), (16, 0), (256, -1), (256, 193), (256, 255), (None, 64)):
        with pytest.raises(ConfigError, match="give"):
            checked_tiling(tile, overlap)
