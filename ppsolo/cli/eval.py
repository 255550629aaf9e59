"""`ppsolo eval`: average precision on COCO annotations."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppsolo.cli.paddledetection import add_refused_flags, add_slices, tile_of_slices
from ppsolo.cli.shared import (
    OK,
    Commands,
    add_command,
    add_model,
    add_tiles,
    check_number,
    import_paddle,
    model_source,
    say,
)
from ppsolo.config import load_answering_config, load_config
from ppsolo.data.tiles import checked_tiling
from ppsolo.errors import ConfigError
from ppsolo.legacy.dataset_folder import found_data
from ppsolo.outputs import check_output_file, check_output_folder

if TYPE_CHECKING:
    from ppsolo.evaluation.evaluate import Evaluation
    from ppsolo.model_source import ModelSource

OUTPUT_DIR = "output/eval"
EXAMPLES = """ppsolo eval -c output/mine/config.yml -o weights=output/mine/best.pdparams --classwise
ppsolo eval --model_dir output/r50_onnx --engine openvino --annotations val.json --image_dir val
ppsolo eval -c output/mine/config.yml --html output/mine/report
ppsolo eval -c output/mine/config.yml --compare dygraph openvino openvino-bf16 output/mine_int8
ppsolo eval -c output/mine/config.yml --find_thresholds output/mine/thresholds.json"""


def add(commands: Commands) -> None:
    """Add the command and its flags to the parser."""
    command = add_command(commands, "eval", run, EXAMPLES)
    add_model(command)
    command.add_argument(
        "--json_eval",
        nargs="?",
        const="",
        metavar="FILE",
        help="evaluate this file of COCO results instead of a model; without FILE, the one in --output_eval",
    )
    command.add_argument(
        "-f", "--output_eval", metavar="DIR", help="the same as --save_results --output_dir DIR; see --json_eval"
    )
    command.add_argument(
        "--save_prediction_only",
        action="store_true",
        help="only write predictions.json, do not compute average precision",
    )
    add_slices(command)
    add_tiles(command)
    add_refused_flags(command, "eval")
    command.add_argument(
        "--annotations", metavar="FILE", help="a COCO file to compare with; default: data.val_annotations"
    )
    command.add_argument("--image_dir", metavar="DIR", help="the pictures of --annotations")
    command.add_argument("--classwise", action="store_true", help="also print a table of the classes")
    command.add_argument("--report", metavar="FILE", help="write all numbers as JSON")
    command.add_argument(
        "--html",
        metavar="DIR",
        help="write a report with charts and pictures: index.html and report.json",
    )
    command.add_argument("--save_results", action="store_true", help="write predictions.json (COCO results)")
    command.add_argument(
        "--output_dir", default=OUTPUT_DIR, metavar="DIR", help="folder of the results, default: %(default)s"
    )
    command.add_argument(
        "--batch_size", type=int, default=1, metavar="N", help="images per forward, default: %(default)s"
    )
    command.add_argument(
        "--max_detections",
        type=int,
        default=100,
        metavar="N",
        help="largest number of detections per picture and class; raise it for large pictures with more "
        "objects; default: %(default)s, as in COCO",
    )
    command.add_argument(
        "--compare",
        nargs="+",
        metavar="MODEL",
        help="evaluate and time several models: dygraph, onnxruntime, openvino, openvino-bf16 (of -c), or exported "
        "directories, also as DIR@openvino@bf16; writes compare.json and compare.png to --output_dir",
    )
    _add_thresholds(command)


def _add_thresholds(command: argparse.ArgumentParser) -> None:
    """Add the flags that find thresholds."""
    command.add_argument(
        "--find_thresholds",
        metavar="FILE",
        help="find the best score threshold of each class and write FILE for --class_thresholds",
    )
    command.add_argument(
        "--least_precision",
        type=float,
        metavar="P",
        help="choose thresholds with at least this precision and the highest recall; default: with the best F1",
    )


def run(options: argparse.Namespace) -> int:
    """Compute average precision on COCO annotations, of a model or of a result file (--json_eval)."""
    for name in ("batch_size", "max_detections"):
        check_number(options, name, least=1)
    if options.least_precision is not None and options.find_thresholds is None:
        raise ConfigError("--least_precision belongs to --find_thresholds: add --find_thresholds FILE")
    if options.least_precision is not None and not 0 < options.least_precision <= 1:
        raise ConfigError(f"--least_precision is {options.least_precision}: give a number above 0, at most 1")
    _check_places(options)
    if options.save_prediction_only:
        _refuse_precision(options)
    if options.slice_infer:
        options.tile, options.overlap = tile_of_slices(options)
    if options.json_eval == "":
        options.json_eval = _results_in(options)
    elif options.output_eval is not None or options.save_prediction_only:
        options.save_results, options.output_dir = True, options.output_eval or options.output_dir
    if options.html is not None and (options.json_eval is not None or options.compare is not None):
        raise ConfigError("--html reports on one model: omit --json_eval and --compare")
    if options.json_eval is not None:
        return _evaluate_results(options)
    if options.compare is not None:
        return _compare(options)
    if options.config is None and options.model_dir is None:
        raise ConfigError("nothing to evaluate: give a model (-c or --model_dir), or results (--json_eval)")
    if options.find_thresholds is not None and options.class_thresholds is not None:
        raise ConfigError("--find_thresholds cannot use --class_thresholds, which hide instances: omit one")
    if options.html is not None:
        from ppsolo.evaluation.html import check_packages

        if options.class_thresholds is not None:
            raise ConfigError("--html cannot use --class_thresholds, which hide instances: omit one")
        check_packages()  # check now, before minutes of work
    source = _with_data(model_source(options), options)
    evaluation = _evaluate_model(source, options)
    if evaluation is None:
        return OK
    if options.save_prediction_only:
        return OK
    _say_report(evaluation.report, options)
    if options.find_thresholds is not None:
        _find_thresholds(evaluation, options)
    if options.html is not None:
        _write_html(evaluation, source, options)
    return OK


def _refuse_precision(options: argparse.Namespace) -> None:
    """Refuse flags that need average precision where --save_prediction_only computes none."""
    for name in ("json_eval", "compare", "report", "html", "find_thresholds"):
        if getattr(options, name) is not None:
            raise ConfigError(f"--save_prediction_only computes no average precision: omit --{name}")


def _check_places(options: argparse.Namespace) -> None:
    """Refuse places that cannot be written to now, before minutes of work."""
    for name in ("report", "find_thresholds"):
        if (place := getattr(options, name)) is not None:
            check_output_file(place, f"--{name}")
    if options.html is not None:
        check_output_folder(options.html, "--html")
    if options.json_eval is None and options.output_eval is not None:  # else it is an input
        check_output_folder(options.output_eval, "--output_eval")
    written = options.save_results or options.save_prediction_only or options.compare is not None
    if written or options.output_dir != OUTPUT_DIR:
        check_output_folder(options.output_dir, "--output_dir")


def _write_html(evaluation: "Evaluation", source: "ModelSource", options: argparse.Namespace) -> None:
    from ppsolo.evaluation.html import write_html
    from ppsolo.progress import ProgressBar

    with ProgressBar("draw", unit="pictures") as progress:
        write_html(evaluation, source.config, Path(options.html), progress=progress.update)
    say(f"{Path(options.html) / 'index.html'} is the report, for a browser; its numbers are in report.json")


def _results_in(options: argparse.Namespace) -> str:
    """Return the result file in --output_eval, ppsolo's or PaddleDetection's. Raises ConfigError."""
    folder = Path(options.output_eval or ".")
    found = [folder / name for name in ("predictions.json", "segm.json", "mask.json") if (folder / name).is_file()]
    if not found:
        raise ConfigError(f"--json_eval: {folder} has no predictions.json, segm.json or mask.json; give the file")
    return str(found[0])


def _evaluate_results(options: argparse.Namespace) -> int:
    if options.annotations is None and options.config is not None:
        data = found_data(load_config(options.config, options.override).data)
        options.annotations = str(Path(data.root) / data.val_annotations)
    if options.annotations is None:
        raise ConfigError("--json_eval needs annotations: add --annotations FILE")
    from ppsolo.evaluation.coco_evaluator import evaluate_results

    report = evaluate_results(options.annotations, options.json_eval, max_detections=options.max_detections)
    _say_report(report, options)
    return OK


def _say_report(report: dict[str, Any], options: argparse.Namespace) -> None:
    from ppsolo.evaluation.report import format_report, write_report

    say(format_report(report, per_class=options.classwise))
    if options.report is not None:
        write_report(report, options.report)


def _with_data(source: "ModelSource", options: argparse.Namespace) -> "ModelSource":
    """Return the source with the data set of --annotations and --image_dir, if given."""
    if (options.annotations is None) != (options.image_dir is None):
        raise ConfigError("--annotations and --image_dir go together: give both")
    config = source.config
    if options.annotations is not None:
        files = {"val_annotations": str(Path(options.annotations).absolute())}
        files["val_images"] = str(Path(options.image_dir).absolute())
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=".", **files))
    if options.find_thresholds is not None:
        postprocess = dataclasses.replace(config.postprocess, class_thresholds=())
        config = dataclasses.replace(config, postprocess=postprocess)
    return dataclasses.replace(source, config=config)


def _evaluate_model(source: "ModelSource", options: argparse.Namespace) -> "Evaluation | None":
    """Return the evaluation on the main process, None on the others."""
    from ppsolo.evaluation.evaluate import evaluate_source, write_results
    from ppsolo.processes import start_processes
    from ppsolo.progress import ProgressBar

    processes = start_processes()
    with ProgressBar("download", unit="B") as download, ProgressBar("evaluate") as progress:
        evaluation = evaluate_source(
            source,
            batch_size=options.batch_size,
            keep_results=options.save_results or options.html is not None,
            max_detections=options.max_detections,
            processes=processes,
            download=download.update,
            progress=progress.update,
        )
    if not processes.is_main:
        return None
    say(evaluation.origin)
    say(evaluation.description)
    if source.config.postprocess.class_thresholds:
        say("instances below the threshold of their class do not count, which lowers average precision")
    if options.save_results:
        path = Path(options.output_dir) / "predictions.json"
        write_results(evaluation.results, path)
        say(f"{len(evaluation.results)} results written to {path}")
    return evaluation


def _compare(options: argparse.Namespace) -> int:
    """Evaluate and time several models."""
    if options.model_dir is not None:
        raise ConfigError("--compare lists the exported directories: omit --model_dir")
    if (options.engine, options.device, options.precision) != ("auto", "cpu", "fp32"):
        raise ConfigError("--compare states engine and precision, such as DIR@openvino@bf16")
    from ppsolo.evaluation.compare import compare, format_comparison, write_comparison
    from ppsolo.model_source import named_side
    from ppsolo.progress import ProgressBar

    config = None if options.config is None else load_answering_config(options.config, options.override)
    tiling = checked_tiling(options.tile, options.overlap)
    named = [named_side(name, config, options.override) for name in options.compare]
    sides = [_with_data(dataclasses.replace(side, tiling=tiling), options) for side in named]
    if any(side.needs_paddle for side in sides):
        import_paddle()
    with ProgressBar("compare", unit="steps") as progress:
        report = compare(
            sides,
            batch_size=options.batch_size,
            max_detections=options.max_detections,
            progress=progress.update,
        )
    say(format_comparison(report))
    write_comparison(report, Path(options.output_dir))
    say(f"compare.json and compare.png are in {options.output_dir}")
    return OK


def _find_thresholds(evaluation: "Evaluation", options: argparse.Namespace) -> None:
    from ppsolo.evaluation.thresholds import find_thresholds, format_thresholds, write_thresholds

    found = find_thresholds(
        evaluation.matches["segm"], evaluation.report["segm"]["per_class"], precision=options.least_precision
    )
    aim = "f1" if options.least_precision is None else f"precision >= {options.least_precision}"
    source = {"annotations": evaluation.report["annotations"], "aim": aim, "iou": 0.5, "model": evaluation.origin}
    write_thresholds(found, options.find_thresholds, source=source)
    say(format_thresholds(found))
    say(f"written to {options.find_thresholds}: use it with --class_thresholds in infer, serve and export")
