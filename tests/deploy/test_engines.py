"""The choice of a runtime on a CPU."""

import sys
from types import SimpleNamespace

import pytest

from ppsolo import Predictor, build_model, load_config, save_weights
from ppsolo.deploy import engines
from ppsolo.deploy.engines import best_engine, has_deformable_convolution


@pytest.fixture
def packages(monkeypatch):
    """Lets only these packages count as installed."""

    def use(*names: str) -> None:
        monkeypatch.setattr(engines, "installed", names.__contains__)

    return use


def test_the_fastest_installed_one_is_taken(packages):
    for names, expected in (
        (("onnx", "openvino", "onnxruntime"), "openvino"),
        (("onnx", "onnxruntime"), "onnxruntime"),
        (("openvino", "onnxruntime"), "dygraph"),
        (("onnx",), "dygraph"),
    ):
        packages(*names)
        assert best_engine() == expected


def test_an_onnxruntime_without_deformable_convolution_is_not_taken_for_it(packages, monkeypatch, tmp_path, tiny):
    pytest.importorskip("onnx")
    packages("onnx", "onnxruntime")

    def refused(*arguments: object, **options: object) -> None:
        raise RuntimeError("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for DeformConv")

    old = SimpleNamespace(InferenceSession=refused, SessionOptions=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "onnxruntime", old)
    has_deformable_convolution.cache_clear()
    try:
        assert (best_engine(), best_engine(deformable=True)) == ("onnxruntime", "dygraph")
        config = load_config("solov2_r50_enhance_coco", tiny)
        save_weights(build_model(config), tmp_path / "x.pdparams")
        assert Predictor(config, tmp_path / "x.pdparams").dygraph.model is not None
    finally:
        has_deformable_convolution.cache_clear()


def test_the_tested_onnxruntime_has_deformable_convolution():
    pytest.importorskip("onnxruntime")
    if sys.version_info < (3, 11):
        pytest.skip("onnxruntime ends before 1.25 there")
    has_deformable_convolution.cache_clear()
    assert has_deformable_convolution()
