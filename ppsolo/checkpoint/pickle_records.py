"""The description of arrays in a pickle, before it is checked."""

from dataclasses import dataclass
from enum import Enum, auto

import numpy as np

from ppsolo.checkpoint.checked_file import BFLOAT16, Source, quoted

# numpy codes of plain numbers; paddle uses uint16 only for bfloat16
_CODES = {code: code for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u4", "u8", "b1")}
_CODES["u2"] = BFLOAT16


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """A byte string still in the file: `length` bytes from `start`; UTF-8 text if `is_text`."""

    start: int
    length: int
    is_text: bool


class Text(str):
    """A short text with its position in the file, because it may be the content of an array."""

    __slots__ = ("span",)

    span: Span


@dataclass(slots=True, eq=False)
class PickledType:
    """A numpy dtype in the file: a code such as 'f4', a byte order, and whether it has no fields."""

    code: str
    order: str = ""
    is_plain: bool = False


@dataclass(slots=True, eq=False)
class PickledArray:
    """A numpy array in the file, unchecked; all fields are None until it is described."""

    kind: object = None
    shape: object = None
    fortran: object = None
    data: object = None


class Callee(Enum):
    """The functions and types that a checkpoint may name."""

    RECONSTRUCT = auto()
    FROM_BUFFER = auto()
    NDARRAY = auto()
    DTYPE = auto()
    ENCODE = auto()
    BYTES = auto()
    TUPLE = auto()
    ORDERED_DICT = auto()


def load_array(source: Source, name: str, pickled: PickledArray) -> np.ndarray:
    """Read the array that `pickled` describes; bfloat16 becomes float32.

    Raises CheckpointError if type, shape and bytes do not fit together.
    """
    kind, shape, data = pickled.kind, pickled.shape, pickled.data
    if not isinstance(kind, PickledType) or not isinstance(shape, tuple):
        raise source.fail(f"describes {quoted(name)} incompletely; copy or download it again")
    code = _CODES.get(kind.code, "")
    if not code or not kind.is_plain or kind.order not in (("<",) if code == BFLOAT16 else ("<", ">", "|")):
        raise source.fail(
            f"holds {quoted(name)} as dtype {quoted(kind.order + kind.code)}, not as plain numbers; "
            "save it as an array of numbers, such as float32"
        )
    span = data.span if isinstance(data, Text) else data
    if not isinstance(span, Span):
        raise source.fail(f"holds {quoted(name)} as objects, not as the bytes of numbers; save it as float32")
    source.seek(span.start)
    dtype = code if code == BFLOAT16 else kind.order + code
    return source.array(name, dtype, shape, span.length, latin1=span.is_text, fortran=bool(pickled.fortran))
