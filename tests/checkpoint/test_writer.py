"""What write_checkpoint writes is read by ppsolo and by paddle, is always the same, and is whole or absent."""

import os
import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppsolo.checkpoint.reader import read_checkpoint
from ppsolo.checkpoint.writer import write_checkpoint
from ppsolo.errors import CheckpointError

SUFFIXES = [".pdparams", ".safetensors"]
WEIGHTS: dict[str, np.ndarray] = {
    "backbone.conv1.weight": np.random.default_rng(0).standard_normal((300, 3, 1, 1)).astype(np.float32),
    "überlänge." * 30: np.array([np.nan, np.inf, -0.0], np.float64),
    "half": np.array([1.5, -2.0], np.float16),
    "scalar": np.array(7),
    "flags": np.array([True, False]),
    "bytes": np.arange(4, dtype=np.uint8),
    "empty": np.zeros((0, 3), np.float32),
    "wide": np.zeros((1, 70_000), np.int8),
}


def check_same(weights: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert list(weights) == list(expected)
    for name, array in weights.items():
        assert array.dtype == expected[name].dtype and array.shape == expected[name].shape
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_reader_gives_back_what_was_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    write_checkpoint(WEIGHTS, path)
    check_same(read_checkpoint(path), WEIGHTS)
    assert os.listdir(tmp_path) == [path.name]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_paddle_and_pickle_load_the_pdparams(tmp_path: Path) -> None:
    path = tmp_path / "weights.pdparams"
    write_checkpoint(WEIGHTS, path)
    check_same(pickle.loads(path.read_bytes()), WEIGHTS)
    loaded: Any = paddle.load(str(path))
    check_same({name: tensor.numpy() for name, tensor in loaded.items()}, WEIGHTS)
    check_same(paddle.load(str(path), return_numpy=True), WEIGHTS)


def test_a_paddle_layer_takes_the_pdparams(tmp_path: Path) -> None:
    layer, other = paddle.nn.Linear(2, 3), paddle.nn.Linear(2, 3)
    weights = {name: tensor.numpy() for name, tensor in layer.state_dict().items()}
    write_checkpoint(weights, tmp_path / "weights.pdparams")
    loaded: Any = paddle.load(str(tmp_path / "weights.pdparams"))
    other.set_state_dict(loaded)
    check_same({name: tensor.numpy() for name, tensor in other.state_dict().items()}, weights)


def test_the_pickle_names_numpy_as_numpy_1_and_2_both_understand(tmp_path: Path) -> None:
    path = tmp_path / "weights.pdparams"
    write_checkpoint(WEIGHTS, path)
    content = path.read_bytes()
    operations = [info.name for info, _, _ in pickletools.genops(content)]
    texts = {argument for info, argument, _ in pickletools.genops(content) if "UNICODE" in info.name}
    assert texts - set(WEIGHTS) == {
        "numpy.core.multiarray",
        "_reconstruct",
        "numpy",
        "ndarray",
        "dtype",
        "<",
        "|",
        *("f4", "f8", "f2", "i8", "b1", "u1", "i1"),
    }
    assert operations[0] == "PROTO" and content[1] == 4


def test_the_safetensors_package_loads_the_safetensors(tmp_path: Path) -> None:
    package = pytest.importorskip("safetensors.numpy", reason="the safetensors package is not installed")
    path = tmp_path / "weights.safetensors"
    write_checkpoint(WEIGHTS, path)
    loaded = package.load_file(path)
    check_same({name: loaded[name] for name in WEIGHTS}, WEIGHTS)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_layout_and_byte_order_do_not_change_the_bytes(tmp_path: Path, suffix: str) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    doubled = np.repeat(array, 2, axis=1)
    twins = [array, np.asfortranarray(array), array.astype(">f4"), doubled[:, ::2]]
    contents = set()
    for index, twin in enumerate(twins):
        path = tmp_path / f"{index}{suffix}"
        write_checkpoint({"w": twin}, path)
        contents.add(path.read_bytes())
    assert len(contents) == 1
    np.testing.assert_array_equal(read_checkpoint(tmp_path / f"0{suffix}")["w"], array)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failure_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, function: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    write_checkpoint(WEIGHTS, path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(CheckpointError, match=r"weights\..*cannot be written \(No space left on device\)"):
        write_checkpoint({"w": np.ones(3, np.float32)}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(WEIGHTS, tmp_path / "weights.pdparams")
    assert os.listdir(tmp_path) == []


def test_file_and_folder_are_synced_around_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        steps.append("sync folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "sync file")
        fsync(descriptor)

    def watched_replace(source: str, target: str) -> None:
        steps.append("rename")
        assert os.path.dirname(source) == os.path.dirname(target)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    write_checkpoint(WEIGHTS, tmp_path / "weights.pdparams")
    assert steps == ["sync file", "rename", "sync folder"]


@pytest.mark.parametrize(
    ("name", "weights", "word"),
    [
        ("weights.pdopt", WEIGHTS, ".safetensors"),
        ("weights", WEIGHTS, ".pdparams"),
        ("missing/weights.pdparams", WEIGHTS, "cannot be written"),
        ("weights.pdparams", {}, "no weights"),
        ("weights.pdparams", {"": np.zeros(1)}, "rename"),
        ("weights.pdparams", {"a\nb": np.zeros(1)}, "rename"),
        ("weights.pdparams", {"\udc80": np.zeros(1)}, "rename"),
        ("weights.pdparams", {"x" * 2000: np.zeros(1)}, "rename"),
        ("weights.pdparams", {3: np.zeros(1)}, "'3'"),
        ("weights.pdparams", {"StructuredToParameterName@@": np.zeros(1)}, "rename"),
        ("weights.safetensors", {"__metadata__": np.zeros(1)}, "rename"),
        ("weights.pdparams", {"w": [1.0]}, "'w' is a list"),
        ("weights.pdparams", {"w": paddle.zeros([1])}, "'w' is a Tensor"),
        ("weights.pdparams", {"w": np.array([None])}, "'w' has dtype object"),
        ("weights.pdparams", {"w": np.zeros(1, np.uint16)}, "'w' has dtype uint16"),
        ("weights.safetensors", {"w": np.array(["text"])}, "'w' has dtype <U4"),
        ("weights.safetensors", {"w": np.zeros(1, np.complex64)}, "complex64"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, name: str, weights: Any, word: str) -> None:
    path = tmp_path / name
    with pytest.raises(CheckpointError) as caught:
        write_checkpoint(weights, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and word in message and message.isprintable()
    assert os.listdir(tmp_path) == []


def test_a_folder_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.pdparams").mkdir()
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_checkpoint(WEIGHTS, tmp_path / "weights.pdparams")
    assert os.listdir(tmp_path) == ["weights.pdparams"]
