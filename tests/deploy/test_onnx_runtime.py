"""The engines over onnxruntime: what they refuse, and how they say so."""

import sys

import numpy as np
import pytest

from ppsolo.deploy.onnx.writer import OnnxWriter
from ppsolo.deploy.onnx_runtime import OnnxEngine, OnnxSession
from ppsolo.errors import ExportError


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


def test_devices():
    with pytest.raises(ValueError, match="'tpu'"):
        OnnxEngine(foreign_graph("image"), device="tpu")
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(ExportError, match="onnxruntime-gpu"):
            OnnxEngine(foreign_graph("image"), device="gpu")


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
    """The process is too large to see that here: whether there is an arena is asked instead."""
    session = OnnxSession(foreign_graph("image"), ["scores"], keep_memory=keep)
    assert session._session.get_session_options().enable_cpu_mem_arena == keep
