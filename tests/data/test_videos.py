"""Tests of reading and writing videos."""

import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from real_files import case

from ppsolo.data import codecs, videos
from ppsolo.data.videos import Frame, VideoFrames, VideoWriter, is_video
from ppsolo.errors import ImageError

COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (128, 128, 128)]


def saved(folder: Path, data: bytes, name: str) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def write_video(path: Path, size: tuple[int, int], *, repeat: int = 1) -> None:
    with VideoWriter(path, fps=12.5, size=size) as writer:
        for colour in COLOURS * repeat:
            writer.write(np.full((*size, 3), colour, np.uint8))


def test_is_video():
    assert is_video("a.MP4") and is_video(Path("b.mkv")) and not is_video("c.jpg") and not is_video("mp4")


@pytest.mark.parametrize(("size", "stored"), [((48, 64), (48, 64)), ((49, 65), (48, 64)), ((2, 2), (2, 2))])
def test_video_round_trip(tmp_path, monkeypatch, size, stored):
    monkeypatch.chdir(tmp_path)
    path = Path("vidéo:1 2.mp4")  # relative, and to FFmpeg an address
    write_video(path, size)
    assert os.listdir(tmp_path) == [path.name]
    with VideoFrames(path) as video:
        assert (video.fps, video.frame_count, video.size) == (12.5, 4, stored)
        frames = list(video)
    assert [frame.shape for frame in frames] == [(*stored, 3)] * 4
    for frame, colour in zip(frames, COLOURS, strict=True):
        assert frame.dtype == np.uint8 and frame.flags.c_contiguous
        # the codec is lossy and keeps half the colour; channels taken for one another differ by 170
        assert np.abs(frame.mean((0, 1)) - colour).max() < 12


def test_a_video_is_read_once_and_can_be_closed_early(tmp_path, caplog):
    write_video(tmp_path / "a.mp4", (16, 16))
    video = VideoFrames(tmp_path / "a.mp4")
    assert len(list(video)) == 4 and list(video) == []
    early = VideoFrames(str(tmp_path / "a.mp4"))
    next(early)
    early.close()
    unread = VideoFrames(tmp_path / "a.mp4")
    unread.close()
    assert list(early) == list(unread) == [] and not caplog.records


class ThreeFrames:
    """In place of cv2.VideoCapture: a container that says `fps` and `count` and holds three frames."""

    def __init__(self, fps: float, count: float):
        self.said = {cv2.CAP_PROP_FPS: fps, cv2.CAP_PROP_FRAME_COUNT: count}
        self.frames = [np.full((4, 6, 3), level, np.uint8) for level in (1, 2, 3)]

    def get(self, name: int) -> float:
        return self.said.get(name, 0.0)

    def isOpened(self) -> bool:
        return True

    def read(self) -> tuple[bool, np.ndarray | None]:
        return (True, self.frames.pop(0)) if self.frames else (False, None)

    def release(self) -> None:
        pass


@pytest.mark.parametrize(("said", "known"), [(20.0, 20), (3.0, 3), (0.0, None), (-9e15, None), (np.nan, None)])
def test_what_the_container_says_is_told_apart_from_what_is_read(tmp_path, monkeypatch, said, known):
    path = saved(tmp_path, b"", "a.avi")
    monkeypatch.setattr(videos.cv2, "VideoCapture", lambda name: ThreeFrames(said and 25.0, said))
    monkeypatch.setattr(videos, "decoding_error", lambda path: None)
    with VideoFrames(path) as video:
        assert video.frame_count == known and video.fps == (25.0 if said else None)
        assert [int(frame[0, 0, 0]) for frame in video] == [1, 2, 3]
    assert video.damage is None  # a count is no damage


@pytest.mark.parametrize("said", [20.0, 3.0])
def test_damage_is_an_error_in_decoding(tmp_path, monkeypatch, said):
    path = saved(tmp_path, b"", "a.webm")
    monkeypatch.setattr(videos.cv2, "VideoCapture", lambda name: ThreeFrames(25.0, said))
    monkeypatch.setattr(videos, "decoding_error", lambda path: "invalid data")
    video = VideoFrames(path)
    assert len(list(video)) == 3
    expected = f"{path}: damaged or cut short, 3 of 20 frames could be read" if said == 20.0 else None
    assert video.damage == expected


def test_without_pyav_a_count_is_said_and_no_damage(tmp_path, monkeypatch):
    path = saved(tmp_path, b"", "a.avi")
    monkeypatch.setattr(videos.cv2, "VideoCapture", lambda name: ThreeFrames(25.0, 20.0))
    monkeypatch.setattr("ppsolo.data.codecs.load_pyav", lambda: None)
    monkeypatch.setattr(videos, "load_pyav", lambda: None)
    video = VideoFrames(path)
    assert len(list(video)) == 3 and video.damage is None
    assert "3 frames read, its container counts 20; pip install 'ppsolo[video]'" in video.note


def test_a_frame_that_cannot_be_decoded_or_is_of_another_size_ends_the_video(tmp_path, monkeypatch):
    path = saved(tmp_path, b"", "a.avi")
    three = ThreeFrames(25.0, 3.0)
    three.frames[1] = np.zeros((6, 4, 3), np.uint8)
    monkeypatch.setattr(videos.cv2, "VideoCapture", lambda name: three)
    video = VideoFrames(path)
    assert len(list(video)) == 1 and "frame 1 has another size" in video.damage
    three.frames = [np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6, 2), np.uint8)]  # cv2.cvtColor refuses the second
    video = VideoFrames(path)
    assert len(list(video)) == 1 and "cannot decode a frame" in video.damage


def test_what_is_no_video_is_refused(tmp_path):
    write_video(tmp_path / "a.mp4", (16, 16))
    data = (tmp_path / "a.mp4").read_bytes()
    os.mkfifo(tmp_path / "pipe.mp4")
    for path, reason in (
        (tmp_path / "missing.mp4", "no such file"),
        (tmp_path, "a directory"),
        (tmp_path / "pipe.mp4", "a pipe"),
        (saved(tmp_path, b"", "empty.mp4"), "no video frame"),
        (saved(tmp_path, b"text", "text.mp4"), "no video frame"),
        (saved(tmp_path, data[: len(data) // 2], "cut.mp4"), "no video frame"),
    ):
        with pytest.raises(ImageError, match=reason):
            VideoFrames(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_video_is_refused(tmp_path):
    path = saved(tmp_path, b"", "a.mp4")
    path.chmod(0)
    with pytest.raises(ImageError, match="Permission denied"):
        VideoFrames(path)


def test_the_video_writer_refuses(tmp_path):
    for path, fps, size, reason in (
        (tmp_path / "a.avi", 10.0, (16, 16), "not as '.avi'"),
        (tmp_path / "missing" / "a.mp4", 10.0, (16, 16), "directory does not exist"),
        (tmp_path / "a.mp4", 0.0, (16, 16), "cannot write mp4v of 16 x 16 pixels at 0.0 frames per second"),
        (tmp_path / "a.mp4", 10.0, (1, 16), "cannot write mp4v of 1 x 16"),
    ):
        with pytest.raises(ImageError, match=reason):
            VideoWriter(path, fps=fps, size=size)
    assert os.listdir(tmp_path) == []


def test_a_video_that_lost_frames_is_not_kept(tmp_path, monkeypatch):
    writer = VideoWriter(tmp_path / "a.mp4", fps=10, size=(16, 16))
    writer.write(np.zeros((16, 16, 3), np.uint8))
    monkeypatch.setattr(videos.cv2, "VideoCapture", lambda name: ThreeFrames(10.0, 0.0))
    with pytest.raises(ImageError, match="0 of 1 frames were stored"):
        writer.close()
    assert os.listdir(tmp_path) == []


def test_a_video_appears_complete_or_not_at_all(tmp_path):
    path = saved(tmp_path, b"earlier", "a.mp4")
    frame = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(KeyError), VideoWriter(path, fps=10, size=(16, 16)) as writer:
        writer.write(frame)
        raise KeyError
    with pytest.raises(ImageError, match="no frame was written"), VideoWriter(path, fps=10, size=(16, 16)):
        pass
    assert path.read_bytes() == b"earlier" and os.listdir(tmp_path) == ["a.mp4"]
    writer = VideoWriter(path, fps=10, size=(16, 16))
    with pytest.raises(ImageError, match=r"a frame of \(8, 16\) pixels, expected \(16, 16\)"):
        writer.write(frame[:8])
    writer.write(frame)
    assert path.read_bytes() == b"earlier"
    writer.close()
    writer.close()
    assert len(list(VideoFrames(path))) == 1 and os.listdir(tmp_path) == ["a.mp4"]
    with pytest.raises(ImageError, match="already closed"):
        writer.write(frame)


def read_all(path: Path) -> tuple[VideoFrames, list[Frame]]:
    with VideoFrames(path) as video:
        return video, list(iter(video.read, None))


@pytest.mark.parametrize(
    ("file", "frames", "end"),
    [
        (("video_edit_list", "trimmed.mp4"), 12, 1.3),
        (("video_variable_rate", "vfr.mkv"), 23, 1.95),
        (("video_variable_rate", "dropped_frames.avi"), 10, 0.9),
        (("video_suffixes", "a.ts"), 5, 0.4),
        (("video_suffixes", "c.wmv"), 5, 0.4),
        (("video_suffixes", "f.gif"), 5, 0.4),
    ],
)
def test_the_cases(tmp_path, file, frames, end):
    path = case(*file)
    assert is_video(path)
    video, found = read_all(path)
    assert len(found) == frames and video.damage is None
    assert [frame.number for frame in found] == list(range(frames))
    assert found[0].time == 0 and found[-1].time == pytest.approx(end, abs=0.002)
    with (
        VideoFrames(path) as again,
        VideoWriter(tmp_path / "copy.mp4", fps=again.drawing_rate(), size=again.size) as copy,
    ):
        for frame in found:
            copy.write_at(frame.image, frame.time)
    _, drawn = read_all(tmp_path / "copy.mp4")
    # as long as its source: the last frame begins at the same time, to the nearest tick of the copy
    assert drawn[-1].time == pytest.approx(end, abs=0.6 / copy.fps)


def encode(path: Path, codec: str, times: list[float], **options) -> None:
    """A video of grey frames, 20 levels brighter each, at these seconds."""
    av = pytest.importorskip("av")
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot write {codec}")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=options.get("rate", 30))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, seconds in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 + 20 * index, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(seconds * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".webm"])
def test_times_are_those_of_the_frames(tmp_path, suffix):
    times = [0.0, 0.05, 0.3, 0.32, 0.9, 1.6]
    encode(tmp_path / f"a{suffix}", "libvpx-vp9" if suffix == ".webm" else "libx264", times)
    video, found = read_all(tmp_path / f"a{suffix}")
    assert [frame.time for frame in found] == pytest.approx(times, abs=0.002) and video.damage is None
    levels = [float(frame.image.mean()) for frame in found]
    assert levels == sorted(levels)


@pytest.mark.parametrize("rate", [66.667, 211.222, 239.934, 23.976, 29.97, 59.94, 1.5, 1000.0])
def test_any_rate_can_be_written(tmp_path, rate):
    with VideoWriter(tmp_path / "a.mp4", fps=rate, size=(48, 64)) as writer:
        for level in range(5):
            writer.write(np.full((48, 64, 3), 40 * level, np.uint8))
    assert writer.fps == pytest.approx(rate, rel=0.001)
    assert len(read_all(tmp_path / "a.mp4")[1]) == 5


def test_frames_are_repeated_and_left_out_to_keep_time(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", fps=10, size=(48, 64)) as writer:
        for seconds, level in ((0.0, 0), (0.5, 100), (0.52, 200), (0.6, 250)):
            writer.write_at(np.full((48, 64, 3), level, np.uint8), seconds)
    _, found = read_all(tmp_path / "a.mp4")
    assert [round(float(frame.image.mean()) / 50) * 50 for frame in found] == [0, 0, 0, 0, 0, 100, 250]


def test_a_codec_that_opencv_lacks_is_read_by_pyav_or_named(tmp_path, monkeypatch):
    path = tmp_path / "av1.mp4"
    encode(path, "libsvtav1", [0.0, 0.1, 0.2])
    if hasattr(os, "sched_setscheduler"):  # for root, this encoder makes the thread a real-time one, before all others
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    video, found = read_all(path)
    assert len(found) == 3 and found[2].time == pytest.approx(0.2, abs=0.002) and video.size == (48, 64)
    monkeypatch.setattr("ppsolo.data.codecs.load_pyav", lambda: None)
    monkeypatch.setattr(videos, "load_pyav", lambda: None)
    with pytest.raises(ImageError, match=r"lacks its codec (AV01|av01).*pip install 'ppsolo\[video\]'"):
        VideoFrames(path)


@pytest.mark.parametrize("codec", ["mjpeg", "ffv1"])
def test_a_video_that_is_cut_short_is_damaged(tmp_path, codec):
    pytest.importorskip("av")
    path = tmp_path / ("a.avi" if codec == "mjpeg" else "a.mkv")
    fourcc = cv2.VideoWriter.fourcc(*("MJPG" if codec == "mjpeg" else "FFV1"))
    writer = cv2.VideoWriter(str(path), fourcc, 10, (64, 48))
    generator = np.random.default_rng(0)
    for _ in range(10):
        writer.write(generator.integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    video, found = read_all(path)
    assert 1 <= len(found) < 10 and "damaged or cut short" in (video.damage or "")


class Flaky:
    """A stream that breaks off after two frames, and once more."""

    opened = 0

    def __init__(self, *arguments):
        Flaky.opened += 1
        self.left = 2 if Flaky.opened in (1, 3) else 0

    def get(self, name: int) -> float:
        return 10.0 if name == cv2.CAP_PROP_FPS else 0.0

    def isOpened(self) -> bool:
        return True

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        return (True, np.zeros((4, 6, 3), np.uint8)) if self.left >= 0 else (False, None)

    def release(self) -> None:
        pass


def test_an_endless_timeout_of_a_stream_is_no_error_of_opencv():
    with pytest.raises(ImageError, match="the stream cannot be opened"):
        VideoFrames("rtsp://127.0.0.1:1/live", timeout=1e300)


def test_a_stream_that_breaks_off_is_opened_again(monkeypatch):
    Flaky.opened, waits = 0, []
    monkeypatch.setattr(videos.cv2, "VideoCapture", Flaky)
    monkeypatch.setattr(videos.time, "sleep", waits.append)
    video = VideoFrames("rtsp://127.0.0.1/live", reconnect=3)
    found = list(iter(video.read, None))
    assert len(found) == 4 and [frame.time for frame in found] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert waits == [1, 2, 1, 2, 4] and "broke off after 4 frames, 3 new tries failed" in video.damage
    assert video.live and video.frame_count is None


def test_the_draft_of_a_killed_process_is_removed_by_the_next(tmp_path):
    program = (
        "import os, sys, numpy as np\n"
        "from ppsolo.data.videos import VideoWriter\n"
        "writer = VideoWriter(sys.argv[1], fps=5, size=(48, 64))\n"
        "writer.write(np.zeros((48, 64, 3), np.uint8))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.mp4")], check=False)
    assert len(list(tmp_path.glob(".ppsolo-*"))) == 1
    with (
        VideoWriter(tmp_path / "b.mp4", fps=5, size=(48, 64)) as other,
        VideoWriter(tmp_path / "a.mp4", fps=5, size=(48, 64)) as video,
    ):
        other.write(np.zeros((48, 64, 3), np.uint8))
        video.write(np.zeros((48, 64, 3), np.uint8))
        assert len(list(tmp_path.glob(".ppsolo-*"))) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def run_length_avi(side: int) -> bytes:
    """An AVI of one empty frame in Microsoft's run lengths."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return name + struct.pack("<I", len(content)) + content

    main = struct.pack("<14I", 100000, 0, 0, 16, 1, 0, 1, 0, side, side, 0, 0, 0, 0)
    stream = b"vids\1\0\0\0" + struct.pack("<10I", 0, 0, 0, 1, 10, 0, 1, 0, 0, 0) + bytes(8)
    form = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 0, 0, 0, 0, 0)
    streams = chunk(b"LIST", b"strl" + chunk(b"strh", stream) + chunk(b"strf", form))
    lists = chunk(b"LIST", b"hdrl" + chunk(b"avih", main) + streams)
    return chunk(b"RIFF", b"AVI " + lists + chunk(b"LIST", b"movi" + chunk(b"00dc", b"\0\1")))


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.mp4", b"ffconcat version 1.0\nfile a.mp4\nfile a.mp4\n", "a list of videos"),
        ("a1.avi", cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes(), "a picture, not a video"),
        ("a.webm", b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 30000 +X 30000\n", "a picture, not a video"),
    ],
)
def test_lists_pictures_and_too_many_pixels_are_refused_before_a_frame_is_decoded(tmp_path, name, data, reason):
    with pytest.raises(ImageError, match=reason) as caught:
        VideoFrames(saved(tmp_path, data, name))
    assert str(caught.value).startswith(str(tmp_path / name))


def test_frames_of_too_many_pixels_are_refused_before_opencv_opens_the_video(tmp_path, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.setattr(codecs, "MAX_PIXELS", 2**20)
    with VideoFrames(saved(tmp_path, run_length_avi(1000), "a.avi")) as video:
        assert video.size == (1000, 1000)
    path = saved(tmp_path, run_length_avi(1100), "a.avi")
    monkeypatch.setattr(videos.cv2, "VideoCapture", None)
    with pytest.raises(ImageError, match="more than 1048576 pixels"):
        VideoFrames(path)


def test_a_drawing_has_no_endless_pause(tmp_path):
    """An AVI may say that its second frame comes after 68 years."""
    image = np.zeros((16, 16, 3), np.uint8)
    late, writer = "frame 2 is at 2147483647 seconds, too late", VideoWriter(tmp_path / "a.mp4", fps=25, size=(16, 16))
    with pytest.raises(ImageError, match=late), writer:
        writer.write_at(image, 0.0)
        writer.write_at(image, 2147483647.0)
    assert os.listdir(tmp_path) == []
    with VideoWriter(tmp_path / "a.mp4", fps=1, size=(16, 16)) as writer:
        writer.write_at(image, 0.0)
        writer.write_at(image, 3600.0)
    with VideoFrames(tmp_path / "a.mp4") as video:
        assert video.frame_count == 3601
