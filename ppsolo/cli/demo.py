"""`ppsolo demo`: train a small network on drawn pictures."""

import argparse
import logging
import sys
from pathlib import Path

from ppsolo.cli.shared import OK, Commands, add_command, import_paddle, say
from ppsolo.errors import ConfigError
from ppsolo.processes import launched

EXAMPLES = """ppsolo demo --quick
ppsolo demo --output_dir output/demo"""


def add(commands: Commands) -> None:
    """Add the command and its flags to the parser."""
    command = add_command(commands, "demo", run, EXAMPLES)
    command.add_argument("--output_dir", default="output/demo", metavar="DIR", help="default: %(default)s")
    command.add_argument("--quick", action="store_true", help="train for one minute, which finds few objects")
    command.add_argument("--image", metavar="PATH", help="also predict on this photograph, with a published system")


def run(options: argparse.Namespace) -> int:
    """Draw a data set, train a small network on it, evaluate it, and write figures and pictures."""
    if launched().world_size > 1:
        raise ConfigError(
            "PADDLE_TRAINERS_NUM is set: ppsolo demo starts its processes itself; run it without "
            "python -m paddle.distributed.launch"
        )
    import_paddle()
    from ppsolo.demo import run_demo
    from ppsolo.progress import ProgressBar

    logging.getLogger("ppsolo").setLevel(logging.INFO)
    with ProgressBar("download", unit="B") as progress:
        lines = run_demo(
            output_dir=Path(options.output_dir),
            console=sys.stderr,
            image=options.image,
            quick=options.quick,
            progress=progress.update,
        )
    for line in lines:
        say(line)
    return OK
