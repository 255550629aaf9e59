"""The packed columns: ids of all kinds, texts, and coordinates that lose no bit."""

import numpy as np
import pytest

from ppsolo.data.annotations.table import PARTS, Identities, Texts, compact_points


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.arange(65536) / 100, np.uint16),
        (np.array([0.01, 655.36]), np.int32),
        (np.array([-0.5, 3.0]), np.int32),
        (np.array([1e5, -1e5, 12.34]), np.int32),
        (np.array([1 / 3]), np.float64),
        (np.array([0.0, -0.0]), np.float64),
        (np.array([0.1 + 0.2]), np.float64),
        (np.zeros(0), np.uint16),
    ],
)
def test_coordinates_come_back_bit_for_bit(values, kind):
    packed = compact_points(values)
    assert packed.dtype == kind
    back = packed if kind is np.float64 else packed / PARTS
    assert back.tobytes() == values.tobytes()


def test_random_decimals_are_what_a_file_says():
    texts = [f"{value:.2f}" for value in np.random.default_rng(0).uniform(0, 655, 20_000)]
    values = np.array([float(text) for text in texts])
    packed = compact_points(values)
    assert packed.dtype == np.uint16 and (packed / PARTS).tobytes() == values.tobytes()


def test_ids_and_texts():
    texts = ("", "a", "刀", "\ud800", "x" * 1000)
    packed = Texts.pack(texts)
    assert tuple(packed[index] for index in range(len(packed))) == texts
    for values in ((1, 5, -3), (1, "1", "a b"), (2**70, 3), ()):
        keys = Identities.pack(values)
        assert tuple(keys) == values and len(keys) == len(values)
        assert keys.some(np.arange(len(values))[::-1]) == values[::-1]
