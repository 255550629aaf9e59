"""A training run: build, load or resume, train and write everything that a configuration describes."""

import dataclasses
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TextIO

import paddle

from ppsolo.build.training import build_dataset, build_loader, build_trainer
from ppsolo.checkpoint.load import load_pretrained
from ppsolo.checkpoint.load_backbone import load_backbone
from ppsolo.checkpoint.writer import write_checkpoint
from ppsolo.config import config_to_dict
from ppsolo.cpu import default_threads, keep_freed_memory, use_threads
from ppsolo.data.coco import CocoDataset
from ppsolo.errors import ConfigError, TrainingError
from ppsolo.evaluation.evaluate import EvaluationSet, with_classes
from ppsolo.formats.data_config import data_in_place
from ppsolo.legacy.names import DYGRAPH, STATIC
from ppsolo.models.solov2 import SOLOv2
from ppsolo.outputs import check_output_folder
from ppsolo.processes import Processes, start_processes
from ppsolo.progress import Progress
from ppsolo.schema import Config
from ppsolo.text import all_counted, typed
from ppsolo.training.model_card import model_card, read_licenses
from ppsolo.training.sinks import (
    ConsoleSink,
    CsvSink,
    JsonLinesSink,
    MLflowSink,
    Sink,
    TensorBoardSink,
    VisualDLSink,
    WandbSink,
)
from ppsolo.training.state import RunDirectory, TrainingState, check_same_run, read_state, write_config
from ppsolo.training.stop_request import StopRequest, TrainingInterrupted, launcher_id
from ppsolo.training.sync_norms import check_sync_norms
from ppsolo.training.trainer import Trainer

logger = logging.getLogger(__name__)

AUTO = "auto"
LOW_AP = 0.01
LOW_AP_ADVICE = (
    "The model has learned almost nothing: check the data (ppsolo check-data), start from published weights "
    "(-o weights=...), train longer (-o train.epochs=...), or use the settings of `ppsolo suggest` for the data"
)


@dataclasses.dataclass(frozen=True)
class TrainingSummary:
    """The result of a run. best_ap: in [0, 1], -1 without evaluation."""

    directory: Path
    steps: int
    best_ap: float

    def __str__(self) -> str:
        text = f"{self.steps} steps trained; {self.directory}/last.pdparams holds the weights"
        if self.best_ap < 0:
            return text
        text += f", best.pdparams those with mask AP {100 * self.best_ap:.1f}"
        return text if self.best_ap >= LOW_AP else f"{text}. {LOW_AP_ADVICE}"


def train(
    config: Config,
    *,
    resume: str | None = None,
    console: TextIO | None = None,
    download: Progress | None = None,
    stop: StopRequest | None = None,
) -> TrainingSummary:
    """Train what `config` describes, alone or together with the other processes of the launcher.

    resume: the file of a training state, or "auto": the newest whole state in the run's directory, or a new run if
        there is none. console: shows losses; None: silent. stop: a request to end early, already entered; None: `train`
        makes one. download: called with (bytes done, all bytes) while published weights are fetched.
    Raises PpsoloError, one line that says what is missing, broken or does not fit; TrainingInterrupted after Ctrl-C,
    SIGTERM or the launcher's death, once a state is written.
    """
    own = StopRequest(launcher=launcher_id(), console=console) if stop is None else nullcontext(stop)
    with own as stop:
        stop.listen()
        processes = start_processes()
        set_up_cpu()
        directory = Path(config.train.output_dir) / config.name
        if processes.is_main:
            check_output_folder(directory, "train.output_dir")
        data = data_in_place(config.data, directory / "annotations", needed="train")
        config = dataclasses.replace(config, data=data)
        dataset = build_dataset(config)
        config = training_classes(config, dataset)
        run = RunDirectory(directory)
        with run.held() if processes.is_main else nullcontext():
            processes.gather(None)  # the previous holder of the directory has now written its last state
            trainer = _train_in(run, config, dataset, processes, resume, console, download, stop)
    if trainer.stopped:
        assert stop.signal_number is not None
        command = f"ppsolo train -c {typed(run.config_file)} -r auto"
        again = command if processes.world_size == 1 else "the same command and -r auto"
        raise TrainingInterrupted(
            f"{stop.reason} after {trainer.step} steps, in epoch {trainer.epoch + 1}; a state is written: continue "
            f"with {again}",
            stop.signal_number,
        )
    return TrainingSummary(run.path, trainer.step, trainer.best_ap)


def _train_in(
    run: RunDirectory,
    config: Config,
    dataset: CocoDataset,
    processes: Processes,
    resume: str | None,
    console: TextIO | None,
    download: Progress | None,
    stop: StopRequest,
) -> Trainer:
    """Train in a run directory that this process or the main process holds."""
    identity = _identity(config, dataset, processes)
    validation_set = _validation_set(config)
    resumed = _state_to_resume(run, resume)
    if resumed is None:
        refuse_frozen_random_norms(config)
    else:
        check_same_run(resumed.record, identity)
    steps = set(processes.gather(None if resumed is None else resumed.record["step"]))
    if len(steps) > 1:
        raise TrainingError(f"the processes see different checkpoints (steps {steps}): put {run.path} where all see it")
    loader = build_loader(config, dataset, rank=processes.rank, world_size=processes.world_size)
    logger.info("%s to train on", _sizes(dataset, config))
    sinks: list[Sink] = []
    try:
        if processes.is_main:
            run.prepare(config, config.class_names)
            first_step = 0 if resumed is None else resumed.record["step"]
            total_steps = loader.batches_per_epoch // config.train.accumulate * config.train.epochs
            sinks += _open_sinks(run, config, console, first_step=first_step, total_steps=total_steps)
        trainer = build_trainer(
            config,
            loader,
            processes,
            validation_set=validation_set,
            checkpoint=CheckpointWriter(run, identity=identity, keep=config.train.keep_checkpoints),
            sinks=sinks,
            console=console if processes.is_main else None,
            stop=stop,
        )
        if resumed is None:
            load_start(trainer.model, config, download)
        else:
            trainer.load_state(resumed)
            logger.info("resumed after step %d, in epoch %d", trainer.step, trainer.epoch + 1)
        processes.share_weights(trainer.model)
        check_sync_norms(trainer.model, processes)
        stop.defer()
        trainer.fit()
        if processes.is_main:
            licenses = read_licenses(Path(config.data.root) / config.data.train_annotations)
            card = model_card(
                config, images=len(dataset), instances=dataset.instances, log_file=run.log_file, licenses=licenses
            )
            run.write_card(card)
    finally:
        loader.close()
        for sink in sinks:
            sink.close()
    return trainer


def _open_sinks(
    run: RunDirectory, config: Config, console: TextIO | None, *, first_step: int, total_steps: int
) -> list[Sink]:
    sinks: list[Sink] = []
    if console is not None:
        sinks.append(ConsoleSink(console, first_step=first_step, total_steps=total_steps))
    sinks.append(JsonLinesSink(run.log_file, first_step=first_step))
    sinks.append(CsvSink(run.csv_file, first_step=first_step))
    for name in config.train.sinks:
        if name == "visualdl":
            sinks.append(VisualDLSink(run.visualdl, first_step=first_step))
        elif name == "tensorboard":
            sinks.append(TensorBoardSink(run.path / name, first_step=first_step))
        elif name == "mlflow":
            sinks.append(MLflowSink(run.path / name, config.name))
        else:
            sinks.append(WandbSink(run.path, config.name))
    return sinks


class CheckpointWriter:
    """Called by the trainer: writes a training state and the newest weights, or the best weights.

    identity: compared by `check_same_run` on resume. keep: number of training states to keep.
    """

    def __init__(self, run: RunDirectory, *, identity: Mapping[str, Any], keep: int):
        self.run = run
        self.identity = identity
        self.keep = keep

    def __call__(self, trainer: Trainer, best: bool) -> None:
        if not trainer.processes.is_main:
            return
        if best:
            self._write_weights(trainer, self.run.best_weights)
            return
        # Weights first: if the run is killed between the two, every state still has its weights.
        self._write_weights(trainer, self.run.last_weights)
        state = trainer.state()
        state = TrainingState(state.arrays, {**state.record, **self.identity})
        self.run.add_state(state, step=trainer.step, keep=self.keep)

    def _write_weights(self, trainer: Trainer, file: Path) -> None:
        """Write the weights, and next to them the configuration with the class names, a file in .yml."""
        write_config(self.identity["config"], file.with_suffix(".yml"))
        write_checkpoint(trainer.published_weights(), file)


def load_start(model: SOLOv2, config: Config, download: Progress | None = None) -> None:
    """Load the start of training (a whole checkpoint, a backbone, or nothing), and say in the log which one."""
    if config.weights is not None:
        report = load_pretrained(model, config.weights, allow_other_classes=True, progress=download)
    elif config.pretrained_backbone is not None:
        preferred = DYGRAPH if config.preprocess.normalize_first else STATIC
        report = load_backbone(model, config.pretrained_backbone, preferred=preferred, progress=download)
    else:
        report = "training starts from random weights (set weights or pretrained_backbone to start from others)"
    logger.info("%s", report)


def refuse_frozen_random_norms(config: Config) -> None:
    """Raise ConfigError if training starts from random weights while the backbone's norms are frozen."""
    random = config.weights is None and config.pretrained_backbone is None
    if random and config.model.backbone.freeze_norm and config.model.backbone.norm != "gn":
        raise ConfigError(
            f"{config.name}: the backbone starts from random weights and cannot learn, because its norms are frozen: "
            "set weights or pretrained_backbone; or, to train everything from random weights, "
            "model.backbone.freeze_norm=false and model.backbone.frozen_stages=-1"
        )


def set_up_cpu() -> None:
    """On a CPU: let kernels use all cores of the process, and keep freed memory."""
    if paddle.device.get_device() == "cpu":
        use_threads(default_threads())
        keep_freed_memory()


def training_classes(config: Config, dataset: CocoDataset) -> Config:
    """The configuration with the data set's classes. Raises ConfigError if they do not fit."""
    source = Path(config.data.root) / config.data.train_annotations
    config = with_classes(
        config, category_ids=dataset.category_ids, class_names=dataset.class_names, source=source, order_of_file=True
    )
    if config.category_ids != dataset.category_ids:
        raise ConfigError(
            f"{source}: training takes the categories in the order of the file: set "
            f"category_ids={list(dataset.category_ids)}"
        )
    return config


def _sizes(dataset: CocoDataset, config: Config) -> str:
    sizes = (len(dataset), "image"), (dataset.instances, "instance"), (config.num_classes, "class")
    return all_counted(*sizes)


def _validation_set(config: Config) -> EvaluationSet | None:
    data = config.data
    if not data.val_annotations or config.train.evaluate_every == 0:
        return None
    dataset = EvaluationSet(Path(data.root) / data.val_annotations, Path(data.root) / data.val_images)
    with_classes(config, category_ids=dataset.category_ids, class_names=dataset.class_names, source=dataset.source)
    return dataset


def _state_to_resume(run: RunDirectory, resume: str | None) -> TrainingState | None:
    if resume is None:
        run.refuse_another_run()
        return None
    if resume != AUTO:
        return read_state(Path(resume))
    newest = run.newest_state()
    if newest is None:
        logger.info("no checkpoint in %s: a new run starts", run.path)
        return None
    path, state = newest
    logger.info("resuming from %s", path)
    return state


def _identity(config: Config, dataset: CocoDataset, processes: Processes) -> dict[str, object]:
    """Return everything that must be the same on resume; see `check_same_run`."""
    return {
        "config": config_to_dict(config),
        "world_size": processes.world_size,
        "dataset": f"{len(dataset)} images {dataset.digest()[:12]}",
    }
