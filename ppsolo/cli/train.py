"""`ppsolo train`: train or fine-tune."""

import argparse
import logging
import os
import sys

from ppsolo.cli.shared import OK, Commands, add_command, add_config, import_paddle, say
from ppsolo.config import load_config
from ppsolo.progress import Progress
from ppsolo.training.stop_request import StopRequest, TrainingInterrupted, launcher_id

EXAMPLES = """ppsolo train -c mine.yml
ppsolo train -c output/mine/config.yml -r auto"""


def add(commands: Commands) -> None:
    """Add the command and its flags to the parser."""
    command = add_command(commands, "train", run, EXAMPLES)
    add_config(command)
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
    config = load_config(options.config, options.override)
    try:
        with StopRequest(launcher=launcher_id(), console=sys.stderr) as stop:
            import_paddle()
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
