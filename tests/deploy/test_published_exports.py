"""Every published system at its own input size, exported: the instances of dygraph in a real photograph of 640x480.

It takes half an hour: set PPSOLO_EVERY_EXPORT=1.
"""

import functools
import os

import numpy as np
import pytest
from seeded import seeded_model

from ppsolo import Instances, Predictor, deploy, load_config
from ppsolo.checkpoint.zoo import ZOO
from ppsolo.deploy.export import export_model
from ppsolo.rle import decode_mask

pytestmark = [
    pytest.mark.full_size,
    pytest.mark.skipif(not os.environ.get("PPSOLO_EVERY_EXPORT"), reason="takes long: set PPSOLO_EVERY_EXPORT=1"),
]

SCORE, PIXELS = 1e-4, 20


@functools.lru_cache(maxsize=1)
def predicted(fill, reference, name, photograph):
    """The model of a system and what dygraph finds with it; kept while the formats of the system last."""
    model = seeded_model(fill, reference, name, seed=1)
    return model, Predictor(load_config(name), model=model, engine="dygraph")(photograph)


def assert_same_instances(found: Instances, expected: Instances) -> None:
    """Each expected one has one of its own, of the same label, mask and score; and there is no other.

    A score holds the mean probability of its mask's pixels: one that rounding puts on the other side of the threshold
    moves it by its share, which counts in masks of a few dozen.
    """
    free = {i: decode_mask(rle) for i, rle in enumerate(found.rles)}
    for score, label, rle in zip(expected.scores, expected.labels, expected.rles, strict=True):
        mask = decode_mask(rle)
        pixels = {i: np.count_nonzero(free[i] != mask) for i in free if found.labels[i] == label}
        best = min(pixels, key=pixels.__getitem__, default=None)
        assert best is not None and pixels[best] <= PIXELS, f"no instance of label {label}, score {score}: {pixels}"
        share = pixels[best] / max(np.count_nonzero(mask), 1)
        assert abs(found.scores[best] - score) <= SCORE + 2 * share * score
        del free[best]
    assert not free


@pytest.mark.parametrize("graph", ["whole", "network"])
@pytest.mark.parametrize("format", ["paddle", "onnx"])
@pytest.mark.parametrize("name", ZOO)
def test_export_finds_what_dygraph_finds(name, format, graph, reference, data, seeded_weights, tmp_path):
    photograph = data / "coco_permissive" / "val2017" / "000000403353.jpg"
    model, expected = predicted(seeded_weights.fill, reference, name, photograph)
    assert len(expected) >= 70
    export = export_model(model, load_config(name), tmp_path / name, format=format, graph=graph)
    assert export.facts.verified
    assert_same_instances(deploy.load(export.directory)(photograph), expected)
