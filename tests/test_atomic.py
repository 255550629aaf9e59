"""What is written stands under its name whole, on the disk and alone in its folder, or is not there at all."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ppsolo.atomic import (
    atomic_writer,
    discard,
    put_folder_in_place,
    put_in_place,
    scratch_folder,
    temporary_folder,
    temporary_name,
)
from ppsolo.errors import ConfigError


def test_bytes_and_text_appear_when_the_with_ends(tmp_path):
    with atomic_writer(tmp_path / "a.bin", "wb") as stream:
        stream.write(b"\0\r\n")
        assert not (tmp_path / "a.bin").exists()
    with atomic_writer(str(tmp_path / "ä.txt"), "w") as stream:
        stream.write("Öl №5\n")
    assert (tmp_path / "a.bin").read_bytes() == b"\0\r\n"
    assert (tmp_path / "ä.txt").read_bytes() == "Öl №5\n".encode()
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "ä.txt"]


def test_an_earlier_file_is_replaced_at_once(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"earlier")
    with atomic_writer(path, "wb") as stream:
        stream.write(b"later" * 100_000)
        assert path.read_bytes() == b"earlier"
    assert path.read_bytes() == b"later" * 100_000


def test_the_draft_is_hidden_and_the_file_has_ordinary_rights(tmp_path):
    with atomic_writer(tmp_path / "a.json", "w"):
        (draft,) = os.listdir(tmp_path)
        assert draft.startswith(".ppsolo-") and draft.endswith(".part")
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("exception", [KeyError, OSError, KeyboardInterrupt, SystemExit, StopIteration, GeneratorExit])
def test_after_any_exception_the_earlier_file_stays_alone(tmp_path, exception):
    path = tmp_path / "a"
    path.write_bytes(b"earlier")
    with pytest.raises(exception), atomic_writer(path, "wb") as stream:
        stream.write(b"half")
        raise exception
    assert path.read_bytes() == b"earlier" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("exception", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_failure_at_the_end_leaves_nothing(tmp_path, monkeypatch, function, exception):
    def fail(*_: object) -> None:
        raise exception

    finished = temporary_name(tmp_path / "b")
    finished.touch()
    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(exception)), atomic_writer(tmp_path / "a", "w") as stream:
        stream.write("text")
    with pytest.raises(type(exception)):
        put_in_place(finished, tmp_path / "b")
    assert os.listdir(tmp_path) == []


@pytest.fixture
def steps(monkeypatch) -> list[str]:
    """What is synced and renamed, in order."""
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        link = Path(f"/proc/self/fd/{descriptor}")
        steps.append("sync folder" if link.is_dir() else f"sync {link.read_text()}")
        fsync(descriptor)

    def watched_replace(source: Path, target: Path) -> None:
        steps.append("rename")
        assert source.parent == target.parent
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    return steps


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are looked up in /proc")
def test_the_whole_file_is_synced_before_and_the_folder_after_the_rename(tmp_path, steps):
    with atomic_writer(tmp_path / "a", "w") as stream:
        stream.write("all of it")
    assert steps == ["sync all of it", "rename", "sync folder"]
    steps.clear()
    finished = temporary_name(tmp_path / "b")
    finished.write_text("by others")
    put_in_place(finished, tmp_path / "b")
    assert steps == ["sync by others", "rename", "sync folder"]


def test_a_folder_that_cannot_be_synced_does_no_harm(tmp_path, monkeypatch):
    def refuse(path: Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    with atomic_writer(tmp_path / "a", "w") as stream:
        stream.write("text")
    assert (tmp_path / "a").read_text() == "text"


def test_the_place_is_that_of_the_beginning(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with atomic_writer("a", "w") as stream:
        stream.write("text")
        monkeypatch.chdir(tmp_path / "elsewhere")
    assert (tmp_path / "a").read_text() == "text" and os.listdir() == []


def test_a_name_as_long_as_can_be(tmp_path):
    name = "a." + "x" * 253  # 255 bytes, most file systems' limit
    with atomic_writer(tmp_path / name, "w"):
        pass
    assert os.listdir(tmp_path) == [name]


def test_where_no_file_can_be_the_error_says_so(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for name, error in (
        ("missing/a", FileNotFoundError),
        ("file/a", NotADirectoryError),
        ("folder", IsADirectoryError),
    ):
        with pytest.raises(error), atomic_writer(tmp_path / name, "wb") as stream:
            stream.write(b"data")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"] and os.listdir(tmp_path / "folder") == []


def test_temporary_names_differ_and_keep_the_suffix_asked_for(tmp_path):
    names = {temporary_name(tmp_path / "a.mp4", suffix=".mp4") for _ in range(100)}
    assert len(names) == 100
    assert all(path.parent == tmp_path and path.name[0] == "." and path.suffix == ".mp4" for path in names)


def test_discard_removes_what_is_there(tmp_path):
    (tmp_path / "a").touch()
    discard(tmp_path / "a")
    discard(tmp_path / "a")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match="No space") as caught, atomic_writer(tmp_path / "x", "wb"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "x") and list(tmp_path.iterdir()) == []


def test_an_error_about_another_file_names_that_file(tmp_path):
    with (
        pytest.raises(FileNotFoundError) as caught,
        atomic_writer(tmp_path / "all", "wb"),
        atomic_writer(tmp_path / "gone" / "one", "wb"),
    ):
        pass
    assert caught.value.filename == str(tmp_path / "gone" / "one")


def test_a_temporary_folder_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_folder() as folder:
        (folder / "file").touch()
        assert folder.parent == tmp_path
    assert not folder.exists()
    with pytest.raises(FileNotFoundError), temporary_folder():
        (tmp_path / "gone").read_text()


def test_without_room_for_temporary_files_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ConfigError, match=f"written in {tmp_path} .No space.*TMPDIR"), temporary_folder():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match=r"gone .No such file or directory.: .*TMPDIR"), temporary_folder():
        pass


@pytest.mark.parametrize("put", [put_in_place, put_folder_in_place])
def test_a_disk_that_is_full_at_the_end_names_the_file(tmp_path, monkeypatch, put):
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    draft, path = temporary_name(tmp_path / "x"), tmp_path / "x"
    if put is put_in_place:
        draft.touch()
    else:
        draft.mkdir()
        (draft / "file").touch()
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space") as caught:
        put(draft, path)
    assert caught.value.filename == str(path) and not path.exists()


WRITER = """
import sys
import tempfile
from pathlib import Path
from ppsolo.atomic import atomic_writer, scratch_folder

with scratch_folder(Path(sys.argv[1], "folder")) as folder, atomic_writer(Path(sys.argv[1], "file"), "w") as stream:
    (folder / "half").touch()
    print("writes", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="files have no such lock there")
def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    foreign = tmp_path / ".ppsolo-00000000-000000000000.part"  # another machine's, whose locks may not be seen here
    foreign.touch()
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "writes\n"
    writers[0].send_signal(signal.SIGKILL)
    writers[0].wait()
    assert len(os.listdir(tmp_path)) == 5
    with atomic_writer(tmp_path / "new", "w"):
        assert len(os.listdir(tmp_path)) == 4  # the foreign draft, two of the living process, and this one
    writers[1].communicate("")
    assert sorted(os.listdir(tmp_path)) == [foreign.name, "file", "new"]


def test_a_scratch_folder_is_gone_in_the_end(tmp_path):
    with scratch_folder(tmp_path / "a") as folder:
        (folder / "file").touch()
        assert folder.parent == tmp_path and folder.name.startswith(".ppsolo-")
    assert os.listdir(tmp_path) == []
