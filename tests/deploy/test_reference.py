"""Where an export is verified, and that Paddle computes there only meanwhile."""

import paddle
import pytest

from ppsolo.deploy.reference import computing_on, model_on, verification_device
from ppsolo.models.tf32 import tf32_allowed


@pytest.mark.parametrize(
    ("device", "format", "gpus", "onnx_cuda", "expected"),
    [
        ("cpu", "paddle", 1, True, "cpu"),  # the GPU's TF32 would refuse it
        ("gpu", "paddle", 1, False, "gpu"),
        ("gpu", "paddle", 0, False, "cpu"),
        ("gpu", "onnx", 1, True, "gpu"),
        ("gpu", "onnx", 1, False, "cpu"),
    ],
)
def test_model_and_export_share_a_device(monkeypatch, device, format, gpus, onnx_cuda, expected):
    monkeypatch.setattr(paddle.device, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr("ppsolo.deploy.reference._onnxruntime_has_cuda", lambda: onnx_cuda)
    assert verification_device(device, format) == expected


def test_the_device_of_the_process_comes_back(monkeypatch):
    used = ["gpu:1"]
    monkeypatch.setattr(paddle.device, "get_device", lambda: used[-1])
    monkeypatch.setattr(paddle.device, "set_device", used.append)
    with pytest.raises(KeyError), computing_on("cpu"):
        assert used[-1] == "cpu" and tf32_allowed() == (False, False)
        raise KeyError
    assert used == ["gpu:1", "cpu", "gpu:1"]


def test_a_model_that_is_there_is_not_copied(exported):
    assert model_on("cpu", exported.model) is exported.model
