"""Weights by path, stem and address."""

import functools
import hashlib
import http.server
import threading

import numpy as np
import pytest

from ppsolo.checkpoint import sources
from ppsolo.checkpoint.sources import find_weights, with_checksum
from ppsolo.checkpoint.writer import write_checkpoint
from ppsolo.errors import CheckpointError, ConfigError, DownloadError


@pytest.fixture
def address(tmp_path, monkeypatch):
    """The address of net.pdparams on a server of this machine, which stands for an https server."""
    folder = tmp_path / "served"
    folder.mkdir()
    write_checkpoint({"a": np.zeros(3, np.float32)}, folder / "net.pdparams")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(sources, "_SCHEMES", ("https", "http"))
    monkeypatch.setenv("PPSOLO_WEIGHTS", str(tmp_path / "weights"))
    yield f"http://127.0.0.1:{server.server_port}/net.pdparams"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("suffix", [".pdparams", ".pdema", ".safetensors"])
def test_a_stem_finds_its_file(tmp_path, suffix):
    (tmp_path / "model_final.pdopt").write_bytes(b"x")
    (tmp_path / f"model_final{suffix}").write_bytes(b"x")
    assert find_weights(tmp_path / "model_final") == tmp_path / f"model_final{suffix}"


def test_the_weights_come_before_the_raw_weights_of_an_average(tmp_path):
    for suffix in (".pdema", ".pdparams"):
        (tmp_path / f"model_final{suffix}").write_bytes(b"x")
    assert find_weights(tmp_path / "model_final").suffix == ".pdparams"


def test_what_is_nowhere_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no such file \(nor model_final\.pdparams\)"):
        find_weights(tmp_path / "model_final")
    with pytest.raises(ConfigError, match="did you mean 'solov2_r50_fpn_3x'"):
        find_weights("solov2_r50_fpn_3X")


def test_an_address_is_fetched_once_with_its_checksum(address, tmp_path):
    path = find_weights(address)
    assert path.parent.parent == tmp_path / "weights" and path.name == "net.pdparams"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.with_name("net.pdparams.sha256").read_text().split()[0] == digest
    assert find_weights(with_checksum(address, digest.upper())) == path
    with pytest.raises(DownloadError, match="you gave 0000"):
        find_weights(with_checksum(address, "0" * 64))


def test_a_fetched_file_with_another_checksum_is_not_kept(address, tmp_path):
    with pytest.raises(DownloadError, match="you gave 0000"):
        find_weights(with_checksum(address, "0" * 64))
    assert not list(tmp_path.glob("weights/*/net.pdparams"))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("http://example.org/net.pdparams", "over https only"),
        ("ftp://example.org/net.pdparams", "over https only"),
        ("https://example.org/", "names no file"),
        ("https://example.org/net.pdparams?token=1", "with a query"),
        ("https://example.org/net.pdparams#md5=1", "must be sha256="),
    ],
)
def test_other_addresses_are_refused(source, reason):
    with pytest.raises(DownloadError, match=reason):
        find_weights(source)


def test_a_checksum_goes_with_an_address_only():
    with pytest.raises(ConfigError, match="from an https address"):
        with_checksum("net.pdparams", "0" * 64)
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        with_checksum("https://example.org/net.pdparams", "0" * 63)
