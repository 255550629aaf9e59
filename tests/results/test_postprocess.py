"""Postprocessing on the host answers as the one in Paddle, however much work it leaves out."""

import numpy as np
import pytest
from postprocesses import in_paddle, raw_arrays
from threadpoolctl import threadpool_info, threadpool_limits

from ppsolo.cpu import single_threaded_products
from ppsolo.errors import PredictionError
from ppsolo.results import postprocess as detection
from ppsolo.results.postprocess import DetectionArrays, NumpyPostprocess
from ppsolo.schema import PostprocessConfig

GRIDS = (12, 10, 6, 4, 2)  # of `raw_arrays`


def assert_same(ours: DetectionArrays, theirs: DetectionArrays) -> None:
    assert [(x.dtype, x.shape) for x in ours] == [(x.dtype, x.shape) for x in theirs]
    assert ours.counts.tolist() == theirs.counts.tolist()
    assert ours.labels.tolist() == theirs.labels.tolist()
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)  # float32 sums in another order
    np.testing.assert_allclose(ours.masks, theirs.masks, atol=1e-6)


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
@pytest.mark.parametrize("classes", [1, 3, 90])
@pytest.mark.parametrize(("top_n", "most"), [(500, 100), (60, 100), (500, 7), (10, 3)])
def test_the_same_instances(kernel, classes, top_n, most):
    settings = PostprocessConfig(pre_nms_top_n=top_n, max_instances=most, nms_kernel=kernel)
    raw = raw_arrays(classes, batch=3, classes=classes)
    for logits in raw.category_logits:  # nothing in the second image
        logits[1] -= 50.0
    found = NumpyPostprocess(settings, threads=2)(raw)
    assert found.counts[1] == 0 < found.counts[0]
    assert_same(found, in_paddle(settings, raw))


def test_later_cells_are_left_out():
    """With few instances wanted, the masks of most cells cannot matter and are not made."""
    made = []

    class Counting(NumpyPostprocess):
        def _mask_statistics(self, kernels, features, *, keep):
            made.append(len(kernels))
            return super()._mask_statistics(kernels, features, keep=keep)

    settings, raw = PostprocessConfig(max_instances=10), raw_arrays(5, classes=90, shift=-2.0)
    raw = raw._replace(kernels=[5 * x for x in raw.kernels])  # so that maskness is near 1
    assert_same(Counting(settings)(raw), in_paddle(settings, raw))
    assert sum(made) < sum(grid * grid for grid in GRIDS) / 2


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("masks", [0, 80])
def test_masks_that_were_not_kept_are_made_again(masks, threads, monkeypatch):
    """All of them, or those after the first cells."""
    monkeypatch.setattr(detection, "_KEPT_VALUES", masks * 40 * 250)
    settings, raw = PostprocessConfig(max_instances=40), raw_arrays(5)
    shares = []

    class Noting(NumpyPostprocess):
        def _masks(self, kernels, features, cells, statistics):
            shares.append(np.mean(cells < sum(len(block.probabilities) for block in statistics)))
            return super()._masks(kernels, features, cells, statistics)

    assert_same(Noting(settings, threads=threads)(raw), in_paddle(settings, raw))
    assert all(0 < share < 1 if masks else share == 0 for share in shares)


@pytest.mark.parametrize("counted", [True, False])
def test_overlaps_are_products_or_counts_of_bits(counted, monkeypatch):
    if not hasattr(np, "bitwise_count"):
        pytest.skip("this numpy counts no bits: every overlap is a product")
    monkeypatch.setattr(detection, "_ROWS", 2)  # several blocks for each class
    if not counted:
        monkeypatch.delattr(np, "bitwise_count")
    settings, raw = PostprocessConfig(), raw_arrays(5)
    assert_same(NumpyPostprocess(settings, threads=2)(raw), in_paddle(settings, raw))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9, 1.0])
def test_mask_thresholds(threshold):
    settings, raw = PostprocessConfig(mask_threshold=threshold), raw_arrays(6)
    found = NumpyPostprocess(settings)(raw)
    assert_same(found, in_paddle(settings, raw))
    assert (len(found.scores) == 0) == (threshold == 1.0)


@pytest.mark.parametrize("case", ["no score", "no mask", "all decayed"])
def test_nothing_found(case):
    raw = raw_arrays(4, batch=2, shift=-50.0 if case == "no score" else 0.0)
    if case == "no mask":
        raw = raw._replace(kernels=[-np.abs(x) for x in raw.kernels])
    found = NumpyPostprocess(PostprocessConfig(update_threshold=2.0 if case == "all decayed" else 0.05))(raw)
    assert found.counts.tolist() == [0, 0]
    assert found.scores.shape == found.labels.shape == (0,)
    assert found.masks.shape == (0, 40, 250)


def test_one_instance():
    raw = raw_arrays(6, shift=-50.0)
    raw.category_logits[0][0, 1, 2, 2] = 3.0
    raw.kernels[0][0, :, 2, 2] = 1.0
    settings = PostprocessConfig()
    found = NumpyPostprocess(settings)(raw)
    assert found.counts.tolist() == [1] and found.labels.tolist() == [1]
    assert_same(found, in_paddle(settings, raw))


@pytest.mark.parametrize("place", ["category_logits", "kernels", "mask_features"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(place, value):
    raw = raw_arrays(7)
    arrays = getattr(raw, place)
    (arrays if place == "mask_features" else arrays[3])[0, 0, 0, 0] = value
    with pytest.raises(PredictionError, match="not finite"):
        NumpyPostprocess(PostprocessConfig())(raw)


def test_raw_predictions_stay_as_they_are():
    raw = raw_arrays(8)
    before = [x.copy() for x in (*raw.category_logits, *raw.kernels, raw.mask_features)]
    NumpyPostprocess(PostprocessConfig())(raw)
    for ours, theirs in zip((*raw.category_logits, *raw.kernels, raw.mask_features), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_products_have_one_thread_within_and_theirs_again_after():
    def threads() -> list[int]:
        """Threads of numpy's library; another test may have loaded that of scipy, which computes no products here."""
        blas = [info for info in threadpool_info() if info["user_api"] == "blas"]
        return [info["num_threads"] for info in blas if "numpy" in info["filepath"]]

    with threadpool_limits(2, user_api="blas"):
        before = threads()
        if 2 not in before:
            pytest.skip("this numpy brings no BLAS with threads")
        with single_threaded_products():
            with single_threaded_products():
                assert set(threads()) == {1}
            assert set(threads()) == {1}
        assert threads() == before
        with pytest.raises(ValueError, match="within"), single_threaded_products():
            raise ValueError("within")
        assert threads() == before


def test_the_mean_of_a_large_mask_is_exact_in_paddle_too():
    raw = raw_arrays(6, shift=-50.0)
    raw.category_logits[0][0, 1, 2, 2] = 3.0
    raw.kernels[0][0, :, 2, 2] = 1.0
    features = np.random.default_rng(0).uniform(0.5, 1.0, (1, raw.mask_features.shape[1], 600, 512))
    raw = raw._replace(mask_features=features.astype(np.float32))
    (score,) = in_paddle(PostprocessConfig(), raw).scores
    logits = features[0].sum(axis=0)
    expected = (1 / (1 + np.exp(-logits))).mean() / (1 + np.exp(-3.0))
    assert abs(score - expected) < 2e-6
    assert abs(NumpyPostprocess(PostprocessConfig())(raw).scores[0] - expected) < 2e-6
