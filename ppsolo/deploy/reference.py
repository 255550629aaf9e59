"""The reference model for verification: on the export's device, in full precision."""

import copy
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import paddle

from ppsolo.deploy.directory import Device, Format
from ppsolo.models.solov2 import SOLOv2
from ppsolo.models.tf32 import tf32


def verification_device(device: Device, format: Format) -> Device:
    """Return the device on which to verify an export: the GPU if the export is for it and its runtime has it, else CPU.

    A model on a GPU and an export on a CPU differ by more than rounding if the GPU uses TF32.
    """
    if device == "cpu" or not paddle.device.is_compiled_with_cuda() or paddle.device.cuda.device_count() == 0:
        return "cpu"
    return "gpu" if format == "paddle" or _onnxruntime_has_cuda() else "cpu"


def _onnxruntime_has_cuda() -> bool:
    if importlib.util.find_spec("onnxruntime") is None:
        return False
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@contextmanager
def computing_on(device: Device) -> Iterator[None]:
    """Inside the block, Paddle creates tensors on the device and avoids TF32; then the old state returns."""
    before = paddle.device.get_device()
    try:
        if before.partition(":")[0] != device:
            paddle.device.set_device(device)
        with tf32(allowed=False):
            yield
    finally:
        if before != paddle.device.get_device():
            paddle.device.set_device(before)


def model_on(device: Device, model: SOLOv2) -> SOLOv2:
    """Return the model itself if its weights are on the device, else a copy there; call it within `computing_on`."""
    places = [parameter.place for parameter in model.parameters()]
    if all(place.is_gpu_place() == (device == "gpu") for place in places):
        return model
    copied = copy.deepcopy(model)
    copied.to(device=device)
    copied.eval()
    return copied
