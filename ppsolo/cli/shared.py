"""Shared by all commands: exit codes, flags for model and device, the import of Paddle, output."""

import argparse
import contextlib
import importlib
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeAlias

from ppsolo.checkpoint.zoo import ZOO
from ppsolo.config import load_answering_config
from ppsolo.cpu import available_cores
from ppsolo.data.decoder_lines import claim_standard_error
from ppsolo.data.tiles import DEFAULT_OVERLAP, checked_tiling
from ppsolo.errors import ConfigError
from ppsolo.interface import ENGINES as ALL_ENGINES
from ppsolo.interface import PRECISIONS
from ppsolo.processes import launched
from ppsolo.schema import Config
from ppsolo.text import one_line, printable, typed, without_users

if TYPE_CHECKING:
    from ppsolo.model_source import ModelSource

OK, SOME_FAILED, REFUSED, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
# Their messages name steps that take seconds or minutes, such as converting a network.
LONG_STEPS = ("ppsolo.predictor", "ppsolo.deploy.export")
LARGEST_NUMBER = 2**31 - 1  # of a count or of seconds: what C code below takes

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], examples: str
) -> argparse.ArgumentParser:
    """Add a command; its help is the docstring of `run`, followed by the examples, one per line."""
    lines = "".join(f"  {line}\n" for line in examples.splitlines())
    command = commands.add_parser(
        name,
        help=run.__doc__,
        description=run.__doc__,
        epilog=f"examples:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_words(command)
    command.set_defaults(run=run, parser=command)
    return command


def add_words(command: argparse.ArgumentParser) -> None:
    """Add -q and -v, which may stand after a command too; the main help describes them."""
    for flags in (("-q", "--quiet"), ("-v", "--verbose")):
        command.add_argument(*flags, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def add_override(command: argparse.ArgumentParser, *aliases: str, help: str) -> None:
    """Add -o, which may be given several times. aliases: other names of the flag."""
    command.add_argument(
        "-o", "--override", *aliases, action="extend", nargs="+", default=[], metavar="KEY=VALUE", help=help
    )


def add_config(command: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add -c and -o."""
    command.add_argument(
        "-c",
        "--config",
        required=required,
        metavar="FILE",
        help="a configuration file or the name of a shipped one",
    )
    add_override(command, "--opt", help="change the configuration, e.g. -o weights=model.pdparams")
    command.add_argument("--sha256", metavar="HEX", help="required SHA-256 of weights from an https address")


def add_model(command: argparse.ArgumentParser) -> None:
    """Add the flags for the model and its runtime: -c, -o, --model_dir, --engine and more."""
    add_config(command, required=False)
    command.add_argument("--model_dir", metavar="DIR", help="a directory of `ppsolo export`, instead of -c")
    command.add_argument(
        "--engine",
        choices=ALL_ENGINES,
        default="auto",
        help="the runtime: dygraph for a configuration, paddle for an export, onnxruntime or openvino for both; "
        "default: the fastest installed one that is exact",
    )
    command.add_argument(
        "--device", choices=("cpu", "gpu"), default="cpu", help="device for --model_dir, default: %(default)s"
    )
    command.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="bf16 needs a CPU with bf16 and the engine openvino or paddle; fp16 needs an export on a GPU; "
        "default: %(default)s",
    )
    command.add_argument(
        "--class_thresholds",
        metavar="FILE",
        help="least score per class, a file of `ppsolo eval --find_thresholds`",
    )


def model_source(options: argparse.Namespace) -> "ModelSource":
    """Return the model that the flags of `add_model` name; import Paddle if needed. Raises PpsoloError."""
    from ppsolo.deploy.directory import read_directory
    from ppsolo.model_source import ModelSource, export_config

    if (options.config is None) == (options.model_dir is None):
        if options.config is not None:
            raise ConfigError("-c and --model_dir both name a model: give one of them")
        raise ConfigError("which model? Give a configuration (-c) or an exported directory (--model_dir)")
    if options.model_dir is None:
        config, export = load_answering_config(options.config, options.override), None
        _note_run(options.config, config)
    else:
        export = read_directory(options.model_dir)
        config = export_config(export, options.override)
    if options.class_thresholds is not None:
        from ppsolo.evaluation.thresholds import with_thresholds

        config = with_thresholds(config, options.class_thresholds, note=say_note)
    source = ModelSource(
        config,
        export,
        engine=options.engine,
        device=options.device,
        precision=options.precision,
        tiling=checked_tiling(options.tile, options.overlap) if hasattr(options, "tile") else None,
    )
    if source.needs_paddle:
        import_paddle()
    return source


def _note_run(source: str, config: Config) -> None:
    """Say which configuration has the weights of a training, where the one that it started from is given."""
    trained = Path(config.train.output_dir) / config.name / "config.yml"
    untrained = config.weights is None or config.weights in ZOO
    if untrained and Path(source).is_file() and trained.is_file() and not trained.samefile(source):
        say_note(f"{source} has no trained weights: -c {typed(trained)} has those of its run")


def add_tiles(command: argparse.ArgumentParser) -> None:
    """Add --tile and --overlap."""
    command.add_argument(
        "--tile",
        type=int,
        metavar="N",
        help="predict large pictures in squares of N pixels and join objects at the seams",
    )
    command.add_argument(
        "--overlap",
        type=int,
        metavar="N",
        help="pixels that neighbouring tiles share, at least the size of most objects; 0: objects at seams are not "
        f"joined; default: {DEFAULT_OVERLAP}, or half a tile if that is less",
    )


def check_number(options: argparse.Namespace, name: str, *, least: float) -> None:
    """Refuse NaN and numbers below `least` or above LARGEST_NUMBER, also in a list; None is a flag left out."""
    given = getattr(options, name)
    for value in given if isinstance(given, list) else [given]:
        if value is not None and not value >= least:
            raise ConfigError(f"--{name} is {value}: give at least {least}")
        if value is not None and value > LARGEST_NUMBER:
            raise ConfigError(f"--{name} is {value}: give at most {LARGEST_NUMBER}")


def import_paddle() -> None:
    """Import Paddle with all cores for its kernels: it uses one unless OMP_NUM_THREADS is set.

    Hide its messages about this, and about compilers that it will not need. Raises ConfigError if Paddle is missing, or
    if the launcher's variables are wrong.
    """
    launched()
    os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))
    os.environ.setdefault("GLOG_minloglevel", "2")  # in C++, log only errors and worse
    os.environ.setdefault("PYTHONWARNINGS", "ignore:No ccache found")  # also in processes that this one starts
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings(), _kept_sigterm():
        warnings.simplefilter("ignore")
        try:
            # A user who ends a command needs no trace of Paddle's kernels.
            importlib.import_module("paddle").disable_signal_handler()
        except ModuleNotFoundError as error:
            if error.name != "paddle":
                raise
            raise ConfigError("PaddlePaddle is not installed: pip install 'ppsolo[cpu]' or 'ppsolo[gpu]'") from None


@contextlib.contextmanager
def _kept_sigterm() -> Iterator[None]:
    """Keep the handler of SIGTERM: Paddle's import sets its own, which prints a trace, and then the system's.

    A SIGTERM that comes inside the block is heard at its end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def say(text: str, stream: TextIO | None = None) -> None:
    """Print lines without characters that control the terminal and without passwords of addresses.

    stream: None: standard output.
    """
    to = sys.stdout if stream is None else stream
    lines = "\n".join(printable(line) for line in without_users(text).split("\n")) + "\n"
    # A terminal without UTF-8 shows other letters as "?".
    encoding = to.encoding or "utf-8"
    try:
        to.write(lines.encode(encoding, "replace").decode(encoding))
    except BrokenPipeError:
        stop_output()
    except OSError as error:  # a full disk
        error.filename = "standard output" if stream is None else "standard error"
        raise


def stop_output() -> None:
    """Let the work go on where nobody reads standard output any longer."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def set_up_output(options: argparse.Namespace) -> None:
    """Log to standard error as --quiet and --verbose want, and catch the lines of decoders; in every process."""
    claim_standard_error()
    log = logging.StreamHandler()
    log.setFormatter(LogFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.ERROR if options.quiet else logging.WARNING, handlers=[log])
    for name in LONG_STEPS:
        logging.getLogger(name).setLevel(logging.ERROR if options.quiet else logging.INFO)
    if options.verbose:
        logging.getLogger("ppsolo").setLevel(logging.INFO)


def say_note(line: str) -> None:
    """Print one line to standard error, for information."""
    sys.stderr.write(f"ppsolo: note: {one_line(without_users(line))}\n")


def say_error(line: str) -> None:
    """Print one line to standard error, after the program's name."""
    sys.stderr.write(f"ppsolo: error: {one_line(without_users(line))}\n")


class LogFormatter(logging.Formatter):
    """Formats log messages without characters that control the terminal and without passwords of addresses.

    A traceback keeps its lines.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(without_users(super().formatMessage(record)))
