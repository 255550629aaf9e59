"""The published ImageNet files with seeded values, in both containers, as tests serve them."""

import io
import struct
import tarfile

import numpy as np

from ppsolo.checkpoint.backbones import BACKBONES
from ppsolo.checkpoint.writer import write_checkpoint
from ppsolo.legacy.names import STATIC


def arrays_of(name: str, generation: str) -> dict[str, np.ndarray]:
    """The arrays of a published file with values from a seed, by which a network computes finite numbers."""
    random = np.random.default_rng(1)
    return {
        # A kernel keeps the size of what goes through it; what belongs to a norm is positive.
        key: (random.random(shape, np.float32) - (0.5 if len(shape) == 4 else 0))
        * np.float32(1 / np.sqrt(np.prod(shape[1:])))
        for key, shape in BACKBONES[name].shapes(generation).items()
    }


def variable(array: np.ndarray) -> bytes:
    """One file of a 0.5 archive: version, no levels, version, description, values."""
    sides = b"".join(b"\x10" + varint(side) for side in array.shape)
    description = b"\x08\x05" + sides
    return struct.pack("<IQIi", 0, 0, 0, len(description)) + description + array.astype("<f4").tobytes()


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def write_archive(path, name: str, arrays: dict[str, np.ndarray]) -> None:
    """A tar as PaddlePaddle 1.x published it: one folder, one file for each variable."""
    with tarfile.open(path, "w") as tar:
        for key, array in arrays.items():
            content = variable(array)
            info = tarfile.TarInfo(f"{name}/{key}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def write_published(folder, name: str, generation: str, *, prefix: str = "") -> dict[str, np.ndarray]:
    """The file of a backbone in `folder`, with a classifier; returns the arrays of the backbone."""
    arrays = arrays_of(name, generation)
    classifier = np.zeros((8, 4), np.float32)
    file = folder / BACKBONES[name].file_name(generation)
    if generation == STATIC:
        write_archive(file, name, {**arrays, "fc_0.w_0": classifier})
    else:
        write_checkpoint({f"{prefix}{key}": array for key, array in {**arrays, "fc.weight": classifier}.items()}, file)
    return arrays
