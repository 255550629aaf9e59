"""The state of a training run on disk: its directory, and the checkpoints that training resumes from."""

import json
import logging
import os
import socket
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ppsolo.atomic import atomic_writer, made_folder, remove_leftovers
from ppsolo.checkpoint.lock import WITHOUT_LOCKS, sole_holder
from ppsolo.checkpoint.reader import read_checkpoint
from ppsolo.checkpoint.writer import write_checkpoint
from ppsolo.config import config_to_dict
from ppsolo.errors import CheckpointError, TrainingError
from ppsolo.schema import Config
from ppsolo.text import one_line
from ppsolo.training.record import wrong_value

logger = logging.getLogger(__name__)

FORMAT = 1
RECORD = "record.json"
HOLDER_PATIENCE = 10.0  # seconds; after a launcher was killed, its processes need time to end

# A continuation may change these keys: they affect neither the weights nor the way to them.
FREE_KEYS = (
    "data.num_workers",
    "data.root",
    "data.val_annotations",
    "data.val_images",
    "postprocess",
    "pretrained_backbone",
    "train.checkpoint_steps",
    "train.epochs",
    "train.evaluate_every",
    "train.keep_checkpoints",
    "train.log_every",
    "train.non_finite",
    "train.output_dir",
    "train.patience",
    "train.pictures",
    "train.sinks",
    "weights",
)


@dataclass(frozen=True)
class TrainingState:
    """Everything that training needs to resume. On a CPU, a resumed run equals an uninterrupted one bit for bit.

    On a GPU the state is just as complete, but some kernels add in changing order, so later weights differ by rounding.

    arrays: float32 arrays by group ("model", "optimizer", "ema") and by the names of `model.state_dict()`.
    record: everything else, as JSON types: position, counters, configuration, description of the data set.

    Random numbers are not stored: those of a step follow from (seed, step, process), those of a sample from (seed,
    epoch, index).
    """

    arrays: Mapping[str, Mapping[str, np.ndarray]]
    record: Mapping[str, Any]


def write_state(state: TrainingState, path: Path) -> None:
    """Write one .safetensors file, whole or not at all. Raises CheckpointError if that fails."""
    flat = {f"{group}/{name}": array for group, arrays in state.arrays.items() for name, array in arrays.items()}
    record = {"format": FORMAT, "checksum": _checksum(flat), "record": state.record}
    text = np.frombuffer(json.dumps(record).encode(), np.uint8)
    write_checkpoint({RECORD: text, **flat}, path)


def read_state(path: Path) -> TrainingState:
    """Read a file of `write_state`; nothing in it is run. Raises CheckpointError if it is damaged or not one."""
    flat = read_checkpoint(path)
    text = flat.pop(RECORD, None)
    try:
        record = json.loads(text.tobytes()) if text is not None else {}
        known, checksum, content = record["format"], record["checksum"], record["record"]
    except (KeyError, RecursionError, TypeError, ValueError):
        raise CheckpointError(
            f"{path}: is not the state of a training run: give a file of a run's checkpoints folder"
        ) from None
    if known != FORMAT:
        raise CheckpointError(f"{path}: has format {known}, this ppsolo reads {FORMAT}: use the version that wrote it")
    if checksum != _checksum(flat):
        raise CheckpointError(f"{path}: is damaged (its checksum differs): resume from another checkpoint")
    if (key := wrong_value(content)) is not None:
        raise CheckpointError(f"{path}: its {key} is not a value that training writes: resume from another checkpoint")
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for name, array in flat.items():
        group, _, rest = name.partition("/")
        arrays.setdefault(group, {})[rest] = array
    return TrainingState(arrays, content)


class RunDirectory:
    """The directory of one run; only the main process writes to it.

    config.yml: the resolved configuration with the class names. class_names.txt: one name per line. log.jsonl and
    visualdl/: the metrics. checkpoints/STEP.safetensors: training states. last.pdparams, best.pdparams: weights to
    predict with, from the newest checkpoint and from the evaluation with the highest AP.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config_file = path / "config.yml"
        self.log_file = path / "log.jsonl"
        self.csv_file = path / "log.csv"
        self.card = path / "model_card.md"
        self.visualdl = path / "visualdl"
        self.best_weights = path / "best.pdparams"
        self.last_weights = path / "last.pdparams"
        self._checkpoints = path / "checkpoints"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Create the directory and keep other processes from writing to it during the block; see `made_folder`.

        The lock ends with its process, even if the process is killed. Raises TrainingError if another process still
        holds the directory after HOLDER_PATIENCE seconds, or if the directory is not writable.
        """
        lock = self.path / "run.lock"
        with ExitStack() as stack:
            try:
                self._hold(stack, lock)
                lock.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
            except BlockingIOError:
                raise TrainingError(
                    f"{self.path} is in use by {_holder(lock)}: wait until it ends or stop it, or give this run "
                    "another name (-o name=...)"
                ) from None
            except OSError as error:
                if error.errno not in WITHOUT_LOCKS:
                    raise self._not_writable(error) from None
                logger.warning("%s: its file system has no locks; do not start a second run there", self.path)
            yield

    def _hold(self, stack: ExitStack, lock: Path) -> None:
        """Enter the lock into the stack. The holder before may remove the empty directory: then make it again."""
        deadline = time.monotonic() + HOLDER_PATIENCE
        while True:
            try:
                stack.enter_context(made_folder(self.path))
                stack.enter_context(sole_holder(lock, patience=max(0.0, deadline - time.monotonic())))
                return
            except FileNotFoundError:
                if time.monotonic() > deadline:
                    raise

    def refuse_another_run(self) -> None:
        """Raise TrainingError if the directory holds a run that could be resumed."""
        if self.states():
            raise TrainingError(
                f"{self.path} holds a run: resume it (-r auto), or give the new run another name (-o name=...)"
            )

    def prepare(self, config: Config, class_names: Sequence[str]) -> None:
        """Create the directory and write the files that describe the run. Raises TrainingError if that fails."""
        try:
            self._checkpoints.mkdir(parents=True, exist_ok=True)
            for folder in (self.path, self._checkpoints):
                remove_leftovers(folder)
            write_config(config_to_dict(config), self.config_file)
            with atomic_writer(self.path / "class_names.txt", "w") as stream:
                stream.writelines(f"{one_line(name)}\n" for name in class_names)
        except OSError as error:
            raise self._not_writable(error) from None

    def write_card(self, text: str) -> None:
        """Write the model card. Raises OSError."""
        with atomic_writer(self.card, "w") as stream:
            stream.write(text)

    def _not_writable(self, error: OSError) -> TrainingError:
        return TrainingError(f"{self.path}: is not writable ({error.strerror}): set train.output_dir")

    def clear(self) -> None:
        """Remove the files of an earlier run, and nothing else. Raises OSError."""
        written = [self.config_file, self.path / "class_names.txt", self.log_file, self.csv_file, self.card]
        for weights in (self.best_weights, self.last_weights):
            written += [weights, weights.with_suffix(".yml")]
        for file in (*written, *self.states(), *self.visualdl.glob("vdlrecords.*")):
            file.unlink(missing_ok=True)

    def states(self) -> list[Path]:
        """Return the files of all training states, newest first."""
        return sorted(self._checkpoints.glob("*.safetensors"), key=lambda path: path.stem, reverse=True)

    def add_state(self, state: TrainingState, *, step: int, keep: int) -> None:
        """Write the state after `step` steps; then remove all but the newest `keep` states."""
        write_state(state, self._checkpoints / f"{step:09d}.safetensors")
        for old in self.states()[keep:]:
            old.unlink(missing_ok=True)

    def newest_state(self) -> tuple[Path, TrainingState] | None:
        """Return the newest whole state, and log the broken ones that were skipped; None if there are no states.

        Raises CheckpointError if all states are broken.
        """
        states = self.states()
        for path in states:
            try:
                return path, read_state(path)
            except CheckpointError as error:
                logger.warning("skipped a broken checkpoint and tried the one before it: %s", error)
        if states:
            raise CheckpointError(f"{self.path}: every checkpoint is broken: start a new run under another name")
        return None


def write_config(tree: Mapping[str, Any], file: Path) -> None:
    """Write the result of `config_to_dict` for `load_config`. Raises OSError."""
    with atomic_writer(file, "w") as stream:
        yaml.safe_dump(dict(tree), stream, sort_keys=False, allow_unicode=True)


def check_same_run(record: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Raise TrainingError that names the differences, if the current run cannot resume from a state.

    record, current: "config", a result of `config_to_dict`, and "world_size" and "dataset", which must be equal.
    """
    for key in ("step", *current):
        if key not in record:
            raise TrainingError(f"cannot resume: the checkpoint lacks {key}: give one that training wrote")
    for key, remedy in (
        ("world_size", "start as many processes as before"),
        ("dataset", "bring the same annotations back"),
    ):
        if record[key] != current[key]:
            raise TrainingError(
                f"cannot resume: {key} is {current[key]}, the checkpoint's is {record[key]}; {remedy}, or start a "
                "new run from its weights (-o weights=...)"
            )
    before, now = _flattened(record["config"]), _flattened(current["config"])
    differing = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    # The number of epochs changes the rate of a cosine, and of a warm-up that is a share of the run.
    fixed = now["train.schedule.type"] == "cosine" or now["train.schedule.warmup_steps"] == "auto"
    free_keys = [key for key in FREE_KEYS if key != "train.epochs" or not fixed]
    differing = [key for key in differing if not any(key == free or key.startswith(f"{free}.") for free in free_keys)]
    if differing:
        key = differing[0]
        more = f" (and {len(differing) - 1} more keys)" if len(differing) > 1 else ""
        raise TrainingError(
            f"cannot resume: {key} is {now.get(key)!r}, the checkpoint was made with {before.get(key)!r}{more}; give "
            "the run's own config.yml, or start a new run from its weights (-o weights=... name=...)"
        )


def _holder(lock: Path) -> str:
    try:
        return lock.read_text(encoding="utf-8") or "another process"
    except OSError:
        return "another process"


def _flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _checksum(arrays: Mapping[str, np.ndarray]) -> int:
    """CRC-32 of all names and values, in order."""
    checksum = 0
    for name, array in arrays.items():
        checksum = zlib.crc32(array.tobytes(), zlib.crc32(name.encode(), checksum))
    return checksum
