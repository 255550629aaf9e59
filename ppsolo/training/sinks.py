"""The sinks of a run's metrics: console, JSON lines, CSV, VisualDL, TensorBoard, MLflow, Weights & Biases."""

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

from ppsolo.atomic import atomic_writer
from ppsolo.errors import ConfigError
from ppsolo.progress import Progress
from ppsolo.text import one_line, printable

CSV_COLUMNS = (
    *(f"train/{name}" for name in ("loss", "loss_mask", "loss_category", "learning_rate", "step_seconds")),
    *(f"train/{name}" for name in ("data_seconds", "epoch")),
    *(f"val/{kind}_{name}" for kind in ("segm", "bbox") for name in ("AP", "AP50", "AP75")),
)

# A number, or a picture: uint8 RGB [H, W, 3].
Metrics = Mapping[str, float | np.ndarray]


class Sink(Protocol):
    """Takes metrics; names are like "train/loss" or "val/segm_AP"."""

    def log(self, metrics: Metrics, step: int) -> None:
        """Take the metrics of a step."""
        ...

    def close(self) -> None:
        """Write what is still to be written; no `log` comes after it."""
        ...


class ConsoleSink:
    """Losses with rate and time left: a bar on a terminal, else a line each; and a line for every evaluation.

    stream: where to. first_step, total_steps: where this session starts, and how many steps the run has.
    """

    def __init__(self, stream: TextIO, *, first_step: int, total_steps: int):
        self._stream = stream
        self._total = total_steps
        self._live = stream.isatty()
        self._progress = Progress("train", total_steps, done=first_step, unit="steps", stream=stream, interval=0.0)

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
    """One JSON object a line, {"step": 120, "train/loss": ...}, pictures left out.

    Lines that are there already stay up to `first_step`: what came after it is about to be trained again.
    """

    def __init__(self, path: Path, *, first_step: int):
        with atomic_writer(path, "w") as stream:  # a run that is killed here keeps the lines that it had
            stream.writelines(line for line in _lines(path) if _step_of(line) <= first_step)
        self._stream = path.open("a", encoding="utf-8")

    def log(self, metrics: Metrics, step: int) -> None:
        self._stream.write(json.dumps({"step": step, **_numbers(metrics)}) + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


class VisualDLSink:
    """Records for `visualdl --logdir folder`: curves of the numbers, and the pictures.

    first_step: where this session starts; at 0 the records of an earlier run in the folder are removed.
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
    """One line a step with losses or an evaluation, for spreadsheets; empty where a step has no such number.

    Lines that are there already stay up to `first_step`.
    """

    def __init__(self, path: Path, *, first_step: int):
        kept = [line for line in _lines(path)[1:] if line.endswith("\n") and int(line.partition(",")[0]) <= first_step]
        with atomic_writer(path, "w") as stream:
            stream.writelines([",".join(("step", *CSV_COLUMNS)) + "\n", *kept])
        self._stream = path.open("a", encoding="utf-8")

    def log(self, metrics: Metrics, step: int) -> None:
        numbers = _numbers(metrics)
        self._stream.write(",".join([str(step), *(str(numbers.get(name, "")) for name in CSV_COLUMNS)]) + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


class TensorBoardSink:
    """Records for `tensorboard --logdir folder`. Raises ConfigError where tensorboardX is not installed."""

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
    """Metrics for MLflow, at the server of MLFLOW_TRACKING_URI, else in `folder`; each session is a run there.

    Raises ConfigError where MLflow is not installed.
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
    """Metrics and pictures for Weights & Biases; WANDB_MODE=offline keeps them in `folder`.

    Raises ConfigError where wandb is not installed.
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
    """The module, imported where a run asks for it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ConfigError(
            f"train.sinks names {extra}, whose package is not installed: pip install 'ppsolo[{extra}]'"
        ) from None


def _printable_names(metrics: Metrics) -> Metrics:
    """The metrics under names that every tracker can store: a lone surrogate is no UTF-8."""
    return {one_line(name): value for name, value in metrics.items()}


def _numbers(metrics: Metrics) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not isinstance(value, np.ndarray)}


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []


def _step_of(line: str) -> float:
    """Infinite for a line that was cut off."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")
