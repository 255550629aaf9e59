"""The engines over onnxruntime: what they refuse, and how they say so."""

import sys
from typing import Any, ClassVar

import numpy as np
import pytest

from ppsolo.deploy.onnx.writer import OnnxWriter
from ppsolo.deploy.onnx_runtime import CPU, CUDA, OnnxEngine, OnnxSession
from ppsolo.errors import ExportError, PredictionError


def foreign_graph(input_name: str) -> bytes:
    writer = OnnxWriter()
    value = writer.value(input_name, writer.types.FLOAT, ["N"])
    writer.op("Relu", [input_name], to="scores")
    outputs = [writer.value("scores", writer.types.FLOAT, ["N"])]
    return writer.model(name="foreign", inputs=[value], outputs=outputs, metadata={}).SerializeToString()


def test_what_is_no_model_is_refused(tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"no model at all")
    for source, name in ((file, "model.onnx"), (str(file), "model.onnx"), (b"no model at all", "the model")):
        with pytest.raises(ExportError, match=name):
            OnnxEngine(source)
    with pytest.raises(ExportError, match=r"gone\.onnx"):
        OnnxEngine(tmp_path / "gone.onnx")


@pytest.mark.parametrize(("name", "lack"), [("image", "counts, labels, masks"), ("picture", "counts")])
def test_a_foreign_graph_is_refused(name, lack):
    with pytest.raises(ExportError, match=lack):
        OnnxEngine(foreign_graph(name))


def test_a_missing_operator_is_named_with_a_remedy(monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")

    def refused(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("9 : NOT_IMPLEMENTED : Could not find an implementation for DeformConv(19) node")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refused)
    with pytest.raises(ExportError, match=r"has no deformable convolution: install 1\.25 or later"):
        OnnxEngine(foreign_graph("image"))


def test_devices():
    with pytest.raises(ExportError, match="'tpu'"):
        OnnxEngine(foreign_graph("image"), device="tpu")
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(ExportError, match="onnx-gpu"):
            OnnxEngine(foreign_graph("image"), device="gpu")


class CpuOnlySession:
    """What onnxruntime gives where CUDA's libraries cannot be loaded: a warning, and a session on the CPU."""

    asked: ClassVar[list[Any]] = []

    def __init__(self, source: Any, options: Any, providers: list[Any]):
        self.asked.append(providers)

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


def test_a_silent_fall_to_the_cpu_is_refused(monkeypatch):
    import onnxruntime

    preloaded = []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: preloaded.append(True))
    monkeypatch.setattr(onnxruntime, "InferenceSession", CpuOnlySession)
    with pytest.raises(ExportError, match=r"would compute on the CPU.*onnx-gpu.*device='cpu'"):
        OnnxSession(foreign_graph("image"), ["scores"], device="gpu:1", keep_memory=False)
    assert preloaded == [True]
    ((provider, options),) = CpuOnlySession.asked[-1]
    assert provider == CUDA and options["device_id"] == "1" and options["arena_extend_strategy"] == "kSameAsRequested"


def test_a_failing_run_is_named():
    session = OnnxSession(foreign_graph("image"), ["scores"], threads=1)
    with pytest.raises(PredictionError, match=r"failed on a batch of shape \[1, 1\]"):
        session(np.zeros([1, 1], np.float32))


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(missing, monkeypatch):
    for module in [name for name in sys.modules if name == missing or name.startswith(f"{missing}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ExportError, match=r"pip install 'ppsolo\[onnx\]'"):
        if missing == "onnx":
            OnnxWriter()
        else:
            OnnxEngine(b"")


def test_description():
    session = OnnxSession(foreign_graph("image"), ["scores"], threads=1)
    assert session.description.startswith("onnxruntime ") and session.description.endswith("cpu, fp32, 1 thread")
    assert session(np.float32([-1, 2]))[0].tolist() == [0, 2]


@pytest.mark.parametrize("keep", [True, False])
def test_freed_memory_is_kept_or_goes_back_to_the_system(keep):
    """Memory cannot be measured in this large process, so the test looks at the session's arena."""
    session = OnnxSession(foreign_graph("image"), ["scores"], keep_memory=keep)
    assert session._session.get_session_options().enable_cpu_mem_arena == keep
