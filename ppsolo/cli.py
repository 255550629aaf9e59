"""The command line: `ppsolo <command>`: parse, call one function, set the exit code."""

import argparse
import contextlib
import dataclasses
import importlib
import io
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ppsolo
from ppsolo.config import load_config
from ppsolo.cpu import available_cores
from ppsolo.errors import ConfigError, PpsoloError

if TYPE_CHECKING:
    from ppsolo.checkpoint.zoo import ZooEntry
    from ppsolo.config import Config

OK, SOME_FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 (some inputs failed), 2 (refused), 130 (interrupted)."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    # A line of our own says what is wrong with a picture or a video; those of the libraries would drown it.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        return options.run(options)
    except PpsoloError as error:
        _say_error(str(error))
        return REFUSED
    except OSError as error:  # a full disk, say
        _say_error(f"{error.filename or 'a file'}: {error.strerror or error}")
        return REFUSED
    except KeyboardInterrupt:
        _say_error("interrupted")
        return INTERRUPTED


def infer(options: argparse.Namespace) -> int:
    """Predict on an image, a directory, a glob pattern or a video."""
    config = load_config(options.config, options.override)
    if not 0.0 <= options.draw_threshold <= 1.0:
        raise ConfigError(f"--draw_threshold is {options.draw_threshold}, give a number from 0 to 1")
    if options.batch_size < 1:
        raise ConfigError(f"--batch_size is {options.batch_size}, give at least 1")
    _import_paddle()
    from ppsolo.data.images import expand_images, list_images
    from ppsolo.data.videos import is_video
    from ppsolo.infer import infer_images, infer_video, make_output_dir
    from ppsolo.predictor import Predictor
    from ppsolo.progress import Progress

    # What is to be read and where to write is looked for before the weights are loaded: a wrong path is found at once.
    source = options.infer_img or options.infer_dir
    video = options.infer_dir is None and is_video(source) and Path(source).is_file()
    paths = [] if video else list_images(source) if options.infer_dir else expand_images(source)
    output_dir = Path(options.output_dir)
    make_output_dir(output_dir, apart_from=[Path(source)] if video else paths)

    with Progress("download", unit="B") as progress:
        predictor = Predictor(config, progress=progress.update)
    _say(str(predictor.load_report))
    _say(predictor.description)
    settings = {
        "output_dir": output_dir,
        "draw_threshold": options.draw_threshold,
        "batch_size": options.batch_size,
        "save_results": options.save_results,
    }
    with Progress("predict", unit="frames" if video else "images") as progress:
        if video:
            summary = infer_video(predictor, Path(source), **settings, progress=progress.update)
        else:
            summary = infer_images(predictor, paths, **settings, progress=progress.update)
    for failure in summary.failures:
        _say_error(failure)
    where = f"those of at least {options.draw_threshold} are drawn in {options.output_dir}"
    _say(f"{summary.instances} instances in {summary.images} images; {where}")
    return SOME_FAILED if summary.failures else OK


def benchmark(options: argparse.Namespace) -> int:
    """Time predictors, exported directories and peers side by side on one picture."""
    configs = [
        load_config(
            options.config, [*options.override, *([] if most is None else [f"postprocess.max_instances={most}"])]
        )
        for most in options.instances or [None]
    ]
    if options.repeats < 1 or options.warm_up < 0:
        raise ConfigError("--repeats takes at least 1, --warm_up at least 0")
    if not any(Path(side).is_dir() for side in options.sides):
        _refuse_device(options, "none of --sides is an exported directory")
    _import_paddle()
    from ppsolo.benchmark.prediction import Side, benchmark_curve, write_benchmark
    from ppsolo.cpu import default_threads
    from ppsolo.progress import Progress

    points = [
        [
            Side(
                name,
                config,
                options.image,
                batch=batch,
                threads=threads,
                height=height,
                device=options.device,
                precision=options.precision,
            )
            for name in [*options.sides, *options.peer]
        ]
        for config in configs
        for batch in options.batch
        for threads in options.threads or [default_threads()]
        for height in options.height or [None]
    ]
    with Progress("benchmark", unit="points") as progress:
        reports = benchmark_curve(points, repeats=options.repeats, warm_up=options.warm_up, progress=progress.update)
    for line in write_benchmark(reports, Path(options.output)):
        _say(line)
    return OK


def demo(options: argparse.Namespace) -> int:
    """Draw a data set, train a small network on it, measure it, and leave numbers and pictures."""
    _import_paddle()
    from ppsolo.demo import run_demo
    from ppsolo.progress import Progress

    logging.getLogger("ppsolo").setLevel(logging.INFO)
    with Progress("download", unit="B") as progress:
        lines = run_demo(
            output_dir=Path(options.output_dir), console=sys.stderr, image=options.image, progress=progress.update
        )
    for line in lines:
        _say(line)
    return OK


def serve(options: argparse.Namespace) -> int:
    """Answer over HTTP: POST a picture to /predict, or try the page at /."""
    if (options.config is None) == (options.model_dir is None):
        raise ConfigError("what is to be served? Give a configuration (-c) or an exported directory (--model_dir)")
    if options.config is not None:
        _refuse_device(options, "give an exported directory (--model_dir)")
    config = None if options.config is None else load_config(options.config, options.override)
    _import_paddle()
    try:
        from ppsolo.serve.server import Server, listen
        from ppsolo.serve.service import Limits, create_app
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed: pip install 'ppsolo[serve]'") from None
    limits = Limits(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Limits)})
    listener = listen(options.host, options.port)  # before the weights are loaded: a wrong port is found at once
    if config is not None:
        from ppsolo.predictor import Predictor
        from ppsolo.progress import Progress

        with Progress("download", unit="B") as progress:
            predictor = Predictor(config, keep_memory=False, progress=progress.update)
        _say(str(predictor.load_report))
    else:
        from ppsolo.deploy import load

        predictor = load(options.model_dir, device=options.device, precision=options.precision, keep_memory=False)
    _say(predictor.description)
    name = predictor.config.name
    host, port = listener.getsockname()[:2]
    _say(f"{name} answers on http://{f'[{host}]' if ':' in host else host}:{port}/")
    sys.stdout.flush()
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of what is refused anyway
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(OK))  # what follows the server's orderly end
    Server(create_app(predictor, model=name, limits=limits)).run(sockets=[listener])
    return OK


def train(options: argparse.Namespace) -> int:
    """Train or fine-tune, alone or under `python -m paddle.distributed.launch`."""
    config = load_config(options.config, options.override)
    _import_paddle()
    from ppsolo.progress import Progress
    from ppsolo.training.run import train as run_training

    if os.environ.get("PADDLE_TRAINER_ID", "0") == "0":
        logging.getLogger("ppsolo").setLevel(logging.INFO)
    with Progress("download", unit="B") as progress:
        summary = run_training(config, resume=options.resume, console=sys.stderr, download=progress.update)
    _say(str(summary))
    return OK


def evaluate(options: argparse.Namespace) -> int:
    """Average precision on COCO annotations, of a model or (--json_eval) of results made elsewhere."""
    from ppsolo.evaluation.report import format_report, write_report

    if options.json_eval is not None:
        if options.annotations is None:
            raise ConfigError("--json_eval needs the annotations it is compared with: add --annotations FILE")
        from ppsolo.evaluation.coco_evaluator import evaluate_results

        report = evaluate_results(options.annotations, options.json_eval)
    else:
        if options.config is None:
            raise ConfigError("nothing to evaluate: give a configuration (-c), or results (--json_eval)")
        if options.batch_size < 1:
            raise ConfigError(f"--batch_size is {options.batch_size}, give at least 1")
        config = load_config(options.config, options.override)
        _import_paddle()
        report = _evaluate_model(config, options)
        if report is None:
            return OK
    _say(format_report(report, per_class=options.classwise))
    if options.report is not None:
        write_report(report, options.report)
    return OK


def _evaluate_model(config: "Config", options: argparse.Namespace) -> dict[str, Any] | None:
    """The report, on the main process; None on the others."""
    from ppsolo.evaluation.evaluate import evaluate_config, write_results
    from ppsolo.processes import start_processes
    from ppsolo.progress import Progress

    processes = start_processes()
    with Progress("download", unit="B") as download, Progress("evaluate") as progress:
        evaluation = evaluate_config(
            config,
            batch_size=options.batch_size,
            keep_results=options.save_results,
            processes=processes,
            download=download.update,
            progress=progress.update,
        )
    if not processes.is_main:
        return None
    _say(str(evaluation.load_report))
    _say(evaluation.description)
    if options.save_results:
        path = Path(options.output_dir) / "predictions.json"
        write_results(evaluation.results, path)
        _say(f"{len(evaluation.results)} results written to {path}")
    return evaluation.report


def check_data(options: argparse.Namespace) -> int:
    """Read a COCO data set and say what would go wrong in training, and which settings would suit it."""
    from ppsolo.atomic import atomic_writer
    from ppsolo.check.dataset import check_dataset
    from ppsolo.check.report import format_data_report
    from ppsolo.progress import Progress

    config = load_config(options.config, options.override)
    augment = config.train.augment
    with Progress("check") as progress:
        report = check_dataset(
            options.annotations,
            options.images,
            short_side=max(augment.short_sides),
            long_side=augment.long_side,
            num_grids=config.model.head.num_grids,
            scale_ranges=[(lowest, highest) for lowest, highest in config.train.targets.scale_ranges],
            num_classes=config.num_classes,
            round_sides=config.preprocess.round_sides,
            box_convention=config.data.box_convention,
            progress=progress.update,
        )
    _say(format_data_report(report))
    if options.json is not None:
        with atomic_writer(options.json, "w") as stream:
            json.dump(report.to_json(), stream, indent=1)
    return OK if report.ok else SOME_FAILED


def zoo(options: argparse.Namespace) -> int:
    """List the published checkpoints, fetch one, check a file against one's manifest, or measure one's AP."""
    from ppsolo.checkpoint.reader import read_checkpoint
    from ppsolo.checkpoint.zoo import ZOO, check_manifest, zoo_entry
    from ppsolo.progress import Progress

    if options.action == "list":
        _say(f"{'name':38} {'generation':12} {'mask AP':>8} {'ms':>6}  device  (published, not reproduced)")
        for entry in ZOO.values():
            _say(
                f"{entry.name:38} {entry.generation:12} {entry.mask_ap or '-':>8} "
                f"{entry.latency_ms or '-':>6}  {entry.latency_device or ''}"
            )
        return OK
    entry = zoo_entry(options.name)
    if options.action == "verify":
        return _verify(entry, Path(options.data))
    if options.action == "fetch":
        _import_paddle()
        from ppsolo.checkpoint.load import read_published

        with Progress(entry.name, unit="B") as progress:
            path, _ = read_published(entry.name, progress=progress.update)
        _say(str(path))
    else:
        check_manifest(read_checkpoint(options.file), entry, Path(options.file).name)
        _say(f"{options.file} holds what {entry.name} must hold")
    return OK


def _verify(entry: "ZooEntry", coco: Path) -> int:
    """Print the published and the measured AP side by side; SOME_FAILED if they are too far apart."""
    files = {
        "weights": entry.name,
        "data.root": str(coco),
        "data.val_annotations": "annotations/instances_val2017.json",
        "data.val_images": "val2017",
    }
    config = load_config(entry.config, files)
    _import_paddle()
    from ppsolo.evaluation.evaluate import compare_with_published, evaluate_config
    from ppsolo.evaluation.report import format_report
    from ppsolo.progress import Progress

    with Progress("download", unit="B") as download, Progress(entry.name) as progress:
        report = evaluate_config(config, download=download.update, progress=progress.update).report
    _say(format_report(report))
    line, agrees = compare_with_published(entry, report)
    _say(line)
    return OK if agrees else SOME_FAILED


def convert(options: argparse.Namespace) -> int:
    """Write a checkpoint under the names of PaddleDetection 2.x, or under ppsolo's."""
    config = load_config(options.config, options.override)
    _import_paddle()
    from ppsolo.checkpoint.load import save_weights
    from ppsolo.predictor import Predictor
    from ppsolo.progress import Progress

    if Path(options.output).suffix not in (".pdparams", ".safetensors"):
        raise ConfigError(f"--output {options.output}: end it in .pdparams or .safetensors")
    if config.weights is not None and Path(options.output).resolve() == Path(config.weights).resolve():
        raise ConfigError(f"--output {options.output} is the file to be read; choose another")
    with Progress("download", unit="B") as progress:
        predictor = Predictor(config, progress=progress.update)
    save_weights(predictor.model, options.output, generation=options.names)
    _say(f"{predictor.load_report}; written to {options.output} under the names of {options.names}")
    return OK


def export(options: argparse.Namespace) -> int:
    """Write a model for Paddle Inference or onnxruntime, and verify what was written."""
    config = load_config(options.config, options.override)
    _import_paddle()
    from ppsolo.deploy.directory import check_place
    from ppsolo.deploy.export import checkpoint_facts, export_model
    from ppsolo.predictor import Predictor
    from ppsolo.progress import Progress

    check_place(Path(options.output_dir))  # before minutes of work
    with Progress("download", unit="B") as progress:
        predictor = Predictor(config, progress=progress.update)
    _say(str(predictor.load_report))
    written = export_model(
        predictor.model,
        config,
        options.output_dir,
        format=options.format,
        graph=options.graph,
        device=options.device,
        input_shape=options.input_shape,
        checkpoint=checkpoint_facts(str(config.weights)),
        verify_export=options.verify,
    )
    _say(str(written))
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ppsolo", description="SOLOv2 instance segmentation, native to PaddlePaddle.")
    parser.add_argument("--version", action="version", version=f"ppsolo {ppsolo.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")

    command = _command(commands, "infer", infer)
    _add_config(command)
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--infer_img", metavar="PATH", help="an image, a glob pattern in quotes, or a video")
    source.add_argument("--infer_dir", metavar="DIR", help="a directory of images")
    command.add_argument("--output_dir", default="output/infer", metavar="DIR", help="default: %(default)s")
    command.add_argument(
        "--draw_threshold",
        type=float,
        default=0.5,
        metavar="S",
        help="least score drawn, default: %(default)s",
    )
    command.add_argument(
        "--batch_size", type=int, default=1, metavar="N", help="images per forward, default: %(default)s"
    )
    command.add_argument(
        "--save_results", action="store_true", help="write predictions.json (COCO results) to the output"
    )

    command = _command(commands, "serve", serve)
    _add_config(command, required=False)
    command.add_argument("--model_dir", metavar="DIR", help="what `ppsolo export` wrote, in place of a configuration")
    _add_device(command, "--model_dir")
    command.add_argument("--host", default="127.0.0.1", metavar="H", help="where to listen, default: %(default)s")
    command.add_argument("--port", type=int, default=8000, metavar="P", help="0: any free one, default: %(default)s")
    for name, value, meaning in (
        ("batch_size", 4, "pictures predicted together"),
        ("queue", 32, "requests that wait; further ones get 503"),
        ("timeout", 30.0, "seconds for a picture to arrive (408), to wait (503) and to be predicted (504)"),
        ("max_bytes", 20 * 2**20, "of a request's body (413)"),
        ("max_pixels", 2**25, "of a picture (422)"),
    ):
        command.add_argument(
            f"--{name}", type=type(value), default=value, metavar="N", help=f"{meaning}, default: %(default)s"
        )

    command = _command(commands, "train", train)
    _add_config(command)
    command.add_argument(
        "-r",
        "--resume",
        nargs="?",
        const="auto",
        metavar="FILE",
        help="go on from a training state; auto: the newest whole one of the run, or a new run where there is none",
    )

    command = _command(commands, "eval", evaluate)
    _add_config(command, required=False)
    command.add_argument("--json_eval", metavar="FILE", help="COCO results made elsewhere, in place of a model")
    command.add_argument("--annotations", metavar="FILE", help="what --json_eval is compared with")
    command.add_argument("--classwise", action="store_true", help="a table of the classes too")
    command.add_argument("--report", metavar="FILE", help="write all numbers as JSON")
    command.add_argument("--save_results", action="store_true", help="write predictions.json (COCO results)")
    command.add_argument(
        "--output_dir", default="output/eval", metavar="DIR", help="where it goes, default: %(default)s"
    )
    command.add_argument(
        "--batch_size", type=int, default=1, metavar="N", help="images per forward, default: %(default)s"
    )

    command = _command(commands, "check-data", check_data)
    _add_config(command)
    command.add_argument("--annotations", required=True, metavar="FILE", help="COCO's JSON file")
    command.add_argument(
        "--images", required=True, metavar="DIR", help="the folder that its file names are relative to"
    )
    command.add_argument("--json", metavar="FILE", help="write everything, all ids included, as JSON")

    command = _command(commands, "benchmark", benchmark)
    _add_config(command)
    command.add_argument("--image", required=True, metavar="FILE", help="the picture")
    command.add_argument(
        "--sides",
        nargs="+",
        default=["dygraph"],
        metavar="SIDE",
        help="dygraph, onnxruntime, openvino, openvino-bf16, exported directories",
    )
    command.add_argument(
        "--peer", nargs="+", default=[], metavar="PATH", help="ONNX files, directories that PaddleDetection exported"
    )
    command.add_argument("--batch", nargs="+", type=int, default=[1], metavar="N", help="images a batch, or a curve")
    command.add_argument("--threads", nargs="+", type=int, metavar="N", help="default: all cores; or a curve")
    command.add_argument("--height", nargs="+", type=int, metavar="N", help="scale the picture to it first, or a curve")
    command.add_argument(
        "--instances", nargs="+", type=int, metavar="N", help="kept at most, but by exports; or a curve"
    )
    _add_device(command, "exported directories")
    command.add_argument("--repeats", type=int, default=7, metavar="N", help="rounds that count, default: %(default)s")
    command.add_argument("--warm_up", type=int, default=1, metavar="N", help="rounds before, default: %(default)s")
    command.add_argument("--output", default="output/benchmark.json", metavar="FILE", help="JSON, default: %(default)s")

    command = _command(commands, "demo", demo)
    command.add_argument("--output_dir", default="output/demo", metavar="DIR", help="default: %(default)s")
    command.add_argument("--image", metavar="PATH", help="a photograph to predict on too, with a published system")

    command = _command(commands, "zoo", zoo)
    actions = command.add_subparsers(dest="action", required=True, metavar="action")
    actions.add_parser("list", help="the published checkpoints")
    action = actions.add_parser("fetch", help="download one")
    action.add_argument("name")
    action = actions.add_parser("check", help="check a file against one's manifest")
    action.add_argument("name")
    action.add_argument("file")

    action = actions.add_parser("verify", help="measure one's AP and compare it with the published one")
    action.add_argument("name")
    action.add_argument(
        "--data", required=True, metavar="DIR", help="COCO: annotations/instances_val2017.json and val2017/ in it"
    )

    command = _command(commands, "convert", convert)
    _add_config(command)
    command.add_argument("--output", required=True, metavar="FILE", help=".pdparams or .safetensors")
    command.add_argument(
        "--names",
        choices=("dygraph-2.x", "ppsolo"),
        default="dygraph-2.x",
        help="whose parameter names, default: %(default)s",
    )

    command = _command(commands, "export", export)
    _add_config(command)
    command.add_argument(
        "--output_dir",
        required=True,
        metavar="DIR",
        help="appears whole or not at all; an export there is replaced, anything else refused",
    )
    command.add_argument(
        "--format", choices=("paddle", "onnx"), default="paddle", help="whose runtime, default: %(default)s"
    )
    command.add_argument(
        "--graph",
        choices=("whole", "network"),
        default="whole",
        help="with postprocessing, or raw predictions, default: %(default)s",
    )
    command.add_argument(
        "--device",
        choices=("cpu", "gpu"),
        default="cpu",
        help="which one the graph is written for; it runs on both, default: %(default)s",
    )
    command.add_argument(
        "--input_shape",
        type=int,
        nargs=4,
        default=(-1, 3, -1, -1),
        metavar=("N", "3", "H", "W"),
        help="fix sides of the prepared images; -1, the default, leaves one open",
    )
    command.add_argument(
        "--verify",
        action="store_true",
        default=True,
        help="compare with the model on drawn scenes; what differs is not kept (default)",
    )
    command.add_argument("--no_verify", dest="verify", action="store_false", help="write without comparing")
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
    command.set_defaults(run=run)
    return command


def _add_device(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help=f"of {what}, default: %(default)s")
    command.add_argument(
        "--precision",
        choices=("fp32", "fp16", "bf16"),
        default="fp32",
        help=f"of {what}: fp16 takes a GPU, bf16 a CPU that has it; default: %(default)s",
    )


def _refuse_device(options: argparse.Namespace, remedy: str) -> None:
    if (options.device, options.precision) != ("cpu", "fp32"):
        raise ConfigError(f"--device and --precision are for exports: {remedy}")


def _add_config(command: argparse.ArgumentParser, *, required: bool = True) -> None:
    command.add_argument(
        "-c",
        "--config",
        required=required,
        metavar="FILE",
        help="a configuration file or the name of a shipped one",
    )
    command.add_argument(
        "-o",
        "--override",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="change the configuration, e.g. -o weights=model.pdparams",
    )


def _import_paddle() -> None:
    """Import Paddle with all cores for its kernels: it takes one unless OMP_NUM_THREADS says otherwise.

    What it prints about that, and about compilers that it will not need, is not for our users.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))
    os.environ.setdefault("GLOG_minloglevel", "2")  # of its C++ side, errors and worse
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # Whoever ends a command wants no trace of Paddle's kernels.
            importlib.import_module("paddle").disable_signal_handler()
        except ModuleNotFoundError as error:
            if error.name != "paddle":
                raise
            raise ConfigError("PaddlePaddle is not installed: pip install 'ppsolo[cpu]' or 'ppsolo[gpu]'") from None


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _say_error(line: str) -> None:
    sys.stderr.write(f"ppsolo: error: {' '.join(line.split())}\n")
