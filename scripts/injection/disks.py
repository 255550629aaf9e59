"""What surrounds a command under test: its variables, a disk of its own, and a clock that jumps."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOM = "256m"  # size of a file system that is large enough
READ_ONLY = "read-only disk"  # a fault that needs a file system of its own
JUMPING_CLOCK = """
import random, time
real, chance = time.time, random.Random(0)
time.time = lambda: real() + chance.uniform(-1e7, 1e7)
"""


def environment() -> dict[str, str]:
    """Return the variables of a command under test."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "no_proxy": "*"}


def can_mount() -> bool:
    """Whether this process may mount file systems."""
    return os.geteuid() == 0 and shutil.which("mount") is not None


@contextlib.contextmanager
def file_system(folder: Path) -> Iterator[None]:
    """Mount a file system in memory at `folder` while the block runs, if allowed."""
    if not can_mount():
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def limited_disk(folder: Path, room: int) -> Iterator[list[str]]:
    """Leave so many bytes on the disk of `folder` while the block runs; yield what goes before a command.

    Without a file system of its own, the command gets a limit on the size of files instead, a twentieth of the room.
    """
    if can_mount():
        held = sum(path.stat().st_size + 4096 for path in folder.rglob("*") if path.is_file())
        _mount(f"remount,size={held + room}", folder)
        try:
            yield []
        finally:
            _mount(f"remount,size={ROOM}", folder)
    else:
        yield ["bash", "-c", f'ulimit -f {max(1, room // 20480)}; exec "$@"', "bash"]


@contextlib.contextmanager
def read_only_disk(folder: Path) -> Iterator[None]:
    """Forbid writing to the file system of `folder` while the block runs."""
    _mount("remount,ro", folder)
    try:
        yield
    finally:
        _mount("remount,rw", folder)


def _mount(options: str, folder: Path) -> None:
    subprocess.run(["mount", "-o", options, str(folder)], check=True)


def jumping_clock(site: Path) -> dict[str, str]:
    """Return variables with which each reading of the clock gives another month; `site` is made for it."""
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(JUMPING_CLOCK)
    return {"PYTHONPATH": f"{site}:{ROOT}"}
