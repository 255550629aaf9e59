"""Networks in OpenVINO: the same instances, in bfloat16 nearly so, and what is refused."""

import sys

import numpy as np
import pytest

from ppsolo import cpu
from ppsolo.cpu import has_bfloat16
from ppsolo.deploy import load
from ppsolo.deploy.export import export_model
from ppsolo.deploy.openvino_runtime import OpenVinoSession
from ppsolo.errors import ExportError

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def network(exported, tmp_path_factory):
    """An ONNX export of the network alone."""
    directory = tmp_path_factory.mktemp("network") / "onnx"
    return export_model(exported.model, exported.config, directory, format="onnx", graph="network").directory


def pictures() -> list[np.ndarray]:
    sizes = ((60, 90), (64, 64), (90, 60), (60, 90))
    return [np.random.default_rng(seed).integers(0, 256, [*size, 3], np.uint8) for seed, size in enumerate(sizes)]


def test_it_finds_what_onnxruntime_finds(network):
    predictor = load(network, engine="openvino", threads=1)
    assert predictor.description.startswith("OpenVINO ") and "cpu, fp32, 1 thread;" in predictor.description
    for ours, theirs in zip(predictor(pictures()), load(network)(pictures()), strict=True):
        assert ours.labels.tolist() == theirs.labels.tolist() and len(ours) > 3
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
        # where a probability comes within float rounding of the threshold, either answer is right
        assert (ours.masks != theirs.masks).sum(axis=(1, 2)).max() <= 2


@pytest.mark.skipif(not has_bfloat16(), reason="this CPU has no bfloat16")
def test_bfloat16_is_near(network):
    batch = np.random.default_rng(0).standard_normal((2, 3, 64, 96)).astype(np.float32)
    exact, rough = (load(network, engine="openvino", precision=p)._engine._session(batch) for p in ("fp32", "bf16"))
    for one, other in zip(rough, exact, strict=True):
        difference = np.abs(one - other).max() / np.abs(other).max()
        assert 1e-5 < difference < 0.1  # 8 bits, through 20 layers


def test_what_cannot_be_had_is_refused(network, exported, tmp_path, monkeypatch):
    whole = export_model(exported.model, exported.config, tmp_path / "whole", format="onnx", verify_export=False)
    for directory, options, message in (
        (whole.directory, {}, "--graph network"),
        (network, {"device": "gpu"}, "on a CPU"),
        (network, {"precision": "fp16"}, "fp32 or bf16"),
        (network, {"onednn": True}, "for a Paddle export"),
    ):
        with pytest.raises(ExportError, match=message):
            load(directory, engine="openvino", **options)
    monkeypatch.setattr(cpu, "has_bfloat16", lambda: False)
    with pytest.raises(ExportError, match="no bfloat16"):
        load(network, engine="openvino", precision="bf16")


def test_what_is_no_network_is_refused(network, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model at all")
    with pytest.raises(ExportError, match=r"model\.onnx cannot be loaded by OpenVINO"):
        OpenVinoSession(tmp_path / "model.onnx", ["scores"])
    with pytest.raises(ExportError, match="not a network of ppsolo"):
        OpenVinoSession(network / "model.onnx", ["scores"])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ExportError, match=r"pip install 'ppsolo\[openvino\]'"):
        OpenVinoSession(b"", [])
