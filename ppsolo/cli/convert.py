"""`ppsolo convert`: write a checkpoint under other names."""

import argparse
from pathlib import Path

from ppsolo.cli.shared import OK, Commands, add_command, add_config, import_paddle, say
from ppsolo.config import load_config
from ppsolo.errors import ConfigError

EXAMPLES = """ppsolo convert -c solov2_r50_fpn_3x -o weights=old.pdparams --output new.pdparams"""


def add(commands: Commands) -> None:
    """Add the command and its flags to the parser."""
    command = add_command(commands, "convert", run, EXAMPLES)
    add_config(command)
    command.add_argument("--output", required=True, metavar="FILE", help=".pdparams or .safetensors")
    command.add_argument(
        "--names",
        choices=("dygraph-2.x", "ppsolo"),
        default="dygraph-2.x",
        help="whose parameter names, default: %(default)s",
    )


def run(options: argparse.Namespace) -> int:
    """Write a checkpoint under the names of PaddleDetection 2.x, or under ppsolo's."""
    config = load_config(options.config, options.override)
    import_paddle()
    from ppsolo.checkpoint.load import save_weights
    from ppsolo.predictor import load_model
    from ppsolo.progress import ProgressBar

    if Path(options.output).suffix not in (".pdparams", ".safetensors"):
        raise ConfigError(f"--output {options.output}: end it in .pdparams or .safetensors")
    if config.weights is not None and Path(options.output).resolve() == Path(config.weights).resolve():
        raise ConfigError(f"--output {options.output} is the file to be read; choose another")
    with ProgressBar("download", unit="B") as progress:
        model, report = load_model(config, progress=progress.update)
    save_weights(model, options.output, generation=options.names)
    say(f"{report}; written to {options.output} under the names of {options.names}")
    return OK
