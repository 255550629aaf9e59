"""Ctrl-C and SIGTERM end every command in order: what it began is cleaned up, and one line says what happened."""

import _thread
import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ppsolo.cli import main
from ppsolo.cli.signals import Terminated
from ppsolo.errors import ConfigError

ROOT = Path(__file__).parents[2]
# Programs that a shell starts in the background ignore interrupts, and so would what they start.
heed_interrupts = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
SLEEPER = """
import sys, time
from ppsolo.cli import main, zoo
from ppsolo.cli.shared import import_paddle

def run(options):
    if "paddle" in sys.argv:
        import_paddle()
    try:
        print("runs", flush=True)
        time.sleep(600)
    finally:
        print("cleaned up")

zoo.run = run
sys.exit(main(["zoo", "list"]))
"""


@pytest.fixture(autouse=True)
def own_signals():
    """Earlier tests may have left handlers: Ray's, for one."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "code", "line", "more"),
    [
        (signal.SIGINT, 130, "ppsolo: error: interrupted\n", []),
        (signal.SIGTERM, 143, "ppsolo: error: ended by SIGTERM\n", []),
        (signal.SIGTERM, 143, "ppsolo: error: ended by SIGTERM\n", ["paddle"]),
    ],
)
def test_a_signal_ends_a_command_in_order(number, code, line, more):
    if more:
        pytest.importorskip("paddle")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, *more],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    assert process.stdout is not None and process.stdout.readline() == "runs\n"
    process.send_signal(number)
    said, errors = process.communicate(timeout=120)
    assert (process.returncode, said, errors) == (code, "cleaned up\n", line)


def test_a_signal_while_the_arguments_are_read_is_one_line(monkeypatch, capsys):
    def interrupted():
        raise Terminated

    monkeypatch.setattr("ppsolo.cli.parser", interrupted)
    assert main(["zoo", "list"]) == 143
    assert capsys.readouterr().err == "ppsolo: error: ended by SIGTERM\n"


@pytest.mark.parametrize(("interruption", "code"), [(KeyboardInterrupt(), 130), (Terminated(), 143)])
def test_an_extension_module_that_is_interrupted_while_it_starts(monkeypatch, capsys, interruption, code):
    """It raises ImportError in place of the interruption."""

    def run(options):
        try:
            raise ImportError("initialization failed") from interruption
        except ImportError:
            raise ConfigError("a package is missing") from None

    monkeypatch.setattr("ppsolo.cli.zoo.run", run)
    assert main(["zoo", "list"]) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_an_import_that_loses_the_interruption_is_an_interruption_too(monkeypatch, capsys):
    """As OpenCV's import of numpy does, in C."""

    def run(options):
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        raise ImportError("numpy._core.multiarray failed to import")

    monkeypatch.setattr("ppsolo.cli.zoo.run", run)
    assert main(["zoo", "list"]) == 143
    assert capsys.readouterr().err == "ppsolo: error: ended by SIGTERM\n"


def test_an_interrupted_import_that_counts_as_a_missing_package(monkeypatch, capsys):
    def run(options):
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        try:
            raise ImportError("initialization failed")
        except ImportError:
            raise ConfigError("a package is missing") from None

    monkeypatch.setattr("ppsolo.cli.zoo.run", run)
    assert main(["zoo", "list"]) == 143
    assert capsys.readouterr().err == "ppsolo: error: ended by SIGTERM\n"


def test_an_interruption_that_an_import_shows_stays_one_line(monkeypatch, capsys):
    """numpy's import shows an exception by PyErr_Print, in C, and then raises ImportError."""

    def run(options):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        except KeyboardInterrupt:
            sys.excepthook(*sys.exc_info())
            raise ImportError("numpy._core.multiarray failed to import") from None

    monkeypatch.setattr("ppsolo.cli.zoo.run", run)
    assert main(["zoo", "list"]) == 143
    assert capsys.readouterr().err == "ppsolo: error: ended by SIGTERM\n"


@pytest.mark.parametrize(
    ("number", "code", "line"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended by SIGTERM")]
)
def test_an_interruption_that_python_would_ignore_comes_again(monkeypatch, capsys, number, code, line):
    """Python only prints what a destructor raises."""

    class Last:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)
            time.sleep(0.001)

    def run(options):
        last = Last()
        del last
        time.sleep(60)

    monkeypatch.setattr("ppsolo.cli.zoo.run", run)
    assert main(["zoo", "list"]) == code
    assert capsys.readouterr().err == f"ppsolo: error: {line}\n"


def test_an_interruption_while_another_one_is_ignored_comes_too(monkeypatch, capsys):
    """As on a busy machine, where the second signal is there before Python has ignored the first."""
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)  # pytest has handlers of its own
    start = _thread.start_new_thread

    def interrupted(*arguments):
        monkeypatch.setattr(_thread, "start_new_thread", start)
        monkeypatch.setattr(threading, "_start_new_thread", start)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.001)
        return start(*arguments)

    class Last:
        def __del__(self) -> None:
            monkeypatch.setattr(_thread, "start_new_thread", interrupted)
            monkeypatch.setattr(threading, "_start_new_thread", interrupted)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.001)

    def run(options):
        last = Last()
        del last
        time.sleep(5)
        return 0

    monkeypatch.setattr("ppsolo.cli.zoo.run", run)
    assert main(["zoo", "list"]) == 143
    assert capsys.readouterr().err == "ppsolo: error: ended by SIGTERM\n"


def run_program(program: str, *, check: bool = False, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process that heeds interrupts, with these variables in its environment."""
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=check,
        preexec_fn=heed_interrupts,
    )


def test_an_interrupted_import_shows_no_traceback():
    """Before the command handles signals, the system ends the process. After that, Ctrl-C raises."""
    program = (
        "import signal, ppsolo.__main__ as entry\n"
        "from ppsolo.cli import zoo\n"
        "zoo.run = lambda options: print(callable(signal.getsignal(signal.SIGINT)))\n"
        "print(signal.getsignal(signal.SIGINT) is signal.SIG_DFL)\n"
        "entry.main(['zoo', 'list'])\n"
    )
    done = run_program(program, check=True)
    assert done.stdout == "True\nTrue\n"


INTERRUPTED_IMPORT = """
import os, runpy, signal, sys

def interrupt(event, details):
    if event == "import" and details[0] == MODULE:
        os.kill(os.getpid(), getattr(signal, SIGNAL))

sys.addaudithook(interrupt)
sys.argv = ["ppsolo", "zoo", "list"]
runpy.run_module("ppsolo", run_name="__main__")
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("module", ["ppsolo.cli", "argparse", "ppsolo.config", "ppsolo.cli.zoo"])
def test_the_first_moments_of_a_command_end_without_a_traceback(module, name):
    program = f"MODULE, SIGNAL = {module!r}, {name!r}\n{INTERRUPTED_IMPORT}"
    done = run_program(program)
    # A shell shows this as 130 and 143.
    assert (done.returncode, done.stdout, done.stderr) == (-getattr(signal, name), "", "")


def test_sigterm_while_paddle_is_imported_is_one_line():
    """Paddle's import sets a handler that prints a trace, and every thread without a block may hear the signal."""
    pytest.importorskip("paddle")
    program = f"MODULE, SIGNAL = 'paddle.vision', 'SIGTERM'\n{INTERRUPTED_IMPORT}".replace(
        '["ppsolo", "zoo", "list"]', '["ppsolo", "demo"]'
    )
    done = run_program(program, OMP_NUM_THREADS="2")
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "ppsolo: error: ended by SIGTERM\n")


def test_few_imports_come_before_signals_are_handled():
    """`python -m ppsolo` imports the package first, and nothing of it sets signals for programs that import it."""
    program = (
        "import collections.abc, contextlib, signal, sys, threading, zlib\n"
        "before, handler = set(sys.modules), signal.getsignal(signal.SIGINT)\n"
        "import ppsolo\n"
        "print(*sorted(set(sys.modules) - before), signal.getsignal(signal.SIGINT) is handler)\n"
    )
    done = run_program(program, check=True)
    assert done.stdout == "ppsolo ppsolo.cpu True\n"


def test_a_second_interrupt_while_the_first_is_reported_ends_the_command_too(monkeypatch):
    handlers = []
    monkeypatch.setattr("ppsolo.cli.say_error", lambda line: handlers.append(signal.getsignal(signal.SIGINT)))
    monkeypatch.setattr("ppsolo.cli.parser", lambda: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        assert main(["zoo", "list"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert handlers == [signal.SIG_DFL]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no disk that is always full")
def test_output_to_a_full_disk_is_one_line():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ppsolo", "zoo", "list"],
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.stderr == "ppsolo: error: standard output: No space left on device\n" and done.returncode == 2


def test_who_reads_the_output_may_leave():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "ppsolo", "zoo", "list"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=120) == 0 and process.stderr.read() == ""
