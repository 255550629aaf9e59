"""The device of an export: "cpu", "gpu" or a numbered GPU, "gpu:1"."""

import re
from typing import Literal, NamedTuple

from ppsolo.errors import ExportError


class DeviceChoice(NamedTuple):
    """A device: its kind, and the number of the GPU as CUDA_VISIBLE_DEVICES counts them; 0 for a CPU."""

    kind: Literal["cpu", "gpu"]
    number: int


def parse_device(device: str) -> DeviceChoice:
    """Parse the name of a device. Raises ExportError for a name other than "cpu", "gpu" and "gpu:N".

    >>> parse_device("gpu:1")
    DeviceChoice(kind='gpu', number=1)
    """
    if device == "cpu":
        return DeviceChoice("cpu", 0)
    match = re.fullmatch(r"gpu(?::([0-9]{1,9}))?", device)
    if match is None:
        raise ExportError(f"device is {device!r}: choose 'cpu', 'gpu' or the number of a GPU, as in 'gpu:1'")
    return DeviceChoice("gpu", int(match[1] or 0))
