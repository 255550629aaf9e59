"""The public functions train, evaluate, export and load; each takes a configuration or a directory."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ppsolo.config import Config, Overrides, load_answering_config, load_config, override_config
from ppsolo.errors import ConfigError, ExportError
from ppsolo.pipeline import Pipeline

if TYPE_CHECKING:
    from ppsolo.deploy.export import Export
    from ppsolo.deploy.runtime import ExportedPredictor
    from ppsolo.evaluation.evaluate import Evaluation
    from ppsolo.predictor import Predictor
    from ppsolo.training.run import TrainingSummary

ConfigSource = Config | str | os.PathLike[str]


def train(config: ConfigSource, overrides: Overrides = (), *, resume: str | None = None) -> "TrainingSummary":
    """Train or fine-tune in this process, like `ppsolo train`; losses go to the logger "ppsolo".

    Args:
        config: a configuration, its file, or the name of a shipped one.
        overrides: as for `load_config`: ["train.epochs=12"] or {"train.epochs": 12}.
        resume: a training state's file, or "auto" for the newest one of the run.

    Returns the run's directory, its steps and its best AP. Raises PpsoloError: one line with the remedy.

    >>> import ppsolo
    >>> summary = ppsolo.train("mine.yml", ["train.epochs=1"])
    >>> str(summary.directory), summary.steps > 0
    ('output/mine', True)
    """
    from ppsolo.training.run import train as train_config

    return train_config(_resolved(config, overrides, answers=False), resume=resume)


def evaluate(
    model: ConfigSource | Pipeline,
    overrides: Overrides = (),
    *,
    annotations: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    batch_size: int = 1,
    max_detections: int = 100,
) -> "Evaluation":
    """Measure average precision on a COCO data set, like `ppsolo eval`.

    Args:
        model: a configuration with weights, or a predictor (`Predictor`, or a result of `load`).
        overrides: of a configuration, as for `load_config`.
        annotations, images: a COCO file, and the folder that its file names are relative to. Default: those of the
            configuration (`data.val_annotations`, `data.val_images`). A predictor needs both.
        batch_size: images per run of the network.
        max_detections: number of detections per image and class that count, the best ones. Give more for large images
            with more objects.

    Returns `Evaluation`: `.report["segm"]["stats"][0]` is the mask AP, in [0, 1]. Raises PpsoloError.

    >>> import ppsolo
    >>> evaluation = ppsolo.evaluate("output/mine/config.yml")
    >>> 0 <= evaluation.report["segm"]["stats"][0] <= 1
    True
    """
    from ppsolo.evaluation.evaluate import EvaluationSet, evaluate_source
    from ppsolo.evaluation.evaluate import evaluate as evaluate_predictor
    from ppsolo.model_source import ModelSource

    if (annotations is None) != (images is None):
        raise ConfigError("annotations and images go together: give both")
    if isinstance(model, Pipeline):
        if annotations is None or images is None:
            raise ConfigError("a predictor has no data set: give annotations and images")
        dataset = EvaluationSet(Path(annotations), Path(images))
        return evaluate_predictor(model, dataset, batch_size=batch_size, max_detections=max_detections)
    config = _resolved(model, overrides)
    if annotations is not None and images is not None:
        files = {
            "data.root": ".",
            "data.val_annotations": str(Path(annotations).absolute()),
            "data.val_images": str(Path(images).absolute()),
        }
        config = override_config(config, files)
    return evaluate_source(ModelSource(config), batch_size=batch_size, max_detections=max_detections)


def export(
    config: ConfigSource,
    directory: str | os.PathLike[str],
    overrides: Overrides = (),
    *,
    weights: str | os.PathLike[str] | None = None,
    format: Literal["paddle", "onnx"] = "paddle",
    graph: Literal["whole", "network"] = "whole",
    device: Literal["cpu", "gpu"] = "cpu",
    input_shape: Sequence[int] = (-1, 3, -1, -1),
    verify: bool = True,
) -> "Export":
    """Write a model for static-graph inference and verify it, like `ppsolo export`.

    Args:
        config, overrides: see `train`.
        directory: appears whole or not at all. An export in this place is replaced; anything else is refused.
        weights: a checkpoint file or a published name; None: the configuration's own `weights`.
        format: "paddle" for Paddle Inference, "onnx" for onnxruntime and OpenVINO.
        graph: "whole" includes postprocessing; "network" gives raw predictions, which numpy postprocesses.
        device: the device that the graph is fastest on; it runs on both.
        input_shape: N, 3, H, W of the prepared images; -1 leaves a side open.
        verify: compare with the model on drawn scenes; an export that differs is removed.

    Raises PpsoloError.

    >>> import ppsolo
    >>> written = ppsolo.export("output/mine/config.yml", "output/mine_onnx", format="onnx", graph="network")
    >>> written.verification.trusted
    True
    """
    from ppsolo.deploy.directory import check_place
    from ppsolo.deploy.export import card_of, checkpoint_facts, export_model
    from ppsolo.predictor import load_model

    check_place(Path(directory))  # check now, before minutes of work
    resolved = _resolved(config, overrides)
    source = os.fspath(weights) if weights is not None else str(resolved.weights)
    model, _ = load_model(resolved, weights)
    return export_model(
        model,
        resolved,
        directory,
        format=format,
        graph=graph,
        device=device,
        input_shape=tuple(input_shape),
        checkpoint=checkpoint_facts(source),
        model_card=card_of(source),
        verify_export=verify,
    )


def load(
    directory: str | os.PathLike[str], *, threads: int | None = None, keep_memory: bool = True
) -> "ExportedPredictor | Predictor":
    """Load the predictor in a directory: an export of `ppsolo export`, or a finished training run.

    An export runs in its own runtime, on the CPU (`ppsolo.deploy.load` has all options). A run predicts with its best
    weights, or with the last ones if no evaluation found a best.

    threads, keep_memory: see `Predictor`. Raises PpsoloError if the directory is neither, or is damaged.

    >>> import ppsolo
    >>> predictor = ppsolo.load("output/mine_onnx")
    >>> instances = predictor("street.png")
    >>> instances.size
    (48, 64)
    """
    place = Path(directory)
    if not place.is_dir():
        raise ExportError(_no_directory(place))
    if (place / "infer_cfg.yml").is_file():
        from ppsolo.deploy.runtime import load as load_export

        return load_export(place, threads=threads, keep_memory=keep_memory)
    from ppsolo.predictor import Predictor, files_of_run

    config, weights = files_of_run(place)
    return Predictor(config, weights=weights, threads=threads, keep_memory=keep_memory)


def _no_directory(place: Path) -> str:
    """Return what to do instead of loading something that is no directory."""
    from ppsolo.checkpoint.zoo import ZOO

    if place.exists():
        return f"{place} is a file: give its folder, ppsolo.load({str(place.parent)!r})"
    if str(place) in ZOO:
        return f"{place} is a published system: ppsolo.Predictor.from_pretrained({str(place)!r}) opens it"
    return f"{place}: no such directory: give one that `ppsolo export` or `ppsolo train` wrote, such as output/mine"


def _resolved(config: ConfigSource, overrides: Overrides, *, answers: bool = True) -> Config:
    """answers: whether it must predict, with the weights of the run that it belongs to."""
    if isinstance(config, Config):
        return override_config(config, overrides)
    return load_answering_config(Path(config), overrides) if answers else load_config(Path(config), overrides)
