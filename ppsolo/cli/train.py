"""`ppsolo train`: train or fine-tune."""

import argparse
import logging
import sys
from pathlib import Path

from ppsolo.atomic import temporary_name
from ppsolo.cli.paddledetection import add_refused_flags, add_switch
from ppsolo.cli.shared import OK, Commands, add_command, add_config, import_paddle, say, say_note
from ppsolo.cli.suggest import add_start
from ppsolo.config import load_config, override_config
from ppsolo.errors import ConfigError
from ppsolo.processes import launched
from ppsolo.progress import ProgressBar
from ppsolo.schema import Config
from ppsolo.training.stop_request import StopRequest, TrainingInterrupted, launcher_id

EXAMPLES = """ppsolo train -c mine.yml
ppsolo train -c output/mine/config.yml -r auto
ppsolo train --recipe auto -c data/mine/config.yml
ppsolo train --recipe auto --from_nothing -o data.root=photos"""


def add(commands: Commands) -> None:
    """Add the command and its flags to the parser."""
    command = add_command(commands, "train", run, EXAMPLES)
    add_config(command, required=False)
    command.add_argument(
        "--recipe",
        choices=("auto",),
        help="auto: choose settings that fit the data set, as ppsolo suggest does. -c is then the config.yml of "
        "ppsolo import-data, or a shipped configuration to start from",
    )
    add_start(command)
    command.add_argument(
        "-r",
        "--resume",
        "--resume_checkpoint",
        nargs="?",
        const="auto",
        metavar="FILE",
        help="resume a training state; auto: the newest whole one of the run, or a new run if there is none; weights "
        "(FILE.pdparams or its stem, also of a PaddleDetection run): start a new run from them",
    )
    command.add_argument(
        "--amp", "--fp16", action="store_true", help="mixed precision on a GPU, the same as train.amp=O1"
    )
    command.add_argument(
        "--eval", action="store_true", help="evaluate during training, which is the default: see train.evaluate_every"
    )
    add_switch(command, "--use_vdl", default=True, help="accepted; every run writes VisualDL's log in its directory")
    command.add_argument("--vdl_log_dir", metavar="DIR", help="make DIR a link to VisualDL's log")
    command.add_argument("--fleet", action="store_true", help=argparse.SUPPRESS)
    add_switch(command, "--enable_ce", help=argparse.SUPPRESS)
    add_refused_flags(command, "train")


def run(options: argparse.Namespace) -> int:
    """Train or fine-tune, alone or under `python -m paddle.distributed.launch`."""
    config = None
    if options.recipe is None:
        if options.config is None:
            raise ConfigError("give a configuration (-c FILE), or --recipe auto with the data set (-o data.root=...)")
        config = _with_flags(load_config(options.config, options.override), options)
    try:
        with StopRequest(launcher=launcher_id(), console=sys.stderr) as stop:
            import_paddle()
            config = config or _with_flags(_recipe(options), options)
            from ppsolo.training.run import train as run_training

            if launched().rank == 0:
                logging.getLogger("ppsolo").setLevel(logging.INFO)
            with ProgressBar("download", unit="B") as progress:
                summary = run_training(
                    config, resume=options.resume, console=sys.stderr, download=progress.update, stop=stop
                )
    except TrainingInterrupted as interruption:
        say(f"ppsolo: {interruption}", sys.stderr)
        return interruption.exit_code
    say(str(summary))
    return OK


def _with_flags(config: Config, options: argparse.Namespace) -> Config:
    """Return the configuration with --amp, --eval, and weights given as --resume; report the differences."""
    changes: dict[str, object] = {}
    if options.amp:
        changes["train.amp"] = "O1"
    if options.eval and config.train.evaluate_every == 0:
        changes["train.evaluate_every"] = 1
    if options.fleet:
        say_note("--fleet is ignored: under paddle.distributed.launch, gradients are always averaged")
    if options.enable_ce:
        say_note("--enable_ce is ignored: train.seed always determines the run")
    if not options.use_vdl:
        say_note("--use_vdl False is ignored: every run writes VisualDL's log")
    if options.vdl_log_dir is not None:
        changes["train.sinks"] = list(dict.fromkeys((*config.train.sinks, "visualdl")))
        log = Path(config.train.output_dir) / config.name / "visualdl"
        link_folder(Path(options.vdl_log_dir), log)
    if options.resume not in (None, "auto") and (weights := weights_to_resume(options.resume)) is not None:
        say_note(
            f"--resume {options.resume}: weights, not a training state; optimizer and schedule start from the beginning"
        )
        changes["weights"] = str(weights)
        options.resume = None
    return override_config(config, changes) if changes else config


def weights_to_resume(source: str) -> Path | None:
    """Return the weights file that --resume names by file or stem; None for a training state."""
    if Path(source).suffix in (".pdparams", ".pdema"):
        return Path(source)
    beside = Path(f"{source}.pdparams")
    return beside if not Path(source).exists() and beside.is_file() else None


def link_folder(link: Path, target: Path) -> None:
    """Make `link` point to `target`, which may not exist yet. Raises ConfigError if something else is there."""
    if launched().rank != 0:
        return
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink():
            fresh = temporary_name(link)
            fresh.symlink_to(target.absolute(), target_is_directory=True)
            fresh.replace(link)  # an earlier link is not lost on a full disk
        else:
            link.symlink_to(target.absolute(), target_is_directory=True)
    except OSError as error:
        raise ConfigError(f"--vdl_log_dir {link}: cannot be created ({error.strerror}); choose another") from None


def _recipe(options: argparse.Namespace) -> Config:
    """Return the configuration that fits the data set; write its text to standard error."""
    import paddle

    from ppsolo.training.recipe import recipe_config, suggest_recipe

    recipe = suggest_recipe(
        options.config,
        options.override,
        from_nothing=options.from_nothing,
        processes=launched().world_size,
        gpu=paddle.device.get_device().startswith("gpu"),
    )
    if launched().rank == 0:
        say(recipe.text().rstrip("\n"), sys.stderr)
    return recipe_config(recipe)
