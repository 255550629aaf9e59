"""Export: whole models and networks, open and fixed shapes, and what verification does with an export that is wrong."""

import shutil

import numpy as np
import paddle
import pytest
import yaml

from ppsolo import Predictor, save_weights
from ppsolo.cli import main
from ppsolo.config import config_to_dict
from ppsolo.deploy import export as export_module
from ppsolo.deploy import load
from ppsolo.deploy.directory import file_sha256, read_info
from ppsolo.deploy.export import export_model
from ppsolo.deploy.graph import fold_norms
from ppsolo.errors import ExportError, PredictionError


def test_the_export_is_verified(exported):
    verification = exported.export.verification
    assert verification.trusted and verification.images == 8 and verification.instances > 50
    assert 0 < verification.heads < 2e-5  # folding and other kernels: float32 through 20 layers


def test_a_fixed_shape_fills_batches_and_refuses_what_is_larger(exported, tmp_path):
    seen: list[tuple[int, int]] = []
    export = export_model(
        exported.model,
        exported.config,
        tmp_path / "fixed",
        input_shape=(2, 3, 96, 96),
        progress=lambda *counts: seen.append(counts),
    )
    assert seen == [(2, 10), (4, 10), (6, 10), (8, 10), (10, 10)]
    assert export.verification is not None and export.verification.trusted
    fixed = load(tmp_path / "fixed")
    random = np.random.default_rng(0)
    batch = random.normal(size=[3, 3, 64, 96]).astype("float32")
    padded = np.pad(batch, ((0, 0), (0, 0), (0, 32), (0, 0)))
    with paddle.no_grad():
        expected = Predictor(exported.config, model=exported.model).detect(padded)
    found = fixed.detect(batch)
    assert found.counts.tolist() == expected.counts.tolist() and found.counts.min() > 0
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    np.testing.assert_allclose(found.masks, expected.masks, atol=1e-4)
    with pytest.raises(PredictionError, match="128 pixels, the export takes 96 x 96"):
        fixed.detect(random.normal(size=[1, 3, 64, 128]).astype("float32"))


def test_onnx_finds_the_same(exported, tmp_path):
    export = export_model(exported.model, exported.config, tmp_path / "onnx", format="onnx")
    assert export.verification is not None and export.verification.trusted and list(export.info.files) == ["model.onnx"]
    images = [np.random.default_rng(seed).integers(0, 256, [60, 90, 3], np.uint8) for seed in range(2)]
    predictor = Predictor(exported.config, model=exported.model)
    for ours, theirs in zip(load(tmp_path / "onnx", threads=1)(images), predictor(images), strict=True):
        assert ours.labels.tolist() == theirs.labels.tolist() and len(ours) > 3
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)  # another runtime: float32 rounding
    for options, message in (({"engine": "paddle"}, "onnxruntime"), ({"precision": "fp16"}, "runs on a GPU")):
        with pytest.raises(ExportError, match=message):
            load(tmp_path / "onnx", **options)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 64, 64), "give N 3 H W"),
        ((1, 3, 64), "give N 3 H W"),
        ((0, 3, 64, 64), "at least 1"),
        ((1, 3, 60, 64), "multiples of 32"),
    ],
)
def test_impossible_shapes_are_refused(exported, tmp_path, shape, message):
    with pytest.raises(ExportError, match=message):
        export_model(exported.model, exported.config, tmp_path / "new", input_shape=shape)
    assert not list(tmp_path.iterdir())


def test_an_export_that_is_wrong_is_not_kept(exported, tmp_path, monkeypatch):
    place = shutil.copytree(exported.export.directory, tmp_path / "old")

    def wrong(model):
        folded = fold_norms(model)
        folded.mask_feature_head.output.norm.bias.set_value(folded.mask_feature_head.output.norm.bias + 0.1)
        return folded

    monkeypatch.setattr(export_module, "fold_norms", wrong)
    with pytest.raises(ExportError, match="failed its verification and was not kept"):
        export_model(exported.model, exported.config, place)
    assert read_info(place) == exported.export.info
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_the_command(exported, tmp_path, capsys, monkeypatch):
    weights, system = tmp_path / "own.safetensors", tmp_path / "mine.yml"
    save_weights(exported.model, weights)
    system.write_text(yaml.safe_dump(config_to_dict(exported.config)))
    command = ["export", "-c", str(system), "-o", f"weights={weights}", "--output_dir", str(tmp_path / "out")]
    assert main([*command, "--graph", "network", "--no_verify"]) == 0
    assert "not verified" in capsys.readouterr().out
    assert main(command) == 0  # replaces it
    assert "verified, 8 images" in capsys.readouterr().out
    info = read_info(tmp_path / "out")
    assert info.checkpoint == {"file": "own.safetensors", "sha256": file_sha256(weights)}
    assert info.graph == "whole" and info.verified is not None
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert main(command) == 2
    assert "notes.txt" in capsys.readouterr().err


def test_an_onnx_graph_is_written_for_a_device(exported, tmp_path):
    """Both graphs run on a CPU. Only the graph for CPUs has integer products: GPUs have no kernel for them."""
    onnx = pytest.importorskip("onnx")
    kinds = {}
    for device in ("cpu", "gpu"):
        place = tmp_path / device
        export = export_model(exported.model, exported.config, place, format="onnx", device=device)
        assert export.verification is not None and export.verification.trusted
        kinds[device] = {node.op_type for node in onnx.load(place / "model.onnx").graph.node}
    assert kinds["cpu"] - kinds["gpu"] == {"MatMulInteger", "Equal"}
