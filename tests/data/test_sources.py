"""What a source names: files, folders, patterns, lists, cameras, addresses."""

import base64
import http.server
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest
from real_files import case

import ppsolo
from ppsolo.data.addresses import fetch_image
from ppsolo.data.files import find_images
from ppsolo.data.images import read_image
from ppsolo.data.sources import Pictures, Video, find_source
from ppsolo.data.videos import VideoFrames
from ppsolo.errors import ImageError


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)


def png(photo: np.ndarray) -> bytes:
    return cv2.imencode(".png", photo[:, :, ::-1])[1].tobytes()


@pytest.fixture
def folder(tmp_path, photo) -> Path:
    for name in ("a.png", "b.jfif", "c"):
        (tmp_path / name).write_bytes(png(photo))
    (tmp_path / "notes.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / "clip.mts").write_bytes(b"")
    (tmp_path / ".hidden").write_bytes(b"")
    return tmp_path


def names(found) -> list[str]:
    assert isinstance(found, Pictures)
    return [picture.path.name for picture in found.items]


def test_a_folder_names_what_it_leaves_out(folder):
    found = find_source(str(folder))
    assert names(found) == ["a.png", "b.jfif", "c"]
    assert len(found.left_out) == 2
    assert (
        "clip.mts: left out, a video" in found.left_out[0] and "notes.pdf: left out, not a picture" in found.left_out[1]
    )
    assert names(find_source(f"{folder}/[ab].*")) == ["a.png", "b.jfif"]


def test_the_case_of_suffixes():
    found = find_images(case("directory_suffixes", "in"))
    assert [path.name for path in found.images] == ["a.jpg", "b.jfif", "c.ppm", "d.pgm", "i.mpo", "j.jpe"]
    assert not found.left_out and all(read_image(path).shape == (48, 80, 3) for path in found.images)


def test_lists_and_standard_input(folder):
    (folder / "list.txt").write_text("\ufeff# mine\na.png\n\n  c\nclip.mts\na.png\n")
    found = find_source(str(folder / "list.txt"))
    assert names(found) == ["a.png", "c"] and [picture.path.parent for picture in found.items] == [folder] * 2
    assert "clip.mts: left out" in found.left_out[0]
    lines = [f"{folder / 'a.png'}\n", "elsewhere.png\n"]
    assert names(find_source("-", lines=lines)) == ["a.png", "elsewhere.png"]
    with pytest.raises(ImageError, match="it has no paths"):
        find_source("-", lines=["\n", "# nothing\n"])


def test_videos_cameras_and_addresses(folder, tmp_path):
    assert find_source(str(folder / "clip.mts")) == Video(folder / "clip.mts", "clip.mts")
    assert find_source("0") == Video(0, "camera_0")
    stream = "rtsp://user:secret@127.0.0.1:554/live/stream%201.sdp?x=1"
    assert find_source(stream, network=True) == Video(stream, "stream_1.sdp")
    with pytest.raises(ImageError, match="add --allow_network to fetch"):
        find_source("rtsp://127.0.0.1/live")
    with pytest.raises(ImageError, match="no number of a camera"):
        find_source("9" * 5000)
    with pytest.raises(ImageError, match="not an address"):
        find_source("http://[x", network=True)
    with pytest.raises(ImageError, match="ftp:// is not supported"):
        find_source("ftp://127.0.0.1/a.png", network=True)
    (tmp_path / "7").write_bytes(b"")  # what exists under that very name is meant
    with pytest.raises(ImageError, match="no such file"):
        find_source("7.png")


class Answers(http.server.BaseHTTPRequestHandler):
    """Pictures and mishaps by path."""

    content: ClassVar[bytes] = b""
    users: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.users.append(self.headers.get("Authorization"))
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "/a.png")
            self.end_headers()
            return
        if self.path == "/ftp":
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1/a.png")
            self.end_headers()
            return
        if self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.end_headers()
            return
        found = self.path in ("/a.png", "/untold", "/slow.png", "/cut.png", "/text", "/endless.png")
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "text/html" if self.path == "/text" else "image/png")
        if self.path == "/cut.png":
            self.send_header("Content-Length", str(len(self.content) + 9))
        self.end_headers()
        if self.path in ("/slow.png", "/endless.png"):
            for _ in range(60):
                self.wfile.write(b"\x89PNG" * (1 if self.path == "/slow.png" else 10_000))
                self.wfile.flush()
                time.sleep(0.05 if self.path == "/slow.png" else 0.0)
        elif found:
            self.wfile.write(self.content)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def address(photo) -> Iterator[str]:
    Answers.content = png(photo)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_picture_is_fetched(address, photo):
    assert np.array_equal(fetch_image(f"{address}/a.png"), photo)
    assert np.array_equal(ppsolo.fetch_image(f"{address}/away"), photo)
    for path in ("a.png", "untold"):
        found = find_source(f"{address}/{path}", network=True)
        assert names(found) == [path] and np.array_equal(read_image(found.items[0].content), photo)
    assert isinstance(find_source(f"{address}/text", network=True), Video)
    with pytest.raises(ImageError, match="fetch_image"):
        read_image(f"{address}/a.png")


def test_a_user_in_an_address_is_sent_and_not_shown(address, photo):
    own = address.replace("://", "://me:s%40cret@")
    Answers.users.clear()
    assert np.array_equal(fetch_image(f"{own}/a.png"), photo)
    assert np.array_equal(fetch_image(f"{own}/away"), photo)
    code = "Basic " + base64.b64encode(b"me:s@cret").decode()
    assert Answers.users == [code, code, None]  # not sent to where a redirection leads
    with pytest.raises(ImageError) as caught:
        fetch_image(f"{own}/gone.png")
    assert str(caught.value).startswith(address.replace("://", "://***@")) and "cret" not in str(caught.value)


def test_the_password_of_a_stream_is_not_shown():
    with pytest.raises(ImageError, match=r"rtsp://\*\*\*@127\.0\.0\.1:1/live: the stream cannot") as caught:
        VideoFrames("rtsp://me:secret@127.0.0.1:1/live", timeout=1.0)
    assert "secret" not in str(caught.value)
    with pytest.raises(ImageError, match=r"^rtsp://\*\*\*@camera/live: add --allow_network"):
        find_source("rtsp://me:secret@camera/live")


@pytest.mark.parametrize(
    ("path", "options", "reason"),
    [
        ("gone.png", {}, "HTTP 404"),
        ("text", {}, None),
        ("ftp", {}, "neither http nor https"),
        ("loop", {}, "HTTP 302"),
        ("cut.png", {}, "broke off"),
        ("slow.png", {"timeout": 0.3}, "no complete answer within 0.3 seconds"),
        ("endless.png", {"max_bytes": 100_000}, "more than 100000 bytes"),
        ("a.png", {"max_bytes": 10}, "bytes"),
    ],
)
def test_limits_and_mishaps_of_fetching(address, path, options, reason):
    Answers.content = Answers.content if path != "text" else b"<html>"
    with pytest.raises(ImageError, match=reason) as caught:
        fetch_image(f"{address}/{path}", **options)
    assert str(caught.value).startswith(f"{address}/{path}: ")


def test_addresses_that_cannot_be_reached():
    for wrong in ("http://127.0.0.1:1/a.png", "file:///etc/passwd", "http://[::1", "http://"):
        with pytest.raises(ImageError, match="cannot be fetched"):
            fetch_image(wrong, timeout=2)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_list_that_cannot_be_read(folder):
    (folder / "list.txt").write_text("a.png")
    (folder / "list.txt").chmod(0)
    with pytest.raises(ImageError):
        find_source(str(folder / "list.txt"))


def test_a_list_with_zero_bytes_is_no_list(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"a.png\n\0\n")
    with pytest.raises(ImageError, match=r"list\.txt: line 2 holds a zero byte"):
        find_source(tmp_path / "list.txt")


def test_links_that_lead_nowhere_are_named(tmp_path, photo):
    """For example when the disk with the pictures is not mounted."""
    for name in ("a.png", "b.png", "notes.txt"):
        (tmp_path / name).symlink_to(tmp_path / "gone" / name)
    for source in (tmp_path, tmp_path / "*.png"):
        with pytest.raises(ImageError, match=r"no image; .*a\.png: left out, a link to .*, which does not exist"):
            find_images(str(source))
    (tmp_path / "c.png").write_bytes(png(photo))
    found = find_images(str(tmp_path))
    assert [path.name for path in found.images] == ["c.png"] and len(found.left_out) == 2
