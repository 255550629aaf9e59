"""Mask files whose headers mislead."""

import numpy as np

from ppsolo.formats.mask_files import decode_mask_file


def test_the_checked_size_of_a_pnm_is_the_read_one():
    """A carriage return ends a remark for OpenCV, but not for others: OpenCV read 900 million pixels here."""
    assert decode_mask_file(b"P6 #\r30000 30000 255\n 1 1 255\n\1\2\3").tolist() == [[[3, 2, 1]]]
    assert np.array_equal(decode_mask_file(b"P5 #\r30000 30000 255\n 2 1 255\n\1\2"), [[1, 2]])
