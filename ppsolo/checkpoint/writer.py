"""Writes weights as .pdparams or .safetensors: the same weights give the same bytes, whole or not at all."""

import json
import os
import struct
from collections.abc import Callable, Mapping
from typing import BinaryIO

import numpy as np

from ppsolo.atomic import atomic_writer
from ppsolo.checkpoint.checked_file import BFLOAT16, problem, quoted
from ppsolo.checkpoint.reader import NAME_TABLE, SLICE_TABLE
from ppsolo.checkpoint.safetensors import DTYPES

_SAFETENSORS_KINDS = {np.dtype(code): kind for kind, code in DTYPES.items() if code != BFLOAT16}
_MAX_NAME = 1000
# paddle takes uint16 for bfloat16, and lacks uint32 and uint64
_PADDLE_DTYPES = [np.dtype(code) for code in ("f4", "f2", "f8", "i8", "i4", "i2", "i1", "u1", "b1")]


def write_checkpoint(weights: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    """Write names and arrays in their order, by suffix: .pdparams or .safetensors.

    A .pdparams file is a pickle (protocol 4) of a plain dict of C-ordered little-endian arrays. paddle.load and
    PaddleDetection 2.x read it with every numpy version. The file appears whole or not at all: it is written next to
    its place, flushed to the disk, then renamed.

    Raises CheckpointError for another suffix, no weights, a name that is not printable or is an entry of paddle, a
    value that is not an array of plain numbers, or a folder that is missing, full or write-protected.
    """
    label = os.fsdecode(path)
    suffix = os.path.splitext(label)[1]
    if suffix == ".pdparams":
        _check(weights, label, _PADDLE_DTYPES)
        _replace(label, lambda stream: _write_pickle(weights, stream))
    elif suffix == ".safetensors":
        _check(weights, label, list(_SAFETENSORS_KINDS))
        _replace(label, lambda stream: _write_safetensors(weights, stream))
    else:
        raise problem(label, "weights are written as .pdparams or .safetensors; give one of these suffixes")


def _check(weights: Mapping[str, np.ndarray], label: str, dtypes: list[np.dtype]) -> None:
    if not weights:
        raise problem(label, "there are no weights to write; give at least one array")
    for name, array in weights.items():
        reserved = name in (NAME_TABLE, SLICE_TABLE, "__metadata__")
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= _MAX_NAME or reserved:
            raise problem(label, f"{quoted(name)} cannot name an array; rename it")
        if not isinstance(array, np.ndarray):
            raise problem(label, f"{quoted(name)} is a {type(array).__name__}; give a numpy array")
        if array.dtype.newbyteorder("=") not in dtypes:
            raise problem(label, f"{quoted(name)} has dtype {array.dtype}, which the file cannot hold; use float32")


def _little_endian(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _write_data(array: np.ndarray, stream: BinaryIO) -> None:
    if array.size:
        stream.write(_little_endian(array).reshape(-1).view(np.uint8).data)


# The pickle is written instruction by instruction: pickle.dump would store the module names of the running numpy, and
# numpy 1 does not know those of numpy 2.


def _write_pickle(weights: Mapping[str, np.ndarray], stream: BinaryIO) -> None:
    stream.write(b"\x80\x04}(")
    for name, array in weights.items():
        stream.write(_text(name))
        stream.write(_named("numpy.core.multiarray", "_reconstruct") + _named("numpy", "ndarray"))
        stream.write(b"K\0\x85C\x01b\x87R(K\x01")
        stream.write(b"(" + b"".join(_whole_number(side) for side in array.shape) + b"t")
        stream.write(_dtype(array.dtype) + b"\x89")
        stream.write(b"\x8e" + struct.pack("<Q", array.nbytes) if array.nbytes > 255 else b"C" + bytes([array.nbytes]))
        _write_data(array, stream)
        stream.write(b"tb")
    stream.write(b"u.")


def _dtype(dtype: np.dtype) -> bytes:
    code = f"{dtype.kind}{dtype.itemsize}"
    order = "|" if dtype.itemsize == 1 else "<"
    number = struct.pack("<i", -1)
    state = b"(K\x03" + _text(order) + b"NNNJ" + number + b"J" + number + b"K\0t"
    return _named("numpy", "dtype") + _text(code) + b"\x89\x88\x87R" + state + b"b"


def _named(module: str, name: str) -> bytes:
    return _text(module) + _text(name) + b"\x93"


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return (b"\x8c" + bytes([len(data)]) if len(data) < 256 else b"X" + struct.pack("<I", len(data))) + data


def _whole_number(value: int) -> bytes:
    return b"K" + bytes([value]) if value < 256 else b"\x8a\x08" + struct.pack("<q", value)


def _write_safetensors(weights: Mapping[str, np.ndarray], stream: BinaryIO) -> None:
    header, end = {}, 0
    for name, array in weights.items():
        begin, end = end, end + array.nbytes
        kind = _SAFETENSORS_KINDS[array.dtype.newbyteorder("=")]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    stream.write(struct.pack("<Q", len(text)) + text)
    for array in weights.values():
        _write_data(array, stream)


def _replace(path: str, write: Callable[[BinaryIO], None]) -> None:
    """Let `write` fill a new file next to `path`; put it in place once it is on the disk."""
    try:
        with atomic_writer(path, "wb") as stream:
            write(stream)
    except OSError as error:
        raise problem(path, f"cannot be written ({error.strerror}); check the folder and the space in it") from None
