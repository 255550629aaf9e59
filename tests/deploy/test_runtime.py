"""The exported model as a predictor: its answers beside the predictor's, its refusals, and verification itself."""

import dataclasses
import logging
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from ppsolo import Predictor
from ppsolo.data.images import write_image
from ppsolo.deploy import ExportedPredictor, load
from ppsolo.deploy.directory import checksums, write_info
from ppsolo.deploy.export import export_model
from ppsolo.deploy.graph import PADDLE_3
from ppsolo.deploy.paddle_inference import PaddleSession
from ppsolo.deploy.verify import SCORES_BOUND, match, verify
from ppsolo.errors import ExportError, ImageError, PredictionError
from ppsolo.models.postprocess import SOLOv2Postprocess
from ppsolo.results.instances import Instances
from ppsolo.results.postprocess import DetectionArrays


@pytest.fixture(scope="module")
def loaded(exported):
    return load(exported.export.directory, threads=1)


@pytest.fixture(scope="module")
def predictor(exported):
    return Predictor(exported.config, model=exported.model)


def picture(seed: int, height: int = 60, width: int = 90) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, [height, width, 3], dtype=np.uint8)


def assert_same(one: Instances, other: Instances) -> None:
    assert one.size == other.size and len(one) == len(other) > 3
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)  # other kernels: float32 rounding
    assert sum(np.count_nonzero(a != b) for a, b in zip(one.masks, other.masks, strict=True)) <= 2 * len(one)


@pytest.mark.parametrize("onednn", [None, False, True])
def test_it_answers_as_the_predictor(exported, predictor, onednn):
    loaded = load(exported.export.directory, threads=1, onednn=onednn)
    images = [picture(0), picture(1, 64, 64), picture(2), picture(3, 30, 200), picture(4, 300, 200)]
    for ours, theirs in zip(loaded(images, batch_size=5), predictor(images), strict=True):
        assert_same(ours, theirs)
    assert "Paddle Inference" in loaded.description and ("oneDNN" in loaded.description) == (onednn is not False)
    assert loaded.class_names == predictor.class_names and loaded.category_ids == predictor.category_ids


@pytest.mark.parametrize("format", ["paddle", "onnx"])
@pytest.mark.parametrize("graph", ["network", "whole"])
@pytest.mark.parametrize("input_shape", [(-1, 3, -1, -1), (3, 3, 64, 96)])
def test_every_form_answers_as_the_predictor(exported, predictor, tmp_path, format, graph, input_shape):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    export = export_model(
        exported.model, exported.config, tmp_path / "out", graph=graph, format=format, input_shape=input_shape
    )
    assert export.verification is not None and export.verification.instances > 0
    loaded = load(tmp_path / "out", threads=2)
    images = [picture(seed) for seed in range(4)]
    for ours, theirs in zip(loaded(images, batch_size=4), predictor(images), strict=True):
        assert_same(ours, theirs)
    assert ("numpy" in loaded.description) == (graph == "network")


def test_an_export_for_gpus_keeps_paddles_deformable_convolution(exported, predictor, tmp_path):
    export = export_model(exported.model, exported.config, tmp_path / "out", device="gpu")
    assert_same(load(export.directory, threads=2)(picture(0)), predictor(picture(0)))

    def has_kernel(directory: Path) -> bool:
        return any(b"deformable_conv" in file.read_bytes() for file in directory.glob("model.*"))

    assert has_kernel(export.directory) and has_kernel(exported.export.directory) != PADDLE_3


def test_paths_arrays_lists_and_nothing(loaded, tmp_path):
    write_image(tmp_path / "a.png", picture(5))
    assert_same(loaded(tmp_path / "a.png"), loaded(picture(5)))
    assert loaded([]) == []
    with pytest.raises(ImageError, match=r"missing\.jpg"):
        loaded(tmp_path / "missing.jpg")


class Broken:
    """An engine whose network computed no numbers."""

    description = "none"

    def run(self, images: np.ndarray) -> DetectionArrays:
        nothing = np.zeros([0], np.float32)
        return DetectionArrays(nothing, nothing.astype(np.int64), nothing.reshape(0, 16, 16), np.full(len(images), -1))


def test_what_is_not_finite_is_refused(exported):
    with pytest.raises(PredictionError, match="not finite"):
        ExportedPredictor(exported.export.info, Broken())(picture(0))


def test_what_cannot_be_had_is_refused(exported):
    directory = exported.export.directory
    for options, message in (
        ({"engine": "onnxruntime"}, "for the engine paddle"),
        ({"threads": 0}, "at least 1"),
        ({"device": "tpu"}, "choose 'cpu', 'gpu'"),
        ({"precision": "int8"}, "fp32, fp16, bf16"),
        ({"precision": "fp16"}, "runs on a GPU"),
        ({"precision": "bf16", "onednn": False}, "through oneDNN"),
        ({"tensorrt": True}, "runs on a GPU"),
    ):
        with pytest.raises(ExportError, match=message):
            load(directory, **options)
    if not paddle.is_compiled_with_cuda():
        with pytest.raises(ExportError, match="has no CUDA"):
            load(directory, device="gpu")


def test_damaged_files_are_refused_by_name(exported, tmp_path):
    copied = shutil.copytree(exported.export.directory, tmp_path / "copy")
    weights = copied / "model.pdiparams"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ExportError, match=r"model\.pdiparams was cut off"):
        load(copied)
    weights.unlink()
    with pytest.raises(ExportError, match=r"model\.pdiparams is missing"):
        load(copied)


class Foreign(nn.Layer):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        return self.linear(x)


def test_a_foreign_graph_is_refused(exported, tmp_path):
    """One with matching checksums, as someone might make who puts another model in its place."""
    spec = paddle.static.InputSpec([None, 4], "float32", "x")
    layer = Foreign()
    layer.eval()
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=[spec], full_graph=True), str(tmp_path / "model"))
    write_info(tmp_path, dataclasses.replace(exported.export.info, files=checksums(tmp_path)))
    with pytest.raises(ExportError, match="is not ppsolo's"):
        load(tmp_path)


def test_verification_sees_what_is_wrong(exported, loaded, tmp_path):
    config, model = exported.config, exported.model
    export_model(model, config, tmp_path / "network", graph="network", verify_export=False)
    heads = PaddleSession(tmp_path / "network")

    def verified(change):
        def detect(batch):
            found = loaded.detect(batch)
            return change(DetectionArrays(*(array.copy() for array in found)))

        return verify(model, config, (-1, 3, -1, -1), heads=heads, detect=detect)

    right = verified(lambda found: found)
    assert right.trusted and not right._replace(heads=float("nan")).trusted
    fewer = verified(lambda found: found._replace(counts=found.counts - (np.arange(len(found.counts)) == 0)))
    assert fewer.lost > 0 and not fewer.trusted
    shifted = verified(lambda found: found._replace(masks=np.roll(found.masks, 1, axis=2)))
    assert shifted.pixels > 1e-3 and not shifted.trusted


def test_only_one_label_and_nearly_one_score_make_a_pair():
    masks = np.ones([2, 4, 4], np.float32)
    one = DetectionArrays(np.array([0.9, 0.5]), np.array([0, 1]), masks, np.array([2]))
    other_label = one._replace(labels=np.array([0, 2]))
    assert match(one, other_label, SOLOv2Postprocess()) == ([(0, 0)], [1], [1])
    for step, pairs in ((0.5, [(0, 0), (1, 1)]), (2.0, [])):
        moved = one._replace(scores=one.scores + step * SCORES_BOUND)
        assert match(one, moved, SOLOv2Postprocess())[0] == pairs


def test_only_what_rounding_decides_may_be_left_over():
    masks = np.ones([3, 4, 4], np.float32)
    one = DetectionArrays(np.array([0.9, 0.5, 0.05]), np.array([0, 1, 1]), masks, np.array([3]))
    other = DetectionArrays(np.array([0.9, 0.7]), np.array([0, 1]), masks[:2], np.array([2]))
    assert match(one, other, SOLOv2Postprocess()) == ([(0, 0)], [1], [1])
    assert match(one, other, SOLOv2Postprocess(max_instances=3, update_threshold=0.0)) == ([(0, 0)], [1], [1])
    assert match(one, other, SOLOv2Postprocess(update_threshold=0.01)) == ([(0, 0)], [1, 2], [1])


def test_an_export_for_another_device_is_named(exported, tmp_path, caplog):
    assert exported.export.info.device == "cpu"
    load(exported.export.directory)
    assert "may be slow" not in caplog.text
    folder = shutil.copytree(exported.export.directory, tmp_path / "gpu")
    write_info(folder, dataclasses.replace(exported.export.info, device="gpu"))
    with caplog.at_level(logging.WARNING):
        load(folder)
    assert "was exported for a gpu and may be slow on this cpu: export with --device cpu" in caplog.text
    with pytest.raises(ExportError, match=r"'gpu:x'.*'gpu:1'"):
        load(exported.export.directory, device="gpu:x")
