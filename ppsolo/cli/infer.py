"""`ppsolo infer`: predict on pictures, videos and streams."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ppsolo.cli.bulk import add_bulk, bulk_input, check_bulk, run_bulk_command, threads_of
from ppsolo.cli.paddledetection import add_refused_flags, add_slices, add_switch, tile_of_slices, truth
from ppsolo.cli.shared import (
    OK,
    SOME_FAILED,
    Commands,
    add_command,
    add_model,
    add_tiles,
    check_number,
    model_source,
    say,
    say_error,
    say_note,
)
from ppsolo.cli.signals import exit_code_of
from ppsolo.errors import ConfigError, ImageError
from ppsolo.formats.pixel_size import LARGEST_PIXEL
from ppsolo.progress import ProgressBar
from ppsolo.results.files.names import FORMAT_NAMES
from ppsolo.text import counted

if TYPE_CHECKING:
    from ppsolo.data.sources import Pictures, Video
    from ppsolo.infer.settings import InferSettings
    from ppsolo.infer.summary import InferenceSummary

EXAMPLES = """ppsolo infer -c solov2_r50_fpn_3x -o weights=solov2_r50_fpn_3x --infer_img street.jpg
ppsolo infer --model_dir output/r50_onnx --infer_list photos.txt --results jsonl --output_dir output/photos
ppsolo infer -c output/mine/config.yml --infer_dir slides --save geojson csv --pixel_size 0.5
ppsolo infer --model_dir output/r50_onnx --engine openvino --infer_dir photos
ppsolo infer -c output/mine/config.yml --source rtsp://camera.local/live --allow_network --max_seconds 60 --save coco"""


def add(commands: Commands) -> None:
    """Add the command and its flags to the parser."""
    command = add_command(commands, "infer", run, EXAMPLES)
    add_model(command)
    _add_source(command)
    _add_results(command)
    _add_drawing(command)
    _add_theirs(command)
    add_tiles(command)
    add_bulk(command)
    command.add_argument(
        "--batch_size", type=int, default=1, metavar="N", help="images per forward, default: %(default)s"
    )


def _add_source(command: argparse.ArgumentParser) -> None:
    """Add the flags of the pictures."""
    source = command.add_mutually_exclusive_group()
    source.add_argument(
        "--source",
        metavar="SOURCE",
        help="a picture, a folder, a pattern in quotes, a video, a .txt file with one path per line, - for paths on "
        "standard input, the number of a camera, or an address (rtsp://, http://)",
    )
    source.add_argument("--infer_img", metavar="SOURCE", help="the same as --source")
    source.add_argument("--infer_dir", metavar="DIR", help="a folder of pictures")
    command.add_argument(
        "--infer_list",
        metavar="FILE",
        help="a file with one path per line, relative to --infer_dir if given; - is standard input",
    )
    command.add_argument("--allow_network", action="store_true", help="allow addresses in --source")
    command.add_argument("--max_frames", type=int, metavar="N", help="stop a video or a stream after N frames")
    command.add_argument("--max_seconds", type=float, metavar="S", help="stop a video or a stream after S seconds")
    command.add_argument(
        "--stream_timeout",
        type=float,
        default=10.0,
        metavar="S",
        help="seconds to wait for a stream to open and for each of its frames, default: %(default)s",
    )
    command.add_argument(
        "--every_frame",
        action="store_true",
        help="predict every frame of a camera or a live stream, however late; default: skip those that are late",
    )
    command.add_argument(
        "--reconnect",
        type=int,
        default=3,
        metavar="N",
        help="how many times in a row to open a broken stream again, default: %(default)s",
    )


def _add_results(command: argparse.ArgumentParser) -> None:
    """Add the flags of the results."""
    command.add_argument("--output_dir", default="output/infer", metavar="DIR", help="default: %(default)s")
    add_switch(
        command,
        "--save_results",
        help="the same as --save coco: writes predictions.json, for a video also predictions.jsonl",
    )
    command.add_argument(
        "--save",
        nargs="+",
        default=[],
        metavar="FORMAT",
        choices=tuple(FORMAT_NAMES),
        help="also write the results: " + "; ".join(f"{name}, {meaning}" for name, meaning in FORMAT_NAMES.items()),
    )
    command.add_argument(
        "--pixel_size",
        type=float,
        metavar="UM",
        help="micrometres per pixel, for csv and parquet; default: the value in each picture",
    )


def _add_drawing(command: argparse.ArgumentParser) -> None:
    """Add the flags of drawings."""
    command.add_argument("--no_draw", action="store_true", help="write no drawings")
    add_switch(command, "--visualize", default=True, help="False: the same as --no_draw")
    command.add_argument(
        "--draw",
        choices=("labels", "scores", "none"),
        default="labels",
        help="text on each instance: name and score, only the score, or nothing; default: %(default)s",
    )
    command.add_argument(
        "--color",
        choices=("class", "instance"),
        help="one colour per class or per instance; default: instance, for videos class",
    )
    command.add_argument(
        "--track",
        action="store_true",
        help="number the objects of a video, the same in all frames, in results and drawings "
        "(pip install 'ppsolo[track]')",
    )
    command.add_argument("--legend", action="store_true", help="list the classes with their colours in the drawing")
    command.add_argument(
        "--draw_threshold",
        type=float,
        default=0.5,
        metavar="S",
        help="least score of drawn instances, default: %(default)s",
    )


def _add_theirs(command: argparse.ArgumentParser) -> None:
    """Add the flags of PaddleDetection that have no counterpart."""
    command.add_argument("--save_threshold", type=float, default=0.0, metavar="S", help="least score in results")
    command.add_argument(
        "--do_eval", type=truth, default=False, metavar="True|False", help="run `ppsolo eval` afterwards"
    )
    add_switch(command, "--use_vdl", help=argparse.SUPPRESS)
    add_slices(command)
    add_refused_flags(command, "infer")


def run(options: argparse.Namespace) -> int:
    """Predict on pictures, a folder, a video, a camera or a stream."""
    _check(options)
    check_bulk(options)
    if options.use_vdl:
        say_note("--use_vdl: drawings are files in --output_dir; VisualDL only shows training")
    if options.slice_infer:
        options.tile, options.overlap = tile_of_slices(options)
    code = _predict(options)
    if options.do_eval and code in (OK, SOME_FAILED):
        code = _evaluate(options) or code
    return code


def _evaluate(options: argparse.Namespace) -> int:
    """`ppsolo eval` with the same model, runtime and tiles; the exit code."""
    from ppsolo.cli import eval

    top = argparse.ArgumentParser(prog="ppsolo")
    eval.add(top.add_subparsers())
    model = ["-c", options.config] if options.config is not None else ["--model_dir", options.model_dir]
    changes = ["-o", *options.override] if options.override else []
    chosen = top.parse_args(["eval", *model, *changes])
    for name in ("engine", "device", "precision", "class_thresholds", "tile", "overlap", "batch_size"):
        setattr(chosen, name, getattr(options, name))
    return chosen.run(chosen)


def _predict(options: argparse.Namespace) -> int:
    """Predict and draw; return the exit code."""
    model = model_source(options)
    if options.results is not None:
        if options.track:
            raise ConfigError("--track gives numbers in one video or stream: --results takes pictures")
        pictures = bulk_input(options)
        with ProgressBar("download", unit="B") as progress:
            predictor = model.open(threads=threads_of(options), progress=progress.update)
        say(predictor.origin)
        say(predictor.description)
        return run_bulk_command(predictor, pictures, options)
    from ppsolo.data.sources import Video
    from ppsolo.infer.output import check_output_dir
    from ppsolo.infer.pictures import infer_images
    from ppsolo.infer.settings import InferSettings, StreamLimits
    from ppsolo.infer.video import infer_video
    from ppsolo.results.files.catalogue import checked_formats

    settings = InferSettings(
        output_dir=Path(options.output_dir),
        draw_threshold=options.draw_threshold,
        batch_size=options.batch_size,
        save=checked_formats([*options.save, *(["coco"] if options.save_results else [])]),
        pixel_size=options.pixel_size,
        drawings=options.visualize and not options.no_draw,
        save_threshold=options.save_threshold,
        text=options.draw,
        color="class" if options.legend else options.color,
        legend=options.legend,
        track=options.track,
    )
    limits = StreamLimits(
        options.max_frames, options.max_seconds, options.stream_timeout, options.reconnect, options.every_frame
    )
    # Check input and output before loading the weights, so that a wrong path is found at once.
    source = _source(options)
    video = isinstance(source, Video)
    if options.track and not video:
        raise ConfigError("--track gives numbers in one video or stream: the source has pictures")
    read = [source.source] if video else [picture.path for picture in source.items if picture.content is None]
    check_output_dir(settings.output_dir, apart_from=[path for path in read if isinstance(path, Path)])

    with ProgressBar("download", unit="B") as progress:
        predictor = model.open(progress=progress.update)
    say(predictor.origin)
    say(predictor.description)
    with ProgressBar("predict", unit="frames" if video else "images") as progress:
        if isinstance(source, Video):
            summary = infer_video(predictor, source, settings, limits=limits, progress=progress.update)
        else:
            # Without drawings, a large file is read part by part.
            read_pixels = predictor.read if settings.needs_pixels or model.tiling is None else lambda path: path
            summary = infer_images(predictor, source.items, settings, read=read_pixels, progress=progress.update)
            summary.failures += source.left_out
            summary.notes += source.notes
    return _report(summary, settings, left_out=0 if video else len(source.left_out))


def _source(options: argparse.Namespace) -> "Pictures | Video":
    """What the flags name to be read. Raises ConfigError, ImageError."""
    from ppsolo.data.files import find_images
    from ppsolo.data.sources import Picture, Pictures, find_listed, find_source

    if options.infer_dir is not None and options.infer_list is not None:
        return Pictures(tuple(map(Picture, listed_images(Path(options.infer_dir), Path(options.infer_list)))), ())
    if options.infer_dir is not None:
        found = find_images(options.infer_dir)
        return Pictures(tuple(map(Picture, found.images)), tuple(found.left_out), found.notes)
    if options.infer_list not in (None, "-"):
        return find_listed(Path(options.infer_list))
    named = str(options.source or options.infer_img or options.infer_list)
    return find_source(named, lines=sys.stdin, network=options.allow_network)


def listed_images(folder: Path, file: Path) -> list[Path]:
    """Return the pictures of a folder that a file names, one per line; "-": standard input. Raises ConfigError."""
    from ppsolo.data.files import regular_file

    try:
        if file == Path("-"):
            text = sys.stdin.read()
        else:
            regular_file(file)
            text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, ImageError) as error:
        raise ConfigError(f"--infer_list {file}: cannot be read ({error})") from None
    paths = [folder / name for line in text.splitlines() if (name := line.strip())]
    missing = [path for path in paths if not os.path.isfile(path)]  # no error for a name that is too long
    if missing or not paths:
        what = f"{missing[0]} does not exist" if missing else "names no picture"
        raise ConfigError(f"--infer_list {file}: {what}; give names relative to --infer_dir")
    return paths


def _check(options: argparse.Namespace) -> None:
    """Refuse invalid values."""
    if not (options.source or options.infer_img or options.infer_dir or options.infer_list):
        raise ConfigError("no pictures: give --source, --infer_dir or --infer_list")
    if options.infer_list and (options.source or options.infer_img):
        raise ConfigError("--infer_list goes alone or with --infer_dir: omit --source and --infer_img")
    if not 0.0 <= options.save_threshold <= 1.0:
        raise ConfigError(f"--save_threshold is {options.save_threshold}: give a number from 0 to 1")
    if not 0.0 <= options.draw_threshold <= 1.0:
        raise ConfigError(f"--draw_threshold is {options.draw_threshold}: give a number from 0 to 1")
    if options.pixel_size is not None and not 0 < options.pixel_size <= LARGEST_PIXEL:
        raise ConfigError(f"--pixel_size is {options.pixel_size}: give a number above zero, at most {LARGEST_PIXEL:g}")
    least = {"batch_size": 1, "max_frames": 1, "max_seconds": 0, "stream_timeout": 0.1, "reconnect": 0}
    for name, lowest in least.items():
        check_number(options, name, least=lowest)
    if options.legend and options.color == "instance":
        raise ConfigError("--legend lists the colours of classes: add --color class")


def _report(summary: "InferenceSummary", settings: "InferSettings", *, left_out: int) -> int:
    """Report what was done; return the exit code."""
    for note in summary.notes:
        say(note)
    for failure in summary.failures:
        say_error(failure)
    if left_out:
        say_error(f"{counted(left_out, 'file')} left out")
    where = f"{summary.drawn} with a score of at least {settings.draw_threshold} are drawn in {settings.output_dir}"
    if summary.instances and not summary.drawn:
        where += " (lower --draw_threshold to see more)"
    if not settings.drawings:
        where = f"none are drawn; results are in {settings.output_dir}" if settings.save else "none are drawn or saved"
    skipped = f"; {summary.skipped} late frames were skipped" if summary.skipped else ""
    say(f"{counted(summary.instances, 'instance')} in {counted(summary.images, 'image')}; {where}{skipped}")
    if summary.interruption is not None:
        return exit_code_of(summary.interruption)
    return SOME_FAILED if summary.failures else OK
