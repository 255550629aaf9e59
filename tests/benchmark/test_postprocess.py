"""The benchmark of the three postprocesses times each on the same predictions."""

import numpy as np
import pytest

from ppsolo import load_config
from ppsolo.benchmark.postprocess import benchmark_postprocess, random_predictions


def test_as_many_candidates_as_asked_for(tiny):
    config = load_config("solov2_r50_fpn_1x", tiny)
    raw = random_predictions(config, (64, 96), candidates=50)
    scores = np.concatenate([1 / (1 + np.exp(-x.ravel())) for x in raw.category_logits])
    assert abs(np.count_nonzero(scores > config.postprocess.score_threshold) - 50) <= 1  # rounding at the threshold
    assert raw.mask_features.shape == (1, 8, 16, 24)


def test_each_is_timed(tiny):
    pytest.importorskip("onnxruntime")
    seconds = benchmark_postprocess(load_config("solov2_r50_fpn_1x", tiny), (64, 96), candidates=20, repeats=1)
    assert set(seconds) == {"Paddle", "numpy", "onnxruntime"} and min(seconds.values()) > 0
