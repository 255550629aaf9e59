"""`ppsolo convert`: write a checkpoint with other parameter names."""

import argparse
import os
from pathlib import Path

from ppsolo.cli.shared import OK, Commands, add_command, add_config, import_paddle, say
from ppsolo.config import load_config
from ppsolo.errors import ConfigError
from ppsolo.outputs import check_output_file

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
        help="parameter names of ppsolo or of PaddleDetection 2.x, default: %(default)s",
    )


def run(options: argparse.Namespace) -> int:
    """Write a checkpoint with the parameter names of PaddleDetection 2.x or of ppsolo."""
    config = load_config(options.config, options.override)
    if Path(options.output).suffix not in (".pdparams", ".safetensors"):
        raise ConfigError(f"--output {options.output}: choose a name that ends with .pdparams or .safetensors")
    if config.weights is not None and os.path.realpath(options.output) == os.path.realpath(config.weights):
        raise ConfigError(f"--output {options.output} is the input file; choose another")
    check_output_file(options.output, "--output")
    import_paddle()
    from ppsolo.checkpoint.load import save_weights
    from ppsolo.predictor import load_model
    from ppsolo.progress import ProgressBar

    with ProgressBar("download", unit="B") as progress:
        model, report = load_model(config, progress=progress.update)
    save_weights(model, options.output, generation=options.names)
    say(f"{report}; written to {options.output} with the names of {options.names}")
    return OK
