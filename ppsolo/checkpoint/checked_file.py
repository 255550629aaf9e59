"""An open weights file that checks every read and every array against the bytes that are present."""

import codecs
import gzip
import math
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np

from ppsolo.errors import CheckpointError

BFLOAT16 = "bfloat16"
CUT_OFF = "is cut off or damaged; copy or download it again"
MAX_RANK = 32  # most axes that every version of numpy allows

_READ_ERRORS = (OSError, EOFError, zlib.error)  # errors of a disk or a damaged gzip
_CHUNK = 1 << 20
_MAX_SHOWN = 80
# Aliases and bfloat16 may make arrays larger than the file, but never by more than this factor.
_MAX_GROWTH = 4
_INFLATION_ALLOWANCE = 16 << 20


def problem(path: str, text: str) -> CheckpointError:
    """Return the error `path: text` on one line, whatever names `text` quotes."""
    return CheckpointError(f"{path}: {text}")


def quoted(name: object) -> str:
    """Quote and shorten a name from the file for a message; for other values, name the type."""
    if not isinstance(name, str | int):
        return f"<{type(name).__name__}>"
    if isinstance(name, int) and name.bit_length() > 64:
        return "<a huge number>"
    text = str(name)
    return f"'{text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + '...'}'"


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Convert bfloat16 values, given as uint16 bit patterns, to float32 of the same shape; exact."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


class Source:
    """Reads a stream of at most `size` bytes forward; the position can be set back.

    A length that the file claims is compared with the remaining bytes before memory is allocated. All arrays together
    may take four times `size`. `overrun`: the message for a claim beyond `size`.
    """

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, path: str, size: int, overrun: str) -> None:
        self.path = path
        self.size = size
        self.position = 0
        self._stream = stream
        self._overrun = overrun
        self._unpacked = 0

    @property
    def left(self) -> int:
        """Bytes between the position and the end."""
        return self.size - self.position

    def fail(self, text: str) -> CheckpointError:
        """Return the error that says `text` about this file."""
        return problem(self.path, text)

    def damaged(self, text: str) -> CheckpointError:
        """Return the error for content that contradicts itself at this position."""
        return self.fail(f"is damaged near byte {self.position}: {text}; copy or download it again")

    def inflated(self) -> "Source":
        """Return the content of this gzip, at most 4 times its size plus 16 MiB: trained weights hardly compress."""
        return Source(
            gzip.GzipFile(fileobj=self._stream, mode="rb"),
            path=self.path,
            size=_MAX_GROWTH * self.size + _INFLATION_ALLOWANCE,
            overrun=f"unpacks to over {_MAX_GROWTH} times its size; unpack it and give its content",
        )

    def require(self, count: int) -> None:
        """Raise CheckpointError if fewer than `count` bytes are left."""
        if count > self.left:
            raise self.fail(self._overrun)

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        self.require(count)
        data = self._read(count)
        if len(data) != count:
            raise self.fail(CUT_OFF)
        self.position += count
        return data

    def head(self, count: int) -> bytes:
        """Return the first `count` bytes, or all if there are fewer, and go back to the start."""
        self.seek(0)
        data = self._read(count)
        self.seek(0)
        return data

    def drain(self) -> None:
        """Read to the end of the stream, so that a gzip compares its checksum."""
        while data := self._read(_CHUNK):
            self.require(len(data))
            self.position += len(data)

    def skip(self, count: int) -> None:
        """Move `count` bytes forward."""
        self.require(count)
        self.seek(self.position + count)

    def seek(self, position: int) -> None:
        """Set the position within the file."""
        try:
            self._stream.seek(position)
        except _READ_ERRORS as error:
            raise self._unreadable(error) from None
        self.position = position

    def array(
        self,
        name: str,
        dtype: str,
        shape: tuple[int, ...],
        length: int,
        latin1: bool = False,
        fortran: bool = False,
    ) -> np.ndarray:
        """Read the array of `dtype` and `shape` from the next `length` bytes; owned, C-contiguous, native-endian.

        `dtype`: a numpy code with byte order such as '<f4', or BFLOAT16, which becomes float32. `latin1`: the bytes are
        UTF-8 text whose characters are the bytes of the values. `fortran`: the first axis varies fastest.
        """
        stored = np.dtype("<u2" if dtype == BFLOAT16 else dtype)
        expected = self._byte_count(name, shape, stored.itemsize)
        if not (expected <= length <= 2 * expected if latin1 else length == expected):
            raise self.fail(
                f"claims shape {_shape_text(shape)} for {quoted(name)} but holds {length} bytes of it; "
                "copy or download it again"
            )
        self.require(length)
        self._unpacked += expected * (2 if dtype == BFLOAT16 else 1)
        if self._unpacked > _MAX_GROWTH * self.size:
            raise self.fail(
                f"unpacks to more than {_MAX_GROWTH} times its size at {quoted(name)}; no weights do that, "
                "get the file from a source that you trust"
            )
        array = np.empty(shape[::-1] if fortran else shape, dtype=stored)
        if expected:
            self._fill(array.reshape(-1).view(np.uint8), length, latin1)
        return _finished(array.T if fortran else array, dtype)

    def _read(self, count: int) -> bytes:
        try:
            return self._stream.read(count)
        except _READ_ERRORS as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> CheckpointError:
        return self.fail(f"cannot be read ({error}); copy or download it again")

    def _byte_count(self, name: str, shape: tuple[int, ...], itemsize: int) -> int:
        if len(shape) > MAX_RANK or any(type(side) is not int or side < 0 for side in shape):
            raise self.fail(f"claims an impossible shape for {quoted(name)}; copy or download it again")
        if math.prod(side for side in shape if side) * itemsize > max(self.size, 1 << 40):
            raise self.fail(
                f"claims shape {_shape_text(shape)} for {quoted(name)}, far more than the file holds; "
                "copy or download it again"
            )
        return math.prod(shape) * itemsize

    def _fill(self, target: np.ndarray, length: int, latin1: bool) -> None:
        """Fill `target` (uint8, one-dimensional) from the next `length` bytes."""
        decoder = codecs.getincrementaldecoder("utf-8")("strict")
        filled = 0
        for count in _chunk_lengths(length):
            piece = self.take(count)
            if latin1:
                piece = self._latin1_bytes(decoder, piece)
            if filled + len(piece) > target.size:
                raise self.damaged("an array is longer than its shape")
            target[filled : filled + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
            filled += len(piece)
        if filled != target.size:
            raise self.damaged("an array is shorter than its shape")

    def _latin1_bytes(self, decoder: codecs.IncrementalDecoder, piece: bytes) -> bytes:
        try:
            return decoder.decode(piece).encode("latin-1")
        except UnicodeError:
            raise self.damaged("the text that holds an array is not Latin-1") from None


def _chunk_lengths(total: int) -> Iterator[int]:
    for start in range(0, total, _CHUNK):
        yield min(_CHUNK, total - start)


def _shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(quoted(side).strip("'") for side in shape) or "()"


def _finished(array: np.ndarray, dtype: str) -> np.ndarray:
    """Convert `array` to its final form: owned, C-contiguous, native-endian."""
    if dtype == BFLOAT16:
        array = widen_bfloat16(array)
    elif array.dtype == np.bool_:
        # a byte above 1 would become a boolean that is neither True nor False
        array = np.asarray(array.view(np.uint8) != 0)
    return array.astype(array.dtype.newbyteorder("="), order="C", copy=not array.flags.owndata)


@contextmanager
def open_source(path: str, follow_link: bool) -> Iterator[Source]:
    """Open a regular file for checked reading; pipes and devices are refused at once, without waiting.

    Raises CheckpointError if the file is missing, unreadable, not regular, or a link while `follow_link` is False.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not follow_link:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    try:
        status = os.stat(path, follow_symlinks=follow_link)
        if stat.S_ISLNK(status.st_mode):
            raise problem(path, "is a symbolic link; put the file itself in its place")
        if not stat.S_ISREG(status.st_mode):
            raise problem(path, "is a pipe, socket or device, not a file; give a weights file")
        stream = os.fdopen(os.open(path, flags), "rb")
    except FileNotFoundError:
        raise problem(path, "no such file; check the path") from None
    except PermissionError:
        raise problem(path, "may not be read by this user; change its permissions") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise problem(path, f"cannot be opened ({reason}); check the path") from None
    with stream:
        yield Source(stream, path=path, size=os.fstat(stream.fileno()).st_size, overrun=CUT_OFF)
