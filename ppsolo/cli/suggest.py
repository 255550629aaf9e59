"""`ppsolo suggest`: a configuration for a data set."""

import argparse
from pathlib import Path

from ppsolo.cli.shared import OK, Commands, add_command, add_override, check_number, say
from ppsolo.yaml_text import quoted

EXAMPLES = """ppsolo suggest -c data/mine/config.yml > mine.yml
ppsolo suggest --annotations data/mine/instances_train.json --images data/mine/train > mine.yml
ppsolo suggest --from_nothing -o data.root=photos > mine.yml"""

CONFIG_HELP = "the config.yml of ppsolo import-data, for its data set; or a shipped configuration to start from"


def add(commands: Commands) -> None:
    """Add the command and its flags to the parser."""
    command = add_command(commands, "suggest", run, EXAMPLES)
    command.add_argument("-c", "--config", metavar="NAME", help=CONFIG_HELP)
    add_override(command, help="settings to keep, e.g. -o data.root=data/mine name=mine")
    command.add_argument("--annotations", metavar="FILE", help="the COCO file of the training images")
    command.add_argument("--images", metavar="DIR", help="the folder that its file names are relative to")
    add_start(command)
    command.add_argument("--processes", type=int, default=1, metavar="N", help="processes in training; default: 1")
    command.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="device in training; default: cpu")


def add_start(command: argparse.ArgumentParser) -> None:
    """Add --from_nothing."""
    command.add_argument(
        "--from_nothing",
        action="store_true",
        help="with a recipe: a small network that starts from random weights, without a download",
    )


def run(options: argparse.Namespace) -> int:
    """Read a data set and print a configuration that fits it, with reasons."""
    from ppsolo.training.recipe import recipe_config, suggest_recipe

    check_number(options, "processes", least=1)
    overrides = list(options.override)
    for flag, key in ((options.annotations, "train_annotations"), (options.images, "train_images")):
        if flag is not None:
            overrides += [f"data.{key}={quoted(str(Path(flag).absolute()))}"]
    recipe = suggest_recipe(
        options.config,
        overrides,
        from_nothing=options.from_nothing,
        processes=options.processes,
        gpu=options.device == "gpu",
    )
    recipe_config(recipe)  # refuse it now if it cannot be resolved
    say(recipe.text().rstrip("\n"))
    return OK
