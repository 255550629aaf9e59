"""Exports on a GPU beside the model: every format, graph and precision, pictures that hold nothing among them."""

import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from gpus import needs_gpus

from ppsolo.deploy import load
from ppsolo.deploy.export import export_model
from ppsolo.deploy.graph import PADDLE_3
from ppsolo.deploy.onnx.graph import build_onnx
from ppsolo.models.postprocess import SOLOv2Postprocess

pytestmark = needs_gpus()


def onnx_has_cuda() -> bool:
    onnxruntime = pytest.importorskip("onnxruntime")
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.fixture(scope="module")
def exports(gpu_config, gpu_model, tmp_path_factory) -> Path:
    """Folders "paddle whole", "onnx network" and so on, verified on the GPU where their runtime has one."""
    place = tmp_path_factory.mktemp("exports")
    for format in ("paddle", "onnx"):
        for graph in ("whole", "network"):
            folder = place / f"{format} {graph}"
            export = export_model(gpu_model, gpu_config, folder, format=format, graph=graph, device="gpu")
            assert export.verification is not None and export.verification.trusted
    return place


@pytest.mark.parametrize("tensorrt", [False, True])
@pytest.mark.parametrize("graph", ["whole", "network"])
@pytest.mark.parametrize("format", ["paddle", "onnx"])
def test_fp16_finds_what_fp32_finds(exports, format, graph, tensorrt):
    if tensorrt and (format == "onnx" or PADDLE_3):
        pytest.skip("TensorRT takes exports of Paddle 2.6")
    if format == "onnx" and not onnx_has_cuda():
        pytest.skip("this onnxruntime has no CUDA")
    options = {"tensorrt": True, "tensorrt_shapes": ((1, 64, 64), (2, 64, 96))} if tensorrt else {}
    batch = np.random.default_rng(0).standard_normal((2, 3, 64, 96)).astype(np.float32)
    exact, half = (
        load(exports / f"{format} {graph}", device="gpu", precision=precision, **options).detect(batch)
        for precision in ("fp32", "fp16")
    )
    assert min(exact.counts) > 3
    # float16 decides otherwise only near a threshold
    np.testing.assert_allclose(half.counts, exact.counts, atol=np.ceil(0.1 * max(exact.counts)))
    np.testing.assert_allclose(np.sort(half.scores)[-10:], np.sort(exact.scores)[-10:], atol=0.02)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_first_picture_holds_nothing(gpu_config, gpu_model, tmp_path, precision):
    bias = gpu_model.head.category.bias
    before = bias.numpy()
    try:
        bias.set_value(before - 50.0)
        export_model(gpu_model, gpu_config, tmp_path / "quiet", device="gpu", verify_export=False)
    finally:
        bias.set_value(before)
    found = load(tmp_path / "quiet", device="gpu", precision=precision).detect(np.zeros([1, 3, 64, 64], np.float32))
    assert found.counts.tolist() == [0]


def test_no_node_of_an_onnx_graph_runs_on_the_cpu(gpu_model, tmp_path):
    """But for shapes and other numbers that onnxruntime keeps on the CPU on purpose."""
    if not onnx_has_cuda():
        pytest.skip("this onnxruntime has no CUDA")
    import onnxruntime

    onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    graph = build_onnx(gpu_model, SOLOv2Postprocess(), device="gpu").SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=["CUDAExecutionProvider"])
    session.run(None, {"image": np.zeros([1, 3, 64, 96], np.float32)})
    events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [event for event in events if event.get("args", {}).get("provider") == "CPUExecutionProvider"]
    large = {
        node["name"] for node in nodes if int(node["args"].get("output_size", 0) or 0) > 4096
    }  # bytes: more than shapes need
    assert not large


def test_verification_leaves_the_device_as_it_was(exports):
    assert paddle.device.get_device().startswith("gpu")
