"""The lock between processes: one holder at a time; a dead process holds up nobody."""

import fcntl
import importlib.util
import subprocess
import sys
import threading
import types

import pytest

from ppsolo.checkpoint import lock


def windows_lock():
    """The module as Windows would load it, with a stand-in for the system's call."""

    def locking(descriptor, mode, count):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PermissionError(13, "Permission denied") from error

    stand_in = types.ModuleType("msvcrt")
    stand_in.locking, stand_in.LK_NBLCK = locking, 2
    spec = importlib.util.spec_from_file_location("windows_lock", lock.__file__)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "msvcrt", stand_in)
        patch.setattr(sys, "platform", "win32")
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("module", [lock, windows_lock()], ids=["posix", "windows"])
def test_a_second_holder_waits_for_the_first(tmp_path, module):
    path, entered = tmp_path / "x.lock", threading.Event()

    def hold():
        with module.sole_holder(path):
            entered.set()

    second = threading.Thread(target=hold)
    with module.sole_holder(path):
        second.start()
        assert not entered.wait(0.3)  # three polls long
    assert entered.wait(5)
    second.join()
    assert not path.exists()


def test_never_two_holders_though_the_file_is_removed_each_time(tmp_path):
    holders, most = [], []

    def hold_often():
        for _ in range(20):
            with lock.sole_holder(tmp_path / "x.lock"):
                holders.append(1)
                most.append(len(holders))
                holders.pop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock, "_POLL_SECONDS", 0.001)
        threads = [threading.Thread(target=hold_often) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(most), max(most)) == (80, 1)


def test_the_lock_of_a_file_that_was_removed_or_replaced_is_none(tmp_path):
    path = tmp_path / "x.lock"
    with open(path, "w") as stale:
        path.unlink()
        assert not lock._take(stale.fileno(), path)
        path.touch()
        assert not lock._take(stale.fileno(), path)


def test_a_file_left_by_a_dead_process_holds_nobody_up(tmp_path):
    path = tmp_path / "x.lock"
    script = f"import fcntl, os, signal; f = open({str(path)!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
    subprocess.run([sys.executable, "-c", script + "os.kill(os.getpid(), signal.SIGKILL)"], check=False)
    assert path.exists()
    with lock.sole_holder(path):
        pass


def test_the_lock_is_freed_when_the_block_fails(tmp_path):
    with pytest.raises(KeyboardInterrupt), lock.sole_holder(tmp_path / "x.lock"):
        raise KeyboardInterrupt
    with lock.sole_holder(tmp_path / "x.lock"):
        pass


def test_a_folder_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), lock.sole_holder(tmp_path / "none" / "x.lock"):
        pass
