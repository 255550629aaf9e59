"""Frames in batches: every one of a file, the newest of a live stream, and streams that break off."""

import errno
import http.server
import json
import os
import threading
import time
from itertools import pairwise
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from ppsolo.cli.infer import _report
from ppsolo.cli.signals import Terminated
from ppsolo.data import videos
from ppsolo.data.sources import Video
from ppsolo.data.videos import Frame, VideoFrames, VideoWriter
from ppsolo.infer.live import FrameBatches
from ppsolo.infer.settings import NO_LIMITS, InferSettings, StreamLimits
from ppsolo.infer.video import _frame_lines, infer_video
from ppsolo.results.instances import Instances

SIZE = (48, 64)


class Source:
    """Frames that come every `seconds`, as VideoFrames gives them; a number in `failing` raises."""

    def __init__(self, count: int, *, endless: bool, seconds: float = 0.0, failing: int = -1):
        self.endless, self._count, self._seconds, self._failing = endless, count, seconds, failing
        self.given = 0

    def read(self) -> Frame | None:
        time.sleep(self._seconds)
        if self.given == self._failing:
            raise ValueError("no frame")
        if self.given == self._count:
            return None
        self.given += 1
        return Frame(self.given - 1, 0.1 * self.given, np.zeros((2, 2, 3), np.uint8))


def numbers(source: Source, limits: StreamLimits = NO_LIMITS, *, batch_size: int = 1, wait_for: int = 0):
    """Return the numbers of the frames in each batch, and how many frames are skipped.

    wait_for: each batch takes until the source has given so many frames.
    """
    found = []
    with FrameBatches(source, limits, batch_size=batch_size) as batches:
        for batch in batches:
            found.append([frame.number for frame in batch])
            while source.given < wait_for:
                time.sleep(0.001)
    return found, batches.skipped


def test_every_frame_of_a_file_comes():
    assert numbers(Source(7, endless=False), batch_size=3) == ([[0, 1, 2], [3, 4, 5], [6]], 0)
    found, skipped = numbers(Source(5, endless=True), StreamLimits(every_frame=True))
    assert found == [[0], [1], [2], [3], [4]] and skipped == 0


def test_of_a_live_stream_late_frames_are_skipped_and_counted():
    found, skipped = numbers(Source(60, endless=True), batch_size=2, wait_for=60)
    came = [number for batch in found for number in batch]
    assert found[-1][-1] == 59 and len(found) <= 2  # what came meanwhile was passed over
    assert came == sorted(came) and all(len(batch) <= 2 for batch in found)
    assert skipped == 60 - len(came) and came[-2:] == [58, 59]


@pytest.mark.parametrize("endless", [True, False])
def test_limits_and_errors(endless):
    found, _ = numbers(Source(1000, endless=endless), StreamLimits(frames=3), batch_size=2)
    assert sum(map(len, found)) == 3
    source = Source(100_000, endless=endless, seconds=0.002)
    numbers(source, StreamLimits(seconds=0.2))
    assert source.given < 100_000
    with pytest.raises(ValueError, match="no frame"):
        numbers(Source(9, endless=endless, failing=4))


class Stream(http.server.BaseHTTPRequestHandler):
    """Motion JPEG: a few frames, then the connection breaks off; `left` connections are answered."""

    left = 2
    frames = 6

    def do_GET(self):
        if Stream.left == 0:
            self.send_error(404)
            return
        Stream.left -= 1
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for number in range(Stream.frames):
            jpeg = cv2.imencode(".jpg", np.full((*SIZE, 3), 40 * number, np.uint8))[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")
            time.sleep(0.02)

    def log_message(self, *_):
        pass


@pytest.fixture
def address():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Stream.left = 2
    yield f"http://127.0.0.1:{server.server_port}/live"
    server.shutdown()


def test_a_stream_on_this_machine_breaks_off_and_is_opened_again(address, tmp_path):
    def stream(batches):
        for batch in batches:
            time.sleep(0.06)  # slower than the frames come
            yield [
                (
                    key,
                    image,
                    Instances.from_masks(
                        np.ones((1, *SIZE), bool), scores=[0.9], labels=[0], class_names=["a"], category_ids=[1]
                    ),
                )
                for key, image in batch
            ]

    predictor = SimpleNamespace(stream=stream)
    settings = InferSettings(tmp_path, save=("coco",))
    summary = infer_video(predictor, Video(address, "live.mjpg"), settings, limits=StreamLimits(timeout=5, reconnect=1))
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    came = [line["frame"] for line in lines]
    total = summary.images + summary.skipped
    assert Stream.left == 0 and came == sorted(set(came)) and len(came) == summary.images
    assert summary.skipped > 0 and total > Stream.frames and came[-1] == total - 1
    assert f"broke off after {total} frames, 1 new tries failed" in summary.failures[0]
    assert all(after["time"] > before["time"] for before, after in pairwise(lines))


@pytest.mark.parametrize(("interruption", "code"), [(KeyboardInterrupt(), 130), (Terminated(), 143)])
def test_a_signal_ends_a_stream_with_its_exit_code(address, tmp_path, capsys, interruption, code):
    def stream(batches):
        next(iter(batches))
        raise interruption
        yield

    settings = InferSettings(tmp_path)
    summary = infer_video(SimpleNamespace(stream=stream), Video(address, "live.mjpg"), settings)
    assert summary.interruption is interruption and _report(summary, settings, left_out=0) == code
    capsys.readouterr()


def test_a_full_disk_names_the_lines_of_a_stream(tmp_path):
    settings = InferSettings(output_dir=tmp_path, save=["coco"])
    with pytest.raises(OSError, match="No space") as caught, _frame_lines(settings, live=True):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "predictions.jsonl")


def test_a_stream_of_stated_length_and_a_file_wait(tmp_path, monkeypatch):
    class Stated:
        """A capture that states a length, as that of a file at an address does."""

        def __init__(self, capture):
            self.read, self.isOpened, self.release = capture.read, capture.isOpened, capture.release
            self._get = capture.get

        def get(self, name):
            return 3.0 if name == cv2.CAP_PROP_FRAME_COUNT else self._get(name)

    capture = cv2.VideoCapture
    with VideoWriter(tmp_path / "a.mp4", fps=10, size=SIZE) as writer:
        writer.write(np.zeros((*SIZE, 3), np.uint8))
    with VideoFrames(tmp_path / "a.mp4") as video:
        assert not video.live and not video.endless
    monkeypatch.setattr(videos.cv2, "VideoCapture", lambda *_: Stated(capture(str(tmp_path / "a.mp4"))))
    with VideoFrames("https://127.0.0.1/a.mp4") as video:
        assert video.live and not video.endless
