"""`ppsolo merge`: join the parts of a bulk run."""

import argparse
from pathlib import Path

from ppsolo.cli.shared import OK, Commands, add_command, say
from ppsolo.outputs import check_output_file
from ppsolo.text import counted

EXAMPLES = """ppsolo merge output/bulk --output predictions.json
ppsolo merge node1/bulk node2/bulk --output predictions.parquet"""


def add(commands: Commands) -> None:
    """Add the command and its flags to the parser."""
    command = add_command(commands, "merge", run, EXAMPLES)
    command.add_argument(
        "directories", nargs="+", type=Path, metavar="DIR", help="directories with the parts of all shards"
    )
    command.add_argument("--output", required=True, type=Path, metavar="FILE", help=".json, .jsonl or .parquet")
    command.add_argument("--partial", action="store_true", help="merge an unfinished run")


def run(options: argparse.Namespace) -> int:
    """Join the parts of `ppsolo infer --results` in the order of the list."""
    from ppsolo.bulk.merge import merge

    check_output_file(options.output, "--output")
    pictures, instances = merge(options.directories, options.output, partial=options.partial)
    say(f"{counted(instances, 'instance')} of {counted(pictures, 'picture')} are in {options.output}")
    return OK
