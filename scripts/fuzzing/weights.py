"""Weights and training states: pickles, safetensors, archives of raw variables."""

import base64
import binascii
import io
import json
import pickle
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fuzzing.target import Target
from ppsolo.errors import PpsoloError

FLOATS_2 = b"\x08\x05\x10\x02"  # the description of float32 [2]


def _checkpoint(data: bytes, folder: Path) -> None:
    from ppsolo.checkpoint.reader import read_checkpoint

    (folder / "x").write_bytes(data)
    read_checkpoint(folder / "x")


def _checkpoint_seeds() -> list[bytes]:
    arrays = {"conv.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "bias": np.ones(3, np.float32)}
    pickles = [pickle.dumps(arrays, protocol=protocol) for protocol in (2, 3, 4, 5)]
    pairs = {name: (name, array) for name, array in arrays.items()}  # as paddle 2 stores parameters
    slices = {"UnpackBigParamInfor@@": {"a": {"OriginShape": (2, 3), "slices": ["a@@.0", "a@@.1"]}}}
    sliced = {"a@@.0": np.ones(4, np.float32), "a@@.1": np.ones(2, np.float32), **slices}
    nested = {"model": arrays, "epoch": 3, "StructuredToParameterName@@": {"conv.weight": "w_0"}}
    pickles += [pickle.dumps(content, protocol=2) for content in (pairs, sliced, nested)]
    return [*pickles, *map(_safetensors_of, _safetensors_seeds()), *map(_tar_of, _archive_seeds())]


def _safetensors(data: bytes, folder: Path) -> None:
    """The input is the header, so that its length always fits."""
    _checkpoint(_safetensors_of(data), folder)


def _safetensors_of(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(40)


def _safetensors_seeds() -> list[bytes]:
    def entry(kind: str, shape: Sequence[int], start: int, end: int) -> dict[str, Any]:
        return {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}

    header = {"a": entry("F32", (2, 2), 0, 16), "b": entry("BF16", (4,), 16, 24), "c": entry("I64", (2, 1), 24, 40)}
    return [json.dumps(content).encode() for content in (header, {"__metadata__": {"x": "y"}, **header})]


def _archive(data: bytes, folder: Path) -> None:
    """The input is a JSON list of members, so that every header has the checksum that fits."""
    _checkpoint(_tar_of(data), folder)


def _tar_of(text: bytes) -> bytes:
    try:
        members = json.loads(text)
        stream = io.BytesIO()
        for name, kind, content in members:
            body = base64.b64decode(content)
            member = tarfile.TarInfo(str(name)[:90])
            member.size, member.type = len(body), str(kind).encode("latin-1", "replace")[:1] or b"0"
            head = member.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")
            stream.write(head + body + bytes(-len(body) % 512))
    except (ValueError, TypeError, RecursionError, binascii.Error):
        raise PpsoloError("no list of members") from None
    return stream.getvalue() + bytes(1024)


def _archive_seeds() -> list[bytes]:
    def variable(description: bytes = FLOATS_2) -> str:
        start = struct.pack("<IQI", 0, 0, 0) + struct.pack("<i", len(description))
        return base64.b64encode(start + description + bytes(8)).decode()

    packed = base64.b64encode(b"21 path=folder/other\n").decode()
    long_name = base64.b64encode(b"folder/" + b"n" * 120 + b"\0").decode()
    lists: list[list[list[str]]] = [
        [["a", "0", variable()], ["b", "0", variable(b"\x08\x05\x12\x02\x01\x02")]],
        [["folder/", "5", ""], ["./folder/a", "0", variable()], ["folder/.hidden", "0", "AAAA"]],
        [["x", "x", packed], ["a", "0", variable()]],
        [["L", "L", long_name], ["a", "0", variable()]],
        [["a", "2", ""]],
        [[".", "0", variable()]],
        [["./", "0", variable()]],
    ]
    return [json.dumps(members).encode() for members in lists]


def _state(data: bytes, folder: Path) -> None:
    from ppsolo.training.state import TrainingState, check_same_run, read_state, write_state

    (folder / "raw.safetensors").write_bytes(data)
    try:
        read_state(folder / "raw.safetensors")
    except PpsoloError:
        try:
            values = json.loads(data)
        except (ValueError, RecursionError):
            raise PpsoloError("no record") from None
        write_state(TrainingState({"model": {"a": np.ones(2, np.float32)}}, values), folder / "x.safetensors")
        record = read_state(folder / "x.safetensors").record  # a record with the checksum that fits
        current = {"config": {"train": {"schedule": {"type": "step", "warmup_steps": 1}}}, "world_size": 1}
        check_same_run(record, {**current, "dataset": {"images": 2}})


def _state_seeds() -> list[bytes]:
    record = {"step": 7, "epoch": 1, "best_ap": 0.5, "recent_losses": [[1.0, 2.0]], "precision": {}, "config": {}}
    average = {"steps": 3, "zero_share": 0.5, "correction": "exact"}
    more = {"world_size": 1, "dataset": {"images": 2}}
    config = {"train": {"schedule": {"type": "step", "warmup_steps": 1}}}
    records = [{**record, "ema": ema, **more} for ema in (None, average)]
    return [json.dumps(one).encode() for one in (*records, {**records[0], "config": config})]


TARGETS = {
    "checkpoint": Target(_checkpoint, _checkpoint_seeds),
    "safetensors": Target(_safetensors, _safetensors_seeds),
    "archive": Target(_archive, _archive_seeds),
    "state": Target(_state, _state_seeds),
}
