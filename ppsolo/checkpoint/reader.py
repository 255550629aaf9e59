"""Reads weights files of PaddlePaddle and safetensors as names and arrays; no code of a file is run."""

import math
import os
import re

import numpy as np

from ppsolo.checkpoint.checked_file import MAX_RANK, Source, open_source, problem, quoted
from ppsolo.checkpoint.pickle_machine import read_pickle
from ppsolo.checkpoint.pickle_records import PickledArray, Span, Text, load_array

NAME_TABLE = "StructuredToParameterName@@"
MOST_TABLES = 100  # most entries of a file with nested weights, as in {'model': weights, 'epoch': 3}
SLICE_TABLE = "UnpackBigParamInfor@@"

_HEAD_BYTES = 512  # one block of a tar
_PICKLE = 0x80  # the first byte of a pickle of protocol 2 and later
_KNOWN = "ppsolo reads PaddlePaddle .pdparams, .safetensors and the ImageNet .tar archives"

# first bytes of files that ppsolo does not read, and the message for each
_FOREIGN = (
    (rb"PK[\x03\x05]", f"looks like a PyTorch or zip file; {_KNOWN}"),
    (rb"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19", f"looks like a PyTorch file; {_KNOWN}"),
    (
        rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf",
        "is compressed; unpack it and give its content",
    ),
    (rb"\x89HDF", f"looks like a Keras or HDF5 file; {_KNOWN}"),
    (rb"\x93NUMPY", f"looks like a single numpy array; {_KNOWN}"),
    (rb"\s*<", "looks like a web page: the download went wrong; download it again"),
    (rb"version https://git-lfs", "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"),
    (
        rb"\s*\{\s*\"",
        "looks like JSON, perhaps an exported program; give the .pdparams file with the weights",
    ),
    (
        rb"\0{16}..\0\0\x08",
        "holds raw paddle variables without names, like the .pdiparams of an exported model; "
        "give the .pdparams file of the training, or the folder of an unpacked archive",
    ),
    (
        rb"\n[\x80-\xff]{0,9}[\0-\x7f]\x08\0\x10\xff{9}\x01",
        "is a program without weights (.pdmodel); give the .pdparams file that was saved with it",
    ),
    (
        rb"\(d|\}q|ccollections\n",
        f"looks like a pickle of protocol 0 or 1, which paddle never wrote; {_KNOWN}",
    ),
)
_OPTIMIZER = re.compile(
    r"LR_Scheduler|master_weights|@LR_DECAY_COUNTER@|@EMA_STEP_COUNTER@|learning_rate(_\d+)?"
    r"|.*_(velocity|momentum|moment1?|moment2|beta[12]_pow_acc|inf_norm|mean_square|mean_grad)_\d+"
)
_KINDS = {
    dict: "a dict",
    list: "a list",
    tuple: "a tuple",
    Text: "a text",
    Span: "a byte string",
    PickledArray: "a single array",
    bool: "a truth value",
    int: "a number",
    float: "a number",
    type(None): "nothing",
}


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the arrays of a weights file by name, in file order (of a folder: sorted), owned and C-contiguous.

    The content decides, not the suffix. It may be a paddle pickle of protocol 2 to 5 (static graph or dygraph; plain,
    or the only weights in an outer dict), safetensors, or an archive with one raw variable per file (.tar, .tar.gz, or
    its folder). Paddle's own entries are removed, its slices of large arrays joined, its (name, array) pairs
    unwrapped. dtypes are kept, in native byte order, except that bfloat16 becomes float32: safetensors marks it;
    paddle stores it as uint16, and uses uint16 for nothing else.

    Nothing that the file names is run, and memory stays below a small multiple of the file's size. Raises
    CheckpointError, one line with the path and the remedy, unless the whole file is understood.
    """
    label = os.fsdecode(path)
    try:
        weights = _read_folder(label) if os.path.isdir(label) else _read_file(label)
    except MemoryError:
        raise problem(label, "needs more memory than there is; free some or use a larger machine") from None
    if not weights:
        raise problem(label, "holds no arrays; give a file with weights")
    for name in weights:
        if not name or not name.isprintable():
            raise problem(label, f"holds an array under {quoted(name)}, which is not a printable name; rename it")
    return weights


def _read_file(path: str) -> dict[str, np.ndarray]:
    with open_source(path, follow_link=True) as source:
        head = source.head(_HEAD_BYTES)
        if not head:
            raise source.fail("is empty: a copy or download went wrong; copy or download it again")
        if head[4:9] == b"\0\0\0\0{":
            from ppsolo.checkpoint.safetensors import read_safetensors

            return read_safetensors(source)
        if head[0] != _PICKLE and (weights := _read_tar(source, head)) is not None:
            return weights
        for pattern, text in _FOREIGN:
            if re.match(pattern, head, re.DOTALL):
                raise source.fail(text)
        if head[0] == _PICKLE:
            return _weights_of(source, read_pickle(source))
        raise source.fail(f"is not a weights file (it begins with {head[:8].hex(' ')}); {_KNOWN}")


# Archives are rare: import their reader only if needed.
def _read_folder(path: str) -> dict[str, np.ndarray]:
    from ppsolo.checkpoint.archives import read_folder

    return read_folder(path)


def _read_tar(source: Source, head: bytes) -> dict[str, np.ndarray] | None:
    """Return the arrays of a .tar or .tar.gz; None if the file is neither."""
    from ppsolo.checkpoint.archives import is_tar_block, read_tar

    if is_tar_block(head):
        return read_tar(source)
    if head.startswith(b"\x1f\x8b\x08") and is_tar_block((inner := source.inflated()).head(_HEAD_BYTES)):
        weights = read_tar(inner)
        inner.drain()
        return weights
    return None


def _weights_of(source: Source, root: object) -> dict[str, np.ndarray]:
    """Return the arrays of an unpickled checkpoint by name, without paddle's own entries."""
    table = _weights_table(source, root)
    slices = table.get(SLICE_TABLE, {})
    weights = {}
    for name, value in table.items():
        if name in (NAME_TABLE, SLICE_TABLE):
            continue
        if not isinstance(name, str):
            raise source.fail(f"holds the key {quoted(name)}, which is not a name; save a dict of names and arrays")
        if _OPTIMIZER.fullmatch(name):
            raise source.fail(
                f"holds the state of an optimizer ({quoted(name)}), as .pdopt files do; "
                "give the .pdparams file that was saved with it, which holds only weights"
            )
        pickled = _pickled_array(value)
        if pickled is None:
            raise source.fail(f"holds {_kind(value)} under {quoted(name)}, not an array; save only the weights")
        weights[str(name)] = load_array(source, name, pickled)
    return _joined(source, weights, slices)


def _weights_table(source: Source, root: object) -> dict[object, object]:
    """Return `root`, or the only dict of weights in it, as in {'model': weights, 'optimizer': ..., 'epoch': 3}."""
    if not isinstance(root, dict):
        raise source.fail(f"holds {_kind(root)}, not a dict of names and arrays; save layer.state_dict()")
    if _holds_arrays(root):
        return root
    if len(root) > MOST_TABLES:
        raise source.fail(f"holds {len(root)} entries, none of them an array; save layer.state_dict()")
    inner = {key: value for key, value in root.items() if isinstance(value, dict) and _holds_arrays(value)}
    tables = {key: value for key, value in inner.items() if not _is_optimizer(value)} or inner
    if len(tables) > 1:
        names = ", ".join(quoted(key) for key in list(tables)[:5])
        raise source.fail(f"holds several dicts of arrays ({names}); save only the one with the weights")
    return next(iter(tables.values()), root)


def _pickled_array(value: object) -> PickledArray | None:
    """Return the array in a dict's value, which may be a pair (name, array); None for other values."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]
    return value if isinstance(value, PickledArray) else None


def _holds_arrays(table: dict[object, object]) -> bool:
    return any(_pickled_array(value) for value in table.values())


def _is_optimizer(table: dict[object, object]) -> bool:
    return any(isinstance(key, str) and _OPTIMIZER.fullmatch(key) for key in table)


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "an object")


def _joined(source: Source, weights: dict[str, np.ndarray], slices: object) -> dict[str, np.ndarray]:
    """Join slices in `weights`: under protocols 2 and 3, paddle cuts arrays of a gigabyte into slices.

    `slices` maps a name to {'OriginShape': shape, 'slices': names of the flat pieces}. The joined array takes the
    place of its first piece.
    """
    if not isinstance(slices, dict):
        raise source.fail(f"holds {_kind(slices)} under {quoted(SLICE_TABLE)}, not a dict; save it again")
    rest = dict(weights)
    wholes: dict[str, tuple[str, np.ndarray]] = {}
    for name, plan in slices.items():
        match plan:
            case {"OriginShape": tuple() as shape, "slices": [str() as first, *_] as pieces}:
                parts = [rest.pop(piece, None) if isinstance(piece, str) else None for piece in pieces]
                wholes[first] = str(name), _whole(source, str(name), parts, shape)
            case _:
                raise source.fail(f"does not describe the slices of {quoted(name)}; save it again")
    result: dict[str, np.ndarray] = {}
    for piece in weights:
        name, array = wholes.get(piece, (piece, rest.get(piece)))
        if name in result:
            raise source.fail(f"holds {quoted(name)} both whole and in slices; save it again")
        if array is not None:
            result[name] = array
    return result


def _whole(source: Source, name: str, parts: list[np.ndarray | None], shape: tuple[object, ...]) -> np.ndarray:
    """Join the flat pieces `parts` into an array of `shape`."""
    sides = [side for side in shape if type(side) is int and side > 0]
    flat = [part for part in parts if part is not None and part.ndim == 1 and part.dtype.kind == "f"]
    total = sum(part.size for part in flat)
    shape_fits = len(sides) == len(shape) <= MAX_RANK and max(sides, default=0) <= total
    if len(flat) != len(parts) or not shape_fits or math.prod(sides) != total:
        raise source.fail(f"cannot join the slices of {quoted(name)}: one is missing or does not fit; save it again")
    whole = np.empty(sides, dtype=flat[0].dtype)
    np.concatenate(flat, out=whole.reshape(-1))
    return whole
