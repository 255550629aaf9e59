"""`ppsolo check-data`: find the faults of a data set."""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ppsolo.cli.shared import OK, SOME_FAILED, Commands, add_command, add_config, say
from ppsolo.config import load_config
from ppsolo.errors import ConfigError, DatasetError
from ppsolo.legacy.dataset_folder import found_data
from ppsolo.outputs import check_output_file
from ppsolo.schema import Config

if TYPE_CHECKING:
    from ppsolo.check.report import DataReport

EXAMPLES = """ppsolo check-data -c data/mine/config.yml
ppsolo check-data -c solov2_r50_fpn_1x --annotations train.json --images train"""


def add(commands: Commands) -> None:
    """Add the command and its flags to the parser."""
    command = add_command(commands, "check-data", run, EXAMPLES)
    add_config(command)
    command.add_argument(
        "--annotations", metavar="FILE", help="COCO's JSON file; default: the files that the configuration names"
    )
    command.add_argument("--images", metavar="DIR", help="the folder that its file names are relative to")
    command.add_argument("--json", metavar="FILE", help="write everything, with all ids, as JSON")


def run(options: argparse.Namespace) -> int:
    """Check a COCO data set: report faults that would harm training, and settings that fit.

    The exit code is 1 if the file needs correction, 0 if there are only notes and hints.
    """
    from ppsolo.atomic import atomic_writer
    from ppsolo.check.report import format_data_report

    if options.json is not None:
        check_output_file(options.json, "--json")
    config = load_config(options.config, options.override)
    if (options.annotations is None) != (options.images is None):
        raise ConfigError("--annotations and --images belong together; without both, the configuration names the files")
    if options.annotations is None:
        reports = {name: check(config, *files) for name, files in _files_of(config).items()}
        content = {name: report.to_json() for name, report in reports.items()}
    else:
        reports = {"": check(config, options.annotations, options.images)}
        content = reports[""].to_json()
    say("\n\n".join(map(format_data_report, reports.values())))
    if options.json is not None:
        with atomic_writer(options.json, "w") as stream:
            json.dump(content, stream, indent=1)
    return SOME_FAILED if any(report.faulty for report in reports.values()) else OK


def _files_of(config: Config) -> dict[str, tuple[Path, Path]]:
    """Return annotations and image folder of the configuration's parts, "train" and "val"."""
    data = found_data(config.data)
    named = {"train": (data.train_annotations, data.train_images), "val": (data.val_annotations, data.val_images)}
    files = {name: (Path(data.root, file), Path(data.root, images)) for name, (file, images) in named.items() if file}
    for name, (file, _) in files.items():
        if not file.is_file():
            raise DatasetError(
                f"{file}: no such file; correct data.root or data.{name}_annotations, "
                "or give --annotations and --images"
            )
    if not files:
        raise DatasetError("the configuration names no annotations; give --annotations and --images")
    return files


def check(config: Config, annotations: str | os.PathLike, images: str | os.PathLike) -> "DataReport":
    """Return the report on a data set with the configuration's settings; show progress on the terminal."""
    from ppsolo.build.pipeline import build_reader
    from ppsolo.check.dataset import check_dataset
    from ppsolo.progress import ProgressBar

    augment = config.train.augment
    with ProgressBar("check") as progress:
        return check_dataset(
            annotations,
            images,
            short_side=max(augment.short_sides),
            long_side=augment.long_side,
            num_grids=config.model.head.num_grids,
            scale_ranges=[(lowest, highest) for lowest, highest in config.train.targets.scale_ranges],
            num_classes=config.num_classes,
            round_sides=config.preprocess.round_sides,
            box_convention=config.data.box_convention,
            read=build_reader(config),
            progress=progress.update,
        )
