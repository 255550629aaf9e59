"""Tests of reading and writing videos."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppsolo.data import videos
from ppsolo.data.videos import VideoFrames, VideoWriter, is_video
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
    with pytest.raises(ImageError, match="0 of 1 frames stored"):
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
    with pytest.raises(ImageError, match="closed already"):
        writer.write(frame)
