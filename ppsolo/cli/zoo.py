"""`ppsolo zoo`: the published checkpoints and ImageNet backbones."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ppsolo.cli.shared import OK, SOME_FAILED, Commands, add_command, add_words, import_paddle, say
from ppsolo.config import load_config

if TYPE_CHECKING:
    from ppsolo.checkpoint.zoo import ZooEntry

EXAMPLES = """ppsolo zoo list
ppsolo zoo fetch solov2_r50_fpn_3x
ppsolo zoo fetch ResNet50_cos_pretrained"""


def add(commands: Commands) -> None:
    """Add the command and its flags to the parser."""
    command = add_command(commands, "zoo", run, EXAMPLES)
    actions = command.add_subparsers(dest="action", required=True, metavar="action")
    actions.add_parser("list", help="list the published checkpoints")
    action = actions.add_parser("fetch", help="download one")
    action.add_argument("name")
    action = actions.add_parser("check", help="check a file against the manifest of a checkpoint")
    action.add_argument("name")
    action.add_argument("file")
    action = actions.add_parser("verify", help="measure the AP of a checkpoint and compare it with the published one")
    action.add_argument("name")
    action.add_argument(
        "--data",
        required=True,
        metavar="DIR",
        help="COCO's folder with annotations/instances_val2017.json and val2017/",
    )
    for action in actions.choices.values():
        add_words(action)


def run(options: argparse.Namespace) -> int:
    """List the published checkpoints, fetch one, check a file against its manifest, or measure its AP."""
    from ppsolo.checkpoint.backbones import BACKBONES
    from ppsolo.checkpoint.reader import read_checkpoint
    from ppsolo.checkpoint.zoo import ZOO, check_manifest, zoo_entry
    from ppsolo.progress import ProgressBar

    if options.action == "list":
        say(f"{'name':38} {'generation':12} {'mask AP':>8} {'ms':>6}  device  (published, not reproduced)")
        for entry in ZOO.values():
            say(
                f"{entry.name:38} {entry.generation:12} {entry.mask_ap or '-':>8} "
                f"{entry.latency_ms or '-':>6}  {entry.latency_device or ''}"
            )
        say(f"\n{'ImageNet backbone':38} {'files of':12} starts")
        for backbone in BACKBONES.values():
            files = " ".join(generation.rpartition("-")[2] for generation in backbone.systems)
            say(f"{backbone.name:38} {files:12} {backbone.used_for}")
        return OK
    if options.name in BACKBONES and options.action != "verify":
        return _backbone(options)
    entry = zoo_entry(options.name)
    if options.action == "verify":
        return _verify(entry, Path(options.data))
    if options.action == "fetch":
        import_paddle()
        from ppsolo.checkpoint.load import read_published

        with ProgressBar(entry.name, unit="B") as progress:
            path, _ = read_published(entry.name, progress=progress.update)
        say(str(path))
    else:
        check_manifest(read_checkpoint(options.file), entry, Path(options.file).name)
        say(f"{options.file} holds the arrays of {entry.name}")
    return OK


def _backbone(options: argparse.Namespace) -> int:
    """Fetch an ImageNet backbone, or check a file against its manifest."""
    from ppsolo.checkpoint.backbones import BACKBONES, check_backbone, read_backbone
    from ppsolo.checkpoint.reader import read_checkpoint
    from ppsolo.legacy.names import DYGRAPH, STATIC
    from ppsolo.progress import ProgressBar

    if options.action == "fetch":
        with ProgressBar(options.name, unit="B") as progress:
            path, _ = read_backbone(options.name, progress=progress.update)
        say(str(path))
        return OK
    arrays, entry = read_checkpoint(options.file), BACKBONES[options.name]
    generation = STATIC if "conv1_weights" in arrays or "conv1_1_weights" in arrays else entry.generation(DYGRAPH)
    check_backbone(arrays, entry, generation, Path(options.file).name)
    say(f"{options.file} holds the arrays of {entry.name}")
    return OK


def _verify(entry: "ZooEntry", coco: Path) -> int:
    """Print the published and the measured AP; return SOME_FAILED if they are too far apart."""
    files = {
        "weights": entry.name,
        "data.root": str(coco),
        "data.val_annotations": "annotations/instances_val2017.json",
        "data.val_images": "val2017",
    }
    config = load_config(entry.config, files)
    import_paddle()
    from ppsolo.evaluation.evaluate import compare_with_published, evaluate_source
    from ppsolo.evaluation.report import format_report
    from ppsolo.model_source import ModelSource
    from ppsolo.progress import ProgressBar

    with ProgressBar("download", unit="B") as download, ProgressBar(entry.name) as progress:
        report = evaluate_source(ModelSource(config), download=download.update, progress=progress.update).report
    say(format_report(report))
    line, agrees = compare_with_published(entry, report)
    say(line)
    return OK if agrees else SOME_FAILED
