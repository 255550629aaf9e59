"""`ppsolo train`: train or fine-tune."""

import argparse
import logging
import os
import sys

from ppsolo.cli.shared import OK, Commands, add_command, add_config, import_paddle, say
from ppsolo.cli.suggest import add_start
from ppsolo.config import load_config
from ppsolo.errors import ConfigError
from ppsolo.progress import Progress
from ppsolo.schema import Config
from ppsolo.training.stop_request import StopRequest, TrainingInterrupted, launcher_id

EXAMPLES = """ppsolo train -c mine.yml
ppsolo train -c output/mine/config.yml -r auto
ppsolo train --recipe auto -o data.root=data/mine data.train_annotations=train.json data.train_images=train"""


def add(commands: Commands) -> None:
    """Add the command and its flags to the parser."""
    command = add_command(commands, "train", run, EXAMPLES)
    add_config(command, required=False)
    command.add_argument(
        "--recipe",
        choices=("auto",),
        help="auto: choose the settings for the data set, as ppsolo suggest does, for the shipped configuration -c",
    )
    add_start(command)
    command.add_argument(
        "-r",
        "--resume",
        nargs="?",
        const="auto",
        metavar="FILE",
        help="go on from a training state; auto: the newest whole one of the run, or a new run where there is none",
    )


def run(options: argparse.Namespace) -> int:
    """Train or fine-tune, alone or under `python -m paddle.distributed.launch`."""
    config = None
    if options.recipe is None:
        if options.config is None:
            raise ConfigError("give a configuration (-c FILE), or --recipe auto with the data set (-o data.root=...)")
        config = load_config(options.config, options.override)
    try:
        with StopRequest(launcher=launcher_id(), console=sys.stderr) as stop:
            import_paddle()
            config = config or _recipe(options)
            from ppsolo.training.run import train as run_training

            if os.environ.get("PADDLE_TRAINER_ID", "0") == "0":
                logging.getLogger("ppsolo").setLevel(logging.INFO)
            with Progress("download", unit="B") as progress:
                summary = run_training(
                    config, resume=options.resume, console=sys.stderr, download=progress.update, stop=stop
                )
    except TrainingInterrupted as interruption:
        sys.stderr.write(f"ppsolo: {interruption}\n")
        return interruption.exit_code
    say(str(summary))
    return OK


def _recipe(options: argparse.Namespace) -> Config:
    """The configuration that suits the data set; its text goes to standard error."""
    import paddle

    from ppsolo.training.recipe import recipe_config, suggest_recipe

    recipe = suggest_recipe(
        options.config,
        options.override,
        from_nothing=options.from_nothing,
        processes=int(os.environ.get("PADDLE_TRAINERS_NUM", "1")),
        gpu=paddle.device.get_device().startswith("gpu"),
    )
    if os.environ.get("PADDLE_TRAINER_ID", "0") == "0":
        sys.stderr.write(recipe.text())
    return recipe_config(recipe)
