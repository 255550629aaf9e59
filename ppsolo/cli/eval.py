"""`ppsolo eval`: average precision on COCO annotations."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppsolo.cli.shared import OK, Commands, add_command, add_config, import_paddle, say
from ppsolo.config import load_answering_config
from ppsolo.errors import ConfigError

if TYPE_CHECKING:
    from ppsolo.config import Config

EXAMPLES = """ppsolo eval -c output/mine/config.yml -o weights=output/mine/best.pdparams --classwise"""


def add(commands: Commands) -> None:
    """Add the command and its flags to the parser."""
    command = add_command(commands, "eval", run, EXAMPLES)
    add_config(command, required=False)
    command.add_argument("--json_eval", metavar="FILE", help="COCO results made elsewhere, in place of a model")
    command.add_argument("--annotations", metavar="FILE", help="what --json_eval is compared with")
    command.add_argument("--classwise", action="store_true", help="a table of the classes too")
    command.add_argument("--report", metavar="FILE", help="write all numbers as JSON")
    command.add_argument("--save_results", action="store_true", help="write predictions.json (COCO results)")
    command.add_argument(
        "--output_dir", default="output/eval", metavar="DIR", help="where it goes, default: %(default)s"
    )
    command.add_argument(
        "--batch_size", type=int, default=1, metavar="N", help="images per forward, default: %(default)s"
    )


def run(options: argparse.Namespace) -> int:
    """Average precision on COCO annotations, of a model or (--json_eval) of results made elsewhere."""
    from ppsolo.evaluation.report import format_report, write_report

    if options.json_eval is not None:
        if options.annotations is None:
            raise ConfigError("--json_eval needs the annotations it is compared with: add --annotations FILE")
        from ppsolo.evaluation.coco_evaluator import evaluate_results

        report = evaluate_results(options.annotations, options.json_eval)
    else:
        if options.config is None:
            raise ConfigError("nothing to evaluate: give a configuration (-c), or results (--json_eval)")
        if options.batch_size < 1:
            raise ConfigError(f"--batch_size is {options.batch_size}, give at least 1")
        config = load_answering_config(options.config, options.override)
        import_paddle()
        report = _evaluate_model(config, options)
        if report is None:
            return OK
    say(format_report(report, per_class=options.classwise))
    if options.report is not None:
        write_report(report, options.report)
    return OK


def _evaluate_model(config: "Config", options: argparse.Namespace) -> dict[str, Any] | None:
    """The report, on the main process; None on the others."""
    from ppsolo.evaluation.evaluate import evaluate_config, write_results
    from ppsolo.processes import start_processes
    from ppsolo.progress import Progress

    processes = start_processes()
    with Progress("download", unit="B") as download, Progress("evaluate") as progress:
        evaluation = evaluate_config(
            config,
            batch_size=options.batch_size,
            keep_results=options.save_results,
            processes=processes,
            download=download.update,
            progress=progress.update,
        )
    if not processes.is_main:
        return None
    say(evaluation.origin)
    say(evaluation.description)
    if options.save_results:
        path = Path(options.output_dir) / "predictions.json"
        write_results(evaluation.results, path)
        say(f"{len(evaluation.results)} results written to {path}")
    return evaluation.report
