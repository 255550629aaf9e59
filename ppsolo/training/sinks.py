"""The sinks of a run's metrics: console, JSON lines, CSV, VisualDL, TensorBoard, MLflow, Weights & Biases."""

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

from ppsolo.atomic import atomic_writer, naming
from ppsolo.errors import ConfigError
from ppsolo.progress import ProgressBar
from ppsolo.text import one_line, printable

CSV_COLUMNS = (
    *(f"train/{name}" for name in ("loss", "loss_mask", "loss_category", "learning_rate", "step_seconds")),
    *(f"train/{name}" for name in ("data_seconds", "epoch")),
    *(f"val/{kind}_{name}" for kind in ("segm", "bbox") for name in ("AP", "AP50", "AP75")),
)

# A number, or a picture: uint8 RGB [H, W, 3].
Metrics = Mapping[str, float | np.ndarray]


class Sink(Protocol):
    """Stores metrics; their names are like "train/loss" or "val/segm_AP"."""

    def log(self, metrics: Metrics, step: int) -> None:
        """Store the metrics of a step."""
        ...

    def close(self) -> None:
        """Write everything that is left; `log` is not called again."""
        ...


class ConsoleSink:
    """Shows losses, rate and time left, as a bar on a terminal or as lines elsewhere, and a line per evaluation.

    stream: the output. first_step, total_steps: the step where this session starts, and the number of steps of the run.
    """

    def __init__(self, stream: TextIO, *, first_step: int, total_steps: int):
        self._stream = stream
        self._total = total_steps
        self._live = stream.isatty()
        self._progress = ProgressBar("train", total_steps, done=first_step, unit="steps", stream=stream, interval=0.0)

    def log(self, metrics: Metrics, step: int) -> None:
        numbers = _numbers(metrics)
        if "train/loss" in numbers:
            self._progress.label = (
                f"epoch {numbers['train/epoch']:.0f}, loss {numbers['train/loss']:.4f} (mask "
                f"{numbers['train/loss_mask']:.4f}, category {numbers['train/loss_category']:.4f}), "
                f"lr {numbers['train/learning_rate']:.3g}, data {numbers['train/data_seconds']:.3f} s of "
                f"{numbers['train/step_seconds']:.3f} s"
            )
            self._progress.update(step, self._total)
        validation = [
            f"{printable(name.removeprefix('val/'))} {100 * value:.1f}"
            for name, value in numbers.items()
            if "val/" in name
        ]
        if validation:
            start = "\r\x1b[K" if self._live else ""
            self._stream.write(f"{start}step {step}: {', '.join(validation)}\n")
            self._stream.flush()

    def close(self) -> None:
        if self._live:
            self._progress.close()


class JsonLinesSink:
    """Writes one JSON object per line, {"step": 120, "train/loss": ...}, without pictures.

    Lines up to `first_step` are kept. Later ones are removed: these steps are about to be trained again.
    """

    def __init__(self, path: Path, *, first_step: int):
        with atomic_writer(path, "w") as stream:  # if the run is killed here, the old lines are safe
            stream.writelines(line for line in _lines(path) if _step_of(line) <= first_step)
        self._path, self._stream = path, path.open("a", encoding="utf-8")

    def log(self, metrics: Metrics, step: int) -> None:
        with naming(self._path):
            self._stream.write(json.dumps({"step": step, **_numbers(metrics)}) + "\n")
            self._stream.flush()

    def close(self) -> None:
        with naming(self._path):
            self._stream.close()


class VisualDLSink:
    """Writes records for `visualdl --logdir folder`: curves of the numbers, and the pictures.

    first_step: the step where this session starts; at 0, records of an earlier run in the folder are removed.
    """

    def __init__(self, folder: Path, *, first_step: int):
        from visualdl import LogWriter  # takes a second to import

        for file in folder.glob("vdlrecords.*") if first_step == 0 else ():
            file.unlink()
        self._writer = LogWriter(logdir=str(folder))

    def log(self, metrics: Metrics, step: int) -> None:
        for name, value in _printable_names(metrics).items():
            if isinstance(value, np.ndarray):
                self._writer.add_image(tag=name, img=value, step=step, dataformats="HWC")
            else:
                self._writer.add_scalar(tag=name, value=value, step=step)

    def close(self) -> None:
        self._writer.close()


class CsvSink:
    """Writes one line for each step with losses or an evaluation, for spreadsheets; a missing number is empty.

    Lines up to `first_step` are kept.
    """

    def __init__(self, path: Path, *, first_step: int):
        kept = [line for line in _lines(path)[1:] if line.endswith("\n") and int(line.partition(",")[0]) <= first_step]
        with atomic_writer(path, "w") as stream:
            stream.writelines([",".join(("step", *CSV_COLUMNS)) + "\n", *kept])
        self._path, self._stream = path, path.open("a", encoding="utf-8")

    def log(self, metrics: Metrics, step: int) -> None:
        numbers = _numbers(metrics)
        with naming(self._path):
            self._stream.write(",".join([str(step), *(str(numbers.get(name, "")) for name in CSV_COLUMNS)]) + "\n")
            self._stream.flush()

    def close(self) -> None:
        with naming(self._path):
            self._stream.close()


class TensorBoardSink:
    """Writes records for `tensorboard --logdir folder`. Raises ConfigError if tensorboardX is not installed."""

    def __init__(self, folder: Path, *, first_step: int):
        writer = _tracker("tensorboardX", "tensorboard").SummaryWriter
        self._writer = writer(str(folder), purge_step=first_step + 1 if first_step else None)

    def log(self, metrics: Metrics, step: int) -> None:
        for name, value in _printable_names(metrics).items():
            if isinstance(value, np.ndarray):
                self._writer.add_image(name, value, step, dataformats="HWC")
            else:
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class MLflowSink:
    """Sends metrics to MLflow: to the server MLFLOW_TRACKING_URI, or else into `folder`. Each session is one MLflow
    run.

    Raises ConfigError if MLflow is not installed.
    """

    def __init__(self, folder: Path, name: str):
        self._mlflow = _tracker("mlflow", "mlflow")
        if "MLFLOW_TRACKING_URI" not in os.environ:
            folder.mkdir(parents=True, exist_ok=True)
            self._mlflow.set_tracking_uri(f"sqlite:///{folder.absolute()}/mlflow.db")
        self._run = self._mlflow.start_run(run_name=name)

    def log(self, metrics: Metrics, step: int) -> None:
        self._mlflow.log_metrics(_numbers(_printable_names(metrics)), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


class WandbSink:
    """Sends metrics and pictures to Weights & Biases; WANDB_MODE=offline keeps them in `folder`.

    Raises ConfigError if wandb is not installed.
    """

    def __init__(self, folder: Path, name: str):
        self._wandb = _tracker("wandb", "wandb")
        self._run = self._wandb.init(project="ppsolo", name=name, dir=str(folder))

    def log(self, metrics: Metrics, step: int) -> None:
        shown = {
            name: self._wandb.Image(value) if isinstance(value, np.ndarray) else value
            for name, value in _printable_names(metrics).items()
        }
        self._run.log({**shown, "step": step})

    def close(self) -> None:
        self._run.finish()


def _tracker(module: str, extra: str) -> Any:
    """Import the module of a sink, or raise ConfigError that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ConfigError(
            f"train.sinks names {extra}, whose package is not installed: pip install 'ppsolo[{extra}]'"
        ) from None


def _printable_names(metrics: Metrics) -> Metrics:
    """Make the names of metrics storable for every tracker: a lone surrogate is not valid UTF-8."""
    return {one_line(name): value for name, value in metrics.items()}


def _numbers(metrics: Metrics) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not isinstance(value, np.ndarray)}


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []


def _step_of(line: str) -> float:
    """Return the step of a line; infinity if the line was cut off."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")
