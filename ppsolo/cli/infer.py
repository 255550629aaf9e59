"""`ppsolo infer`: predict on images or a video."""

import argparse
from pathlib import Path

from ppsolo.cli.shared import OK, SOME_FAILED, Commands, add_command, add_config, import_paddle, say, say_error
from ppsolo.config import load_config
from ppsolo.errors import ConfigError
from ppsolo.results.files.names import FORMAT_NAMES

EXAMPLES = """ppsolo infer -c solov2_r50_fpn_3x -o weights=solov2_r50_fpn_3x --infer_img street.jpg
ppsolo infer -c output/mine/config.yml --infer_dir slides --save geojson csv --pixel_size 0.5"""


def add(commands: Commands) -> None:
    """Add the command and its flags to the parser."""
    command = add_command(commands, "infer", run, EXAMPLES)
    add_config(command)
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
        "--save_results", action="store_true", help="the same as --save coco: predictions.json in the output directory"
    )
    command.add_argument(
        "--save",
        nargs="+",
        default=[],
        metavar="FORMAT",
        choices=tuple(FORMAT_NAMES),
        help="write the results too: " + "; ".join(f"{name}, {meaning}" for name, meaning in FORMAT_NAMES.items()),
    )
    command.add_argument(
        "--pixel_size",
        type=float,
        metavar="UM",
        help="micrometres per pixel, for the measures of csv and parquet; default: what each picture states",
    )


def run(options: argparse.Namespace) -> int:
    """Predict on an image, a directory, a glob pattern or a video."""
    config = load_config(options.config, options.override)
    if not 0.0 <= options.draw_threshold <= 1.0:
        raise ConfigError(f"--draw_threshold is {options.draw_threshold}, give a number from 0 to 1")
    if options.pixel_size is not None and not 0 < options.pixel_size < float("inf"):
        raise ConfigError(f"--pixel_size is {options.pixel_size}, give a number above zero")
    if options.batch_size < 1:
        raise ConfigError(f"--batch_size is {options.batch_size}, give at least 1")
    import_paddle()
    from ppsolo.data.files import expand_images, list_images
    from ppsolo.data.videos import is_video
    from ppsolo.infer import infer_images, infer_video, make_output_dir
    from ppsolo.predictor import Predictor
    from ppsolo.progress import Progress
    from ppsolo.results.files.catalogue import checked_formats

    formats = checked_formats([*options.save, *(["coco"] if options.save_results else [])])
    # What is to be read and where to write is looked for before the weights are loaded: a wrong path is found at once.
    source = options.infer_img or options.infer_dir
    video = options.infer_dir is None and is_video(source) and Path(source).is_file()
    paths = [] if video else list_images(source) if options.infer_dir else expand_images(source)
    output_dir = Path(options.output_dir)
    make_output_dir(output_dir, apart_from=[Path(source)] if video else paths)

    with Progress("download", unit="B") as progress:
        predictor = Predictor(config, progress=progress.update)
    say(predictor.origin)
    say(predictor.description)
    settings = {
        "output_dir": output_dir,
        "draw_threshold": options.draw_threshold,
        "batch_size": options.batch_size,
        "save": formats,
        "pixel_size": options.pixel_size,
    }
    with Progress("predict", unit="frames" if video else "images") as progress:
        if video:
            summary = infer_video(predictor, Path(source), **settings, progress=progress.update)
        else:
            summary = infer_images(predictor, paths, **settings, progress=progress.update)
    for failure in summary.failures:
        say_error(failure)
    where = f"those of at least {options.draw_threshold} are drawn in {options.output_dir}"
    say(f"{summary.instances} instances in {summary.images} images; {where}")
    return SOME_FAILED if summary.failures else OK
