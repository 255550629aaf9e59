"""The safetensors format: 8 bytes of header length, a JSON header, then the arrays one after another."""

import json

import numpy as np

from ppsolo.checkpoint.checked_file import BFLOAT16, Source, quoted

DTYPES = {
    "BOOL": "|b1",
    "U8": "|u1",
    "I8": "|i1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "BF16": BFLOAT16,
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
}

_MAX_HEADER = 1 << 20  # enough for 10 000 arrays; parsed JSON may take 25 times this


def read_safetensors(source: Source) -> dict[str, np.ndarray]:
    """Return all arrays of the file in header order; BF16 becomes float32, `__metadata__` is left out.

    Raises CheckpointError unless the arrays fill the file without gap or overlap, as the format requires.
    """
    length = int.from_bytes(source.take(8), "little")
    if length > _MAX_HEADER:
        raise source.fail("has a safetensors header of more than 1 MiB, which no weights need; save it again")
    header = _parsed(source, source.take(length))
    header.pop("__metadata__", None)
    start = source.position
    entries = {name: _entry(source, name, entry) for name, entry in header.items()}
    _check_layout(source, sorted((begin, end) for _, _, begin, end in entries.values()))
    weights = {}
    for name, (dtype, shape, begin, end) in entries.items():
        source.seek(start + begin)
        weights[name] = source.array(name, dtype, shape, end - begin)
    return weights


def _parsed(source: Source, header: bytes) -> dict[str, object]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        result: dict[str, object] = {}
        for key, value in pairs:
            if key in result:
                raise source.fail(f"holds the key {quoted(key)} twice in its header; save it again")
            result[key] = value
        return result

    try:
        parsed = json.loads(header.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise source.damaged("the safetensors header is not JSON") from None
    if not isinstance(parsed, dict):
        raise source.damaged("the safetensors header is not a JSON object")
    return parsed


def _entry(source: Source, name: str, entry: object) -> tuple[str, tuple[int, ...], int, int]:
    """Return dtype, shape, begin and end of one array; offsets count from the end of the header."""
    match entry:
        case {
            "dtype": str() as kind,
            "shape": list() as shape,
            "data_offsets": [int() as begin, int() as end],
        }:
            pass
        case _:
            raise source.damaged(f"the safetensors header does not describe {quoted(name)}")
    if kind not in DTYPES:
        raise source.fail(f"holds {quoted(name)} as {quoted(kind)}, which ppsolo does not read; save it as F32")
    if not 0 <= begin <= end:
        raise source.damaged(f"the safetensors header places {quoted(name)} outside the file")
    return DTYPES[kind], tuple(shape), begin, end


def _check_layout(source: Source, ranges: list[tuple[int, int]]) -> None:
    """Check that `ranges` (sorted) cover every byte of the rest of the file exactly once."""
    position = 0
    for begin, end in ranges:
        if begin != position:
            raise source.damaged("the safetensors arrays overlap or leave gaps")
        position = end
    if position != source.left:
        raise source.fail(
            f"announces {position} bytes of arrays but has {source.left}: it is cut off or damaged; "
            "copy or download it again"
        )
