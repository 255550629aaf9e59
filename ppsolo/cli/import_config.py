"""`ppsolo import-config`: translate a configuration of PaddleDetection."""

import argparse
from pathlib import Path

from ppsolo.cli.shared import OK, Commands, add_command, add_override, say, say_note
from ppsolo.config import config_to_dict, find_config, import_theirs, load_config
from ppsolo.errors import ConfigError
from ppsolo.legacy.yaml_files import is_paddledetection
from ppsolo.text import typed
from ppsolo.yaml_text import dumped

EXAMPLES = "ppsolo import-config PaddleDetection/configs/solov2/solov2_r50_fpn_1x_coco.yml > mine.yml"


def add(commands: Commands) -> None:
    """Add the command and its flags to the parser."""
    command = add_command(commands, "import-config", run, EXAMPLES)
    command.add_argument("config", metavar="FILE", help="a SOLOv2 configuration of PaddleDetection 0.5 or 2.x")
    add_override(command, help="change a key first, one of PaddleDetection or of ppsolo")


def run(options: argparse.Namespace) -> int:
    """Translate a configuration of PaddleDetection for ppsolo, and list the differences on standard error."""
    file = find_config(Path(options.config))
    if not is_paddledetection(file):
        raise _refusal(file)
    config, notes = import_theirs(file, options.override)
    for note in notes:
        say_note(str(note))
    say(f"# {config.name}, from PaddleDetection's {file.name}.\n{dumped(config_to_dict(config)).rstrip()}")
    return OK


def _refusal(file: Path) -> ConfigError:
    """Return the error for a file that is not PaddleDetection's: it may be ppsolo's own, or no configuration at all."""
    try:
        load_config(file)
    except ConfigError as error:
        return ConfigError(
            f"{file}: not a configuration of PaddleDetection, which has `architecture: SOLOv2`, nor one of ppsolo "
            f"({error})"
        )
    return ConfigError(
        f"{file}: not a configuration of PaddleDetection but one of ppsolo: use it as it is, with -c {typed(file)}"
    )
