"""Every published system at its own input size, exported: the instances of dygraph in a real photograph of 640x480.

It takes an hour or more: set PPSOLO_EVERY_EXPORT=1.
"""

import functools
import os
from typing import NamedTuple

import numpy as np
import pytest
from seeded import seeded_model

from ppsolo import Predictor, deploy, load_config, read_image
from ppsolo.checkpoint.zoo import ZOO
from ppsolo.deploy.export import export_model
from ppsolo.pipeline import Pipeline
from ppsolo.results.postprocess import DetectionArrays
from ppsolo.results.resize import resize_masks
from ppsolo.results.rle import decode_masks

pytestmark = [
    pytest.mark.full_size,
    pytest.mark.skipif(not os.environ.get("PPSOLO_EVERY_EXPORT"), reason="takes long: set PPSOLO_EVERY_EXPORT=1"),
]

SCORE, PIXELS = 1e-4, 20


class Found(NamedTuple):
    """Instances of the photograph: at stride 4, and their masks at its own size."""

    at_stride: DetectionArrays
    masks: np.ndarray


def found_by(predictor: Pipeline, photograph) -> Found:
    prepared, size = predictor.prepare(read_image(photograph))
    found = predictor.detect(prepared[None])
    rles = resize_masks(found.masks, resized=size.resized, original=size.original)
    return Found(found, decode_masks(rles, size.original))


@functools.lru_cache(maxsize=1)
def in_dygraph(fill, reference, name, photograph):
    """The model of a system and what it finds. It is kept while the system's formats are tested."""
    model = seeded_model(fill, reference, name, seed=1)
    return model, found_by(Predictor(load_config(name), model=model, engine="dygraph"), photograph)


def assert_same_instances(found: Found, expected: Found) -> None:
    """Each expected instance is found exactly once, with its label, mask and score, and nothing else is found.

    A score contains the mean probability of the mask's cells. Rounding may move one cell across the threshold; in a
    mask of a few dozen cells this changes the score noticeably.
    """
    free = set(range(len(found.masks)))
    for i, (score, label, cells) in enumerate(zip(*expected.at_stride[:3], strict=True)):
        pixels = {
            j: np.count_nonzero(found.masks[j] != expected.masks[i]) for j in free if found.at_stride.labels[j] == label
        }
        best = min(pixels, key=pixels.__getitem__, default=None)
        assert best is not None and pixels[best] <= PIXELS, f"no instance of label {label}, score {score}: {pixels}"
        flipped = np.count_nonzero((found.at_stride.masks[best] > 0.5) != (cells > 0.5))
        share = flipped / max(np.count_nonzero(cells > 0.5), 1)
        assert abs(found.at_stride.scores[best] - score) <= SCORE + 2 * share * score
        free.remove(best)
    assert not free


@pytest.mark.parametrize("graph", ["whole", "network"])
@pytest.mark.parametrize("format", ["paddle", "onnx"])
@pytest.mark.parametrize("name", ZOO)
def test_export_finds_what_dygraph_finds(name, format, graph, reference, data, seeded_weights, tmp_path):
    photograph = data / "coco_permissive" / "val2017" / "000000403353.jpg"
    model, expected = in_dygraph(seeded_weights.fill, reference, name, photograph)
    assert len(expected.masks) >= 70
    export = export_model(model, load_config(name), tmp_path / name, format=format, graph=graph)
    assert export.info.verified
    assert_same_instances(found_by(deploy.load(export.directory), photograph), expected)
