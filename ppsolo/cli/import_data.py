"""`ppsolo import-data`: turn annotations of other tools into a data set to train on."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from ppsolo.cli.check_data import check
from ppsolo.cli.shared import OK, SOME_FAILED, Commands, add_command, say
from ppsolo.config import load_config
from ppsolo.errors import ConfigError
from ppsolo.text import counted, typed

if TYPE_CHECKING:
    from ppsolo.check.report import DataReport

EXAMPLES = """ppsolo import-data photos --output data/mine
ppsolo import-data scans --output data/cells --format label_maps --class_name nucleus -c nuclei
ppsolo import-data slides --output data/slides --val 0.25 --groups patients.csv --group_column patient"""
FORMATS = ("coco", "labelme", "cvat", "label_studio", "voc", "yolo", "instance_masks", "label_maps")
SYSTEM = "solov2_r50_fpn_3x"


def add(commands: Commands) -> None:
    """Add the command and its flags to the parser."""
    command = add_command(commands, "import-data", run, EXAMPLES)
    command.add_argument("source", metavar="SOURCE", help="a folder with pictures and annotations")
    command.add_argument("--output", required=True, metavar="DIR", help="the folder to write, new or empty")
    command.add_argument("--format", choices=FORMATS, help="format of the source; default: recognised from the folder")
    command.add_argument(
        "--class_name",
        default="object",
        metavar="NAME",
        help="class of masks without a class name, default: %(default)s",
    )
    command.add_argument(
        "--val",
        type=float,
        metavar="SHARE",
        help="share of pictures for validation, 0 to 1; default: the split of the source, else 0.2",
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the split, default: %(default)s")
    command.add_argument(
        "--groups", metavar="CSV", help="a table with a column file_name and a group; pictures of a group stay together"
    )
    command.add_argument(
        "--group_column",
        default="group",
        metavar="NAME",
        help="the column of --groups with the group, default: %(default)s",
    )
    command.add_argument(
        "--pictures", choices=("link", "copy"), default="link", help="hard links or copies, default: %(default)s"
    )
    command.add_argument(
        "-c",
        "--config",
        default=SYSTEM,
        metavar="FILE",
        help="base of the written config.yml: a published system, another shipped configuration, or a file; "
        "default: %(default)s",
    )


def run(options: argparse.Namespace) -> int:
    """Read labelme, YOLO, COCO, CVAT, Label Studio, Pascal VOC or PNG masks; write a COCO data set and check it."""
    from ppsolo.check.report import format_data_report
    from ppsolo.checkpoint.zoo import ZOO
    from ppsolo.formats.dataset import (
        CONFIG_FILE,
        check_classes,
        check_new_dataset,
        new_dataset,
        training_config,
        write_dataset,
    )
    from ppsolo.formats.recognition import read_folder
    from ppsolo.formats.split import divide, read_groups
    from ppsolo.progress import ProgressBar

    if options.val is not None and not 0 <= options.val < 1:
        raise ConfigError(f"--val is {options.val}: give a share from 0 to below 1")
    output = Path(options.output)
    load_config(options.config)  # find a wrong name before reading anything
    check_new_dataset(output, Path(options.source))
    groups = read_groups(Path(options.groups), options.group_column) if options.groups else {}
    dataset = read_folder(Path(options.source), options.format, class_name=options.class_name)
    check_classes(dataset)
    parts = divide(dataset.images, val_share=options.val, seed=options.seed, groups=groups)
    published = options.config in ZOO
    base = options.config if not Path(options.config).is_file() else str(Path(options.config).resolve())
    bases = [base, "finetune"] if published else [base]
    with new_dataset(output) as draft:
        with ProgressBar("write", unit="images") as progress:
            written = write_dataset(
                parts, dataset.class_names, draft, pictures=options.pictures, progress=progress.update
            )
        written = dataclasses.replace(written, folder=output)
        text = training_config(written, bases, options.config if published else None)
        (draft / CONFIG_FILE).write_text(text, encoding="utf-8")
        reports = _check_parts(draft, text, [name for name, number in written.objects.items() if number])
    reports = [_with_paths(report, draft, output) for report in reports]

    config_file = output / CONFIG_FILE
    classes = ", ".join(dataset.class_names)
    say(f"{options.source}: {dataset.format}, {counted(len(dataset.images), 'image')}, classes: {classes}")
    for note in (*dataset.notes, *written.notes):
        say(f"  note: {note}")
    for name in written.images:
        say(f"{name}: {counted(written.images[name], 'image')}, {counted(written.objects[name], 'object')}")
    for report in reports:
        say("")
        say(format_data_report(report, suggestion=f"settings suggested, and written into {config_file}:"))
    say("")
    command = f"-c {typed(config_file)}"
    say(f"to train on it: ppsolo train {command}")
    if published:
        say(f"without a download, from random weights: ppsolo train --recipe auto --from_nothing {command}")
    return SOME_FAILED if any(report.faulty for report in reports) else OK


def _with_paths(report: "DataReport", draft: Path, output: Path) -> "DataReport":
    """The report with the final paths instead of those of the draft."""

    def final(text: str) -> str:
        return text.replace(str(draft), str(output))

    problems = tuple(
        dataclasses.replace(problem, details=tuple(map(final, problem.details))) for problem in report.problems
    )
    return dataclasses.replace(
        report, annotations=final(report.annotations), image_dir=final(report.image_dir), problems=problems
    )


def _check_parts(folder: Path, text: str, parts: list[str]) -> list["DataReport"]:
    """Return the reports on the parts. Add the settings that fit the training part to the folder's config.yml.

    text: the configuration as written.
    """
    from ppsolo.formats.dataset import CONFIG_FILE

    config_file, reports = folder / CONFIG_FILE, []
    for name in parts:
        report = check(load_config(str(config_file)), folder / f"instances_{name}.json", folder / name)
        if name != "train":
            report = dataclasses.replace(report, suggested=None)  # only the training part decides
        elif settings := report.settings_to_paste():
            suited = f"{text}# Grids and scale ranges that suit the objects of the training part:\n{settings}\n"
            config_file.write_text(suited, encoding="utf-8")
        reports.append(report)
    return reports
