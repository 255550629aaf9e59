"""Every kind of weights file that read_checkpoint understands, and what it says of other files."""

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppsolo.checkpoint.reader import read_checkpoint
from ppsolo.errors import CheckpointError

FLOATS = np.array([[0.0, -1.5, 2.0], [3.25, 4.0, np.nan]], np.float32)


def state_dict() -> dict[str, Any]:
    """Tensors of every kind that a paddle model may hold, bfloat16, a scalar and an empty one among them."""
    return {
        "float32": paddle.to_tensor(FLOATS),
        "float16": paddle.to_tensor(np.array([1.5, -2.0], np.float16)),
        "bfloat16": paddle.to_tensor(np.array([1.5, -2.0, 3.140625], np.float32)).astype("bfloat16"),
        "int64": paddle.to_tensor(np.array(7)),
        "bool": paddle.to_tensor(np.array([True, False])),
        "empty": paddle.zeros([0, 3]),
    }


EXPECTED = {
    "float32": FLOATS,
    "float16": np.array([1.5, -2.0], np.float16),
    "bfloat16": np.array([1.5, -2.0, 3.140625], np.float32),
    "int64": np.array(7),
    "bool": np.array([True, False]),
    "empty": np.zeros([0, 3], np.float32),
}


def check_same(weights: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(weights) == list(expected)
    for name, array in weights.items():
        assert type(name) is str
        assert array.dtype == expected[name].dtype and array.dtype.isnative
        assert array.shape == expected[name].shape
        np.testing.assert_array_equal(array, expected[name])
        assert array.flags.owndata and array.flags.c_contiguous and array.flags.writeable


def check_refused(path: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    for word in words:
        assert word in message


def pickled(tmp_path: Path, value: object, protocol: int = 4) -> Path:
    path = tmp_path / "weights.pdparams"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def raw_variable(array: np.ndarray, kind: int) -> bytes:
    """`array` as PaddlePaddle 1.x saves one variable; `kind` is paddle's number of its dtype."""

    def varint(value: int) -> bytes:
        return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)

    description = b"\x08" + varint(kind) + b"".join(b"\x10" + varint(side) for side in array.shape)
    return struct.pack("<IQIi", 0, 0, 0, len(description)) + description + array.tobytes()


VARIABLES = {"conv1_weights": np.arange(600, dtype=np.float32).reshape(200, 3), "step": np.array([3, 4])}
RAW_VARIABLES = {
    "conv1_weights": raw_variable(VARIABLES["conv1_weights"], 5),
    "step": raw_variable(VARIABLES["step"], 3),
}


def tar_bytes(files: dict[str, bytes], tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tar_format) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mtime = 1.25  # a fraction: the pax format writes an extension header for it
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def safetensors_bytes(header: object, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


# Pickles


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_paddle_state_dict(tmp_path: Path, protocol: Any) -> None:
    path = tmp_path / "weights.pdparams"
    paddle.save(state_dict(), str(path), protocol=protocol)
    check_same(read_checkpoint(path), EXPECTED)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_paddle_name_array_pairs_in_an_outer_dict(tmp_path: Path, protocol: Any) -> None:
    path = tmp_path / "weights.pdparams"
    outer: Any = {"model": state_dict(), "epoch": 3}
    paddle.save(outer, str(path), protocol=protocol)
    check_same(read_checkpoint(path), EXPECTED)


def test_paddle_layer(tmp_path: Path) -> None:
    layer = paddle.nn.Sequential(paddle.nn.Conv2D(2, 3, 1), paddle.nn.BatchNorm2D(3))
    path = tmp_path / "weights.pdparams"
    paddle.save(layer.state_dict(), str(path))
    check_same(read_checkpoint(path), {name: value.numpy() for name, value in layer.state_dict().items()})


def save_static_program(prefix: Path) -> None:
    """Saves a linear layer with momentum as a static program: .pdparams, .pdopt and the program itself."""
    paddle.enable_static()
    try:
        main, startup = paddle.static.Program(), paddle.static.Program()
        with paddle.static.program_guard(main, startup):
            output = paddle.static.nn.fc(paddle.static.data("x", [2, 3]), 4)
            paddle.optimizer.Momentum(0.1).minimize(output.sum())
        paddle.static.Executor(paddle.CPUPlace()).run(startup)
        paddle.static.save(main, str(prefix))
    finally:
        paddle.disable_static()


def test_paddle_static_program(tmp_path: Path) -> None:
    save_static_program(tmp_path / "net")
    weights = read_checkpoint(tmp_path / "net.pdparams")
    assert {array.shape for array in weights.values()} == {(3, 4), (4,)}
    check_refused(tmp_path / "net.pdopt", "optimizer", ".pdparams")
    program = next(path for path in tmp_path.iterdir() if path.suffix in (".pdmodel", ".json"))
    check_refused(program, "program", ".pdparams")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_layout_and_byte_order(tmp_path: Path, protocol: int) -> None:
    shared = np.arange(3, dtype=np.float32)
    value = OrderedDict(
        big_endian=FLOATS.astype(">f4"),
        fortran=np.asfortranarray(FLOATS),
        strided=np.arange(12, dtype=np.int32).reshape(3, 4)[::2, ::-1],
        long=np.arange(3000, dtype=np.float64),  # its text form does not fit an inline text
        scalar=np.array(2.5),
        alias=shared,
        twin=shared,
    )
    expected = {
        name: np.ascontiguousarray(array).astype(array.dtype.newbyteorder("=")) for name, array in value.items()
    }
    expected["scalar"] = value["scalar"]
    weights = read_checkpoint(pickled(tmp_path, value, protocol))
    check_same(weights, expected)
    assert not np.shares_memory(weights["alias"], weights["twin"])


@pytest.mark.parametrize("count", [2, 100, 5000])
def test_byte_strings_of_python_2(tmp_path: Path, count: int) -> None:
    """A pickle written by hand, as Python 2 writes protocol 2: names, codes and data are byte strings."""
    values = np.random.default_rng(0).standard_normal(count).astype(np.float32)
    data = values.tobytes()
    content = (
        b"\x80\x02}q\x01U\x07weightsq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04"
        b"K\x00\x85U\x01b\x87Rq\x05(K\x01\x8a\x02" + struct.pack("<h", count) + b"\x85cnumpy\ndtype\nq\x06"
        b"U\x02f4K\x00K\x01\x87Rq\x07(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + (b"U" + bytes([len(data)]) if len(data) < 256 else b"T" + struct.pack("<i", len(data)))
        + data
        + b"tbs."
    )
    assert pickle.loads(content, encoding="latin1")["weights"].shape == (count,)
    path = tmp_path / "weights.pdparams"
    path.write_bytes(content)
    check_same(read_checkpoint(path), {"weights": values})


def test_slices_of_big_arrays_are_joined(tmp_path: Path) -> None:
    whole = np.arange(6, dtype=np.float32).reshape(2, 3)
    table = {
        "first": FLOATS,
        "w@@.0": whole.ravel()[:4],
        "w@@.1": whole.ravel()[4:],
        "StructuredToParameterName@@": {"w": "conv.w_0"},
        "UnpackBigParamInfor@@": {"w": {"OriginShape": (2, 3), "slices": ["w@@.0", "w@@.1"]}},
    }
    check_same(read_checkpoint(pickled(tmp_path, table, 2)), {"first": FLOATS, "w": whole})
    del table["w@@.1"]
    check_refused(pickled(tmp_path, table, 2), "'w'", "slice")


def test_a_piece_serves_one_whole_only(tmp_path: Path) -> None:
    plan = {"OriginShape": (2,), "slices": ["p", "p"]}
    table = {"p": np.zeros(1, np.float32), "UnpackBigParamInfor@@": {"w": plan}}
    check_refused(pickled(tmp_path, table), "'w'", "slice")


def test_the_only_weights_of_an_outer_dict(tmp_path: Path) -> None:
    optimizer = {"w_velocity_0": FLOATS, "LR_Scheduler": {"last_epoch": 1, "last_lr": 0.1}}
    outer = {"epoch": 3, "optimizer": optimizer, "model": {"w": FLOATS}}
    check_same(read_checkpoint(pickled(tmp_path, outer)), {"w": FLOATS})
    check_refused(pickled(tmp_path, outer | {"ema": {"w": FLOATS}}), "'model'", "'ema'", "several")
    check_refused(pickled(tmp_path, {"w": FLOATS, "model": {"w": FLOATS}}), "a dict under 'model'")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, ["no arrays"]),
        (FLOATS, ["a single array", "state_dict"]),
        ([FLOATS], ["a list", "state_dict"]),
        ({"w": FLOATS, "epoch": 3}, ["a number under 'epoch'"]),
        ({"w": FLOATS, "name": "solo"}, ["a text under 'name'"]),
        ({"w": FLOATS, "rest": None}, ["nothing under 'rest'"]),
        ({"w": FLOATS, 3: FLOATS}, ["the key '3'"]),
        ({"w": np.array([None, 1])}, ["'w'", "O8"]),
        ({"w": np.array(["a", "b"])}, ["'w'", "U1"]),
        ({"w": np.zeros(2, "V3")}, ["'w'", "V3"]),
        ({"w": np.zeros(2, [("x", "<f4")])}, ["'w'", "V4"]),
        ({"w": np.zeros(2, "M8[s]")}, ["'w'", "M8"]),
        ({"w": np.zeros(2, np.complex64)}, ["'w'", "c8"]),
        ({"w_0": FLOATS, "w_0_velocity_0": FLOATS}, ["optimizer", "'w_0_velocity_0'", ".pdparams"]),
        ({"LR_Scheduler": {"last_epoch": 1}}, ["optimizer", ".pdparams"]),
    ],
)
def test_pickles_without_plain_weights(tmp_path: Path, value: object, words: list[str]) -> None:
    check_refused(pickled(tmp_path, value), *words)


def test_optimizer_state_of_paddle(tmp_path: Path) -> None:
    layer = paddle.nn.Linear(2, 2)
    schedule = paddle.optimizer.lr.StepDecay(0.1, 10)
    for optimizer in (paddle.optimizer.Momentum, paddle.optimizer.AdamW):
        trained = optimizer(schedule, parameters=layer.parameters())
        layer(paddle.ones([1, 2])).sum().backward()
        trained.step()
        paddle.save(trained.state_dict(), str(tmp_path / "weights.pdopt"))
        check_refused(tmp_path / "weights.pdopt", "optimizer", ".pdparams")


# safetensors


def test_safetensors_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    data = struct.pack("<2f2Hq", 1, 2, 0x3FC0, 0xC000, 5)
    header = {
        "__metadata__": {"format": "pt"},
        "second": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [8, 12]},
        "first": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "none": {"dtype": "F16", "shape": [0, 4], "data_offsets": [12, 12]},
        "third": {"dtype": "I64", "shape": [], "data_offsets": [12, 20]},
    }
    path.write_bytes(safetensors_bytes(header, data))
    expected = {
        "second": np.array([[1.5], [-2.0]], np.float32),
        "first": np.array([1, 2], np.float32),
        "none": np.zeros((0, 4), np.float16),
        "third": np.array(5),
    }
    check_same(read_checkpoint(path), expected)


def test_safetensors_of_the_package(tmp_path: Path) -> None:
    package = pytest.importorskip("safetensors.numpy", reason="the safetensors package is not installed")
    arrays = {"w": FLOATS, "b": np.arange(4, dtype=np.int8), "u": np.arange(3, dtype=np.uint16)}
    package.save_file(arrays, tmp_path / "weights.safetensors")
    weights = read_checkpoint(tmp_path / "weights.safetensors")
    check_same({name: weights[name] for name in arrays}, arrays)


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        ({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, "shape 3"),
        ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "announces"),
        ({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}, "announces"),
        ({"w": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, "shape"),
        ({"w": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}}, "shape"),
        ({"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, "outside"),
        ({"w": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}, "outside"),
        ({"w": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}, "F8_E4M3"),
        ({"w": {"dtype": "F32", "shape": [2]}}, "'w'"),
        ({"w": 3}, "'w'"),
        (
            {
                "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "twin": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            },
            "overlap",
        ),
        (b'{"w": 1, "w": 2}', "'w' twice"),
        (b'{"w": ' + b"[" * 100_000, "JSON"),
        (b'{"w": ' + b"9" * 10_000 + b"}", "JSON"),
        (b"{\xff}", "JSON"),
        ({}, "announces"),
    ],
)
def test_safetensors_that_contradict_themselves(tmp_path: Path, entries: object, word: str) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(safetensors_bytes(entries, bytes(8)))
    check_refused(path, word)


# Archives


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("folder", ["", "./", "ResNet50_cos_pretrained/", "./" + "long" * 40 + "/"])
def test_tar_archives(tmp_path: Path, folder: str, tar_format: int) -> None:
    if len(folder) > 150 and tar_format == tarfile.USTAR_FORMAT:
        folder = folder[:150] + "/"  # as long as a ustar prefix can be
    files = {f"{folder}._step": b"junk of a desktop"} | {folder + name: raw for name, raw in RAW_VARIABLES.items()}
    path = tmp_path / "weights.tar"
    path.write_bytes(tar_bytes(files, tar_format))
    check_same(read_checkpoint(path), VARIABLES)
    path.write_bytes(gzip.compress(path.read_bytes()))
    check_same(read_checkpoint(path), VARIABLES)


def test_unpacked_archive_with_a_variable_of_paddle(tmp_path: Path) -> None:
    folder = tmp_path / "ResNet50_cos_pretrained"
    folder.mkdir()
    for name, raw in RAW_VARIABLES.items():
        (folder / name).write_bytes(raw)
    (folder / ".DS_Store").write_bytes(b"junk of a desktop")
    paddle.save(paddle.to_tensor(FLOATS), str(folder / "fc_0.w_0"), use_binary_format=True)
    expected = VARIABLES | {"fc_0.w_0": FLOATS}
    check_same(read_checkpoint(folder), {name: expected[name] for name in sorted(expected)})


def test_raw_variables_of_every_type(tmp_path: Path) -> None:
    kinds = {0: "?", 1: "i2", 2: "i4", 3: "i8", 4: "f2", 5: "f4", 6: "f8", 20: "u1", 21: "i1"}
    expected = {f"v{kind:02}": np.array([[1, 0]], code) for kind, code in kinds.items()}
    for name, array in expected.items():
        (tmp_path / name).write_bytes(raw_variable(array, int(name[1:])))
    (tmp_path / "v22").write_bytes(raw_variable(np.array([0x3FC0], np.uint16), 22))
    expected["v22"] = np.array([1.5], np.float32)
    check_same(read_checkpoint(tmp_path), expected)


def test_folders_that_are_no_archive(tmp_path: Path) -> None:
    check_refused(tmp_path, "no arrays")
    (tmp_path / "best_model.pdparams").write_bytes(b"")
    check_refused(tmp_path, "folder", "best_model.pdparams")
    (tmp_path / "best_model.pdparams").rename(tmp_path / "readme.txt")
    with pytest.raises(CheckpointError, match=r"/readme.txt: 'readme.txt' is not a raw paddle variable"):
        read_checkpoint(tmp_path)


# Files of other kinds


def zip_bytes() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 20))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty", "download it again"]),
        (b"\x80", ["cut off"]),
        (zip_bytes(), ["PyTorch or zip", ".pdparams"]),
        (pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + b"\x80\x02.", ["PyTorch"]),
        (gzip.compress(b"no tar"), ["compressed", "unpack"]),
        (b"BZh91AY", ["compressed", "unpack"]),
        (b"\x89HDF\r\n\x1a\n", ["HDF5"]),
        (b"\x93NUMPY\x01\x00", ["numpy"]),
        (b"\n<!DOCTYPE html><html>", ["web page", "download it again"]),
        (b"version https://git-lfs.github.com/spec/v1\n", ["git lfs pull"]),
        (b'{"base_code": {}}', ["JSON", ".pdparams"]),
        (RAW_VARIABLES["step"], ["raw paddle variables", ".pdparams"]),
        (pickle.dumps({"w": FLOATS}, protocol=0), ["protocol 0"]),
        (pickle.dumps({"w": FLOATS}, protocol=1), ["protocol 0 or 1"]),
        (bytes(5000), ["not a weights file"]),
        (b"MZ\x90\x00", ["not a weights file", "4d 5a 90 00"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",  # compressed bytes hold the time of day
)
def test_other_files_are_named_with_a_remedy(tmp_path: Path, content: bytes, words: list[str]) -> None:
    path = tmp_path / "weights.pdparams"
    path.write_bytes(content)
    check_refused(path, *words)


def test_paths_that_are_no_readable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_refused(tmp_path / "missing.pdparams", "no such file")
    check_refused(tmp_path / ("x" * 300), "cannot be opened")
    os.mkfifo(tmp_path / "pipe")
    check_refused(tmp_path / "pipe", "pipe")
    check_refused(Path("/dev/zero"), "device")
    with pytest.raises(CheckpointError, match="cannot be opened"):
        read_checkpoint("nul\0byte")
    path = pickled(tmp_path, {"w": FLOATS})

    def forbid(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", forbid)  # permissions do not bind the superuser, who may run the tests
    check_refused(path, "permissions")


def test_a_link_to_a_file_is_followed_and_any_suffix_will_do(tmp_path: Path) -> None:
    path = pickled(tmp_path, {"w": FLOATS}).rename(tmp_path / "weights.tar")
    (tmp_path / "latest").symlink_to(path)
    check_same(read_checkpoint(str(tmp_path / "latest")), {"w": FLOATS})
