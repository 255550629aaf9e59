"""The demonstration: draws a data set, trains on it, evaluates, and writes figures and pictures."""

import dataclasses
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import numpy as np
import paddle
import yaml

import ppsolo
from ppsolo.atomic import atomic_writer
from ppsolo.build.network import build_model
from ppsolo.config import config_to_dict, load_config
from ppsolo.cpu import available_cores
from ppsolo.data.images import read_image, write_image
from ppsolo.data.synthetic import draw_dataset, draw_scene
from ppsolo.errors import ConfigError, TrainingError, UnavailableError
from ppsolo.evaluation.evaluate import evaluate_source
from ppsolo.evaluation.report import write_report
from ppsolo.model_source import ModelSource
from ppsolo.models.solov2 import SOLOv2
from ppsolo.outputs import check_output_folder
from ppsolo.predictor import Predictor
from ppsolo.progress import Progress
from ppsolo.results.instances import Instances
from ppsolo.results.labels import write_stamp
from ppsolo.schema import Config
from ppsolo.text import typed
from ppsolo.training.run import train
from ppsolo.training.state import RunDirectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

CONFIG = "demo"
PUBLISHED = "solov2_mobilenetv3_fpn_448_3x"
TRAIN_SCENES, VAL_SCENES = 800, 60
# For a run of one minute on two idle cores; it finds some shapes, not many.
QUICK_SCENES = (160, 16)
QUICK = {"train.epochs": 5, "train.evaluate_every": 5, "train.batch_size": 1, "train.schedule.warmup_steps": "auto"}
SHOWN_SEED = 2  # for the scenes in the pictures; the data set uses other seeds
SHOWN_SCENES, SHOWN_SIZE = 4, (360, 450)
LARGE_SIZE = (480, 640)
DRAWN_FROM = 0.5  # least score of a drawn instance
GPUS = "CUDA_VISIBLE_DEVICES"
PATIENCE = 30.0  # seconds for a training that is told to end
LAST_LINES = 3  # last lines of the launcher to show after a failure
STAMP = "UNTRAINED WEIGHTS: NOT A RESULT"  # on pictures drawn with such weights
PROCESSES = 2  # training processes on a CPU with at least as many cores
# Paddle's launcher, which ends its processes when the demo is gone. The first argument is the demo's process id.
LAUNCHER = """import os, runpy, signal, sys, threading, time

demo = int(sys.argv.pop(1))

def watch():
    while os.getppid() == demo:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=watch, daemon=True).start()
runpy.run_module("paddle.distributed.launch", run_name="__main__", alter_sys=True)
"""
SCRIPT = "import sys\n\nfrom ppsolo.cli import main\n\nsys.exit(main())\n"
PROGRESS = re.compile(r"epoch \d+, |step \d+: |\d+ steps trained")  # a run's lines among the launcher's lines
MARK = "made_by_ppsolo_demo.txt"
MARK_TEXT = "The next `ppsolo demo` into the folder above replaces run/ and draws into data/ again.\n"


class TrainingCurve(NamedTuple):
    """A run's log by minutes of training: dicts with "step", "minutes" and numbers; evaluations are separate."""

    losses: list[dict[str, float]]
    evaluations: list[dict[str, float]]


def run_demo(
    *,
    output_dir: Path,
    console: TextIO,
    image: str | os.PathLike[str] | None = None,
    scenes: tuple[int, int] | None = None,
    quick: bool = False,
    overrides: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Train the configuration `demo` on drawn scenes, and evaluate it on others.

    Writes into `output_dir`: demo.json (AP and curve), curve.png, predictions.png (new scenes next to the truth),
    scene.png and prediction.png. The data and the run are in training/; they replace those of an earlier demo.

    image: a photograph to predict on with a published system, written to photo_prediction.png; if its weights cannot
        be fetched, random weights are used. scenes: numbers of scenes to train and to evaluate on.
    quick: train for a minute; this shows that everything works, and finds little. overrides: of the configuration.
    console: shows the losses. progress: called with (bytes done, all bytes) while published weights are fetched.
    Returns lines that say what was done and where the results are. Raises PpsoloError.
    """
    start = time.monotonic()
    scenes = scenes or (QUICK_SCENES if quick else (TRAIN_SCENES, VAL_SCENES))
    overrides = {**(QUICK if quick else {}), **(overrides or {})}
    photo = None if image is None else read_image(image)
    check_output_folder(output_dir, "--output_dir")
    workplace = output_dir / "training"
    run = RunDirectory(workplace / "run")
    _clear(workplace, run)
    logger.info("drawing %d scenes to train on and %d to measure on", *scenes)
    draw_dataset(workplace / "data", train=scenes[0], val=scenes[1])
    own = {"name": run.path.name, "data.root": str(workplace / "data"), "train.output_dir": str(workplace)}
    config = load_config(CONFIG, {**overrides, **own})
    processes = _process_count()
    if processes == 1:
        train(config, console=console)
    else:
        _train_together(config, workplace, console, processes)

    config = dataclasses.replace(load_config(run.config_file), weights=str(run.last_weights))
    report = evaluate_source(ModelSource(config)).report
    curve = read_curve(run.log_file)
    write_image(output_dir / "curve.png", _draw_curve(curve, val_scenes=scenes[1]))
    seen = _draw_pictures(Predictor(config), output_dir)
    minutes = {"training": curve.losses[-1]["minutes"], "all": (time.monotonic() - start) / 60}
    ap, ap50, ap75 = report["segm"]["stats"][:3]
    counts = {"train": scenes[0], "val": scenes[1]}
    record = {"mask_ap": ap, "scenes": counts, "minutes": minutes, "curve": curve._asdict(), "report": report}
    write_report(record, output_dir / "demo.json")
    lines = [
        f"mask AP {100 * ap:.1f} (AP50 {100 * ap50:.1f}, AP75 {100 * ap75:.1f}) on {scenes[1]} scenes that were not "
        f"trained on, after {config.train.epochs} epochs of {scenes[0]}: {minutes['training']:.1f} minutes of "
        f"training, {minutes['all']:.1f} in all",
        f"{output_dir}: demo.json and curve.png (AP over time), predictions.png (new scenes next to the truth), "
        f"prediction.png ({seen}), training/ (data and run)",
        f"to continue with it: ppsolo infer -c {typed(run.config_file)} --infer_img {typed(output_dir / 'scene.png')}",
    ]
    if photo is not None:
        lines += _predict_photo(photo, output_dir / "photo_prediction.png", progress)
    return lines


def read_curve(log_file: Path) -> TrainingCurve:
    """Read the curve from a run's log.jsonl."""
    losses: list[dict[str, float]] = []
    evaluations: list[dict[str, float]] = []
    step, seconds, pace = 0, 0.0, 0.0
    for line in log_file.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        pace = record.get("train/step_seconds", pace)
        minutes = (seconds + (record["step"] - step) * pace) / 60
        at = {"step": record["step"], "minutes": minutes}
        if "train/loss" in record:
            step, seconds = record["step"], 60 * minutes
            losses.append(at | {n: record[f"train/{n}"] for n in ("loss", "loss_mask", "loss_category")})
        if "val/segm_AP" in record:
            evaluations.append(at | {n: record[f"val/segm_{n}"] for n in ("AP", "AP50", "AP75")})
    return TrainingCurve(losses, evaluations)


def seeded_model(seed: int) -> SOLOv2:
    """Return the published system's network with random weights of a seed, scaled so that it finds something."""
    paddle.seed(seed)
    model = build_model(load_config(PUBLISHED))
    # Initial class scores are all 0.01; larger weights spread them, so that some cells pass the threshold.
    paddle.nn.initializer.Normal(0.0, 0.05)(model.head.category.weight)
    paddle.nn.initializer.Normal(0.0, 0.05)(model.head.kernel.weight)
    return model


def _clear(workplace: Path, run: RunDirectory) -> None:
    """Create the folder of data and run, or remove an earlier demo's run from it, and nothing else."""
    try:
        if workplace.is_dir() and not (workplace / MARK).is_file() and any(workplace.iterdir()):
            raise ConfigError(f"{workplace} is not from an earlier demo and is kept; choose another --output_dir")
        workplace.mkdir(parents=True, exist_ok=True)
        (workplace / MARK).write_text(MARK_TEXT, encoding="utf-8")
        with run.held():
            run.clear()
    except OSError as error:
        raise ConfigError(f"{workplace}: cannot be created ({error.strerror}); choose another --output_dir") from None


def _process_count() -> int:
    """Number of training processes: one per visible GPU; without a GPU, PROCESSES if there are as many cores."""
    if paddle.device.get_device().startswith("gpu"):
        return max(1, paddle.device.cuda.device_count())
    return PROCESSES if available_cores() >= PROCESSES else 1


def _train_together(config: Config, workplace: Path, console: TextIO, processes: int) -> None:
    """Train with several processes that share the images; raise TrainingError if they fail."""
    file, script, logs = workplace / "run.yml", workplace / "train.py", workplace / "logs"
    for path, text in ((file, yaml.safe_dump(config_to_dict(config))), (script, SCRIPT)):
        with atomic_writer(path, "w") as stream:
            stream.write(text)
    launcher = [sys.executable, "-c", LAUNCHER, str(os.getpid()), "--nproc_per_node", str(processes)]
    command = [*launcher, "--log_dir", str(logs), str(script), "train", "-c", str(file)]
    with subprocess.Popen(
        command,
        env=_environment(processes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        said = deque(maxlen=LAST_LINES)
        try:
            for line in process.stdout:
                said.append(line.strip())
                if PROGRESS.match(line):
                    console.write(line)
                    console.flush()
        except KeyboardInterrupt:  # SIGTERM too, which the launcher would not get by itself
            process.terminate()
            _wait_or_kill(process)
            raise
    if process.returncode != 0:
        log = logs / "workerlog.0"
        why = f"{log} says why" if log.is_file() else f"Paddle's launcher says: {' | '.join(filter(None, said))}"
        raise TrainingError(f"training ended with exit code {process.returncode}: {why}")


def _wait_or_kill(launcher: subprocess.Popen[str]) -> None:
    """Wait until the launcher has ended; after Ctrl-C, `Popen` itself waits for a quarter of a second only."""
    try:
        launcher.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        launcher.kill()  # its processes notice this and stop


def _environment(processes: int) -> dict[str, str]:
    """The environment of the launcher."""
    path = os.pathsep.join([str(Path(ppsolo.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    threads = str(max(1, available_cores() // processes))
    own = {"PYTHONPATH": path, "OMP_NUM_THREADS": threads}
    if GPUS in os.environ and not paddle.device.get_device().startswith("gpu"):
        # The launcher counts the entries of this variable and fails if there are more processes. -1 means no GPU.
        own |= {GPUS: ",".join(["-1"] * processes), "PADDLE_DISTRI_BACKEND": "gloo"}
    return {**os.environ, **own}


def _draw_pictures(predictor: Predictor, output_dir: Path) -> Instances:
    """Write predictions.png, scene.png and prediction.png; return the instances in the last one."""
    rows = []
    for number in range(SHOWN_SCENES):
        scene = draw_scene(np.random.default_rng((SHOWN_SEED, number)), SHOWN_SIZE)
        single = ~scene.crowds
        truth = Instances.from_masks(
            scene.masks[single],
            scores=np.ones(int(single.sum()), np.float32),
            labels=scene.labels[single],
            class_names=predictor.class_names,
            category_ids=predictor.category_ids,
        )
        found = predictor(scene.image).draw(scene.image, score_threshold=DRAWN_FROM, color_by="class")
        rows.append([scene.image, found, truth.draw(scene.image, color_by="class", write_labels=False)])
    write_image(output_dir / "predictions.png", _contact_sheet(rows, captions=("scene", "predicted", "drawn")))
    pixels = draw_scene(np.random.default_rng((SHOWN_SEED, SHOWN_SCENES)), LARGE_SIZE).image
    write_image(output_dir / "scene.png", pixels)
    instances = predictor(pixels)
    write_image(output_dir / "prediction.png", instances.draw(pixels, score_threshold=DRAWN_FROM))
    return instances


def _draw_curve(curve: TrainingCurve, *, val_scenes: int) -> np.ndarray:
    """AP and losses over the minutes of training: uint8 RGB [440, 1240, 3]."""
    from matplotlib.figure import Figure  # takes half a second to import

    figure = Figure(figsize=(12.4, 4.4), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in ("AP", "AP50", "AP75"):
        points = curve.evaluations
        left.plot([p["minutes"] for p in points], [100 * p[name] for p in points], marker="o", label=name)
    for name, words in {"loss": "sum", "loss_mask": "mask", "loss_category": "category"}.items():
        right.plot([p["minutes"] for p in curve.losses], [p[name] for p in curve.losses], label=words)
    for axes, title in ((left, f"Mask AP on {val_scenes} unseen scenes"), (right, "Training loss")):
        axes.set(title=title, xlabel="minutes of training", ylim=(0, None))
        axes.grid(axis="y", alpha=0.4)
        axes.legend()
    return _pixels(figure)


def _contact_sheet(rows: Sequence[Sequence[np.ndarray]], *, captions: Sequence[str], gap: int = 12) -> np.ndarray:
    """Put pictures of one size, uint8 RGB [h, w, 3], in rows on white, with a caption above each column."""
    from matplotlib.figure import Figure

    head = 44  # pixels of the captions
    height, width = rows[0][0].shape[:2]
    full = (head + len(rows) * (height + gap), len(captions) * (width + gap) + gap)
    figure = Figure(figsize=(full[1] / 100, full[0] / 100), dpi=100)
    for column, caption in enumerate(captions):
        left = gap + column * (width + gap)
        figure.text(left / full[1], 1 - (head - 14) / full[0], caption, fontsize=14)
        for row, pictures in enumerate(rows):
            figure.figimage(pictures[column], left, full[0] - head - row * (height + gap) - height)
    return _pixels(figure)


def _pixels(figure: "Figure") -> np.ndarray:
    """uint8 RGB [height, width, 3]"""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _predict_photo(photo: np.ndarray, target: Path, progress: Progress | None) -> list[str]:
    """Draw the published system's result for a photograph; if its weights cannot be fetched, say so."""
    try:
        predictor = Predictor.from_pretrained(PUBLISHED, progress=progress)
        lines, trained = [predictor.origin], True
    except UnavailableError as error:
        predictor, trained = Predictor(PUBLISHED, model=seeded_model(seed=0)), False
        lines = [
            f"the published weights for the photograph cannot be fetched: {error}",
            "random weights are used instead: the masks show that network, postprocessing and drawing run, not what a "
            "trained SOLOv2 finds (the network of this demo knows only drawn shapes)",
        ]
    instances = predictor(photo)
    drawn = instances.draw(photo, score_threshold=DRAWN_FROM if trained else 0.0)
    if not trained:
        write_stamp(drawn, STAMP)
    write_image(target, drawn)
    return [*lines, f"{instances} -> {target}"]
