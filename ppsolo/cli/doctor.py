"""`ppsolo doctor`: what is installed, what works here, and how to mend what does not."""

import argparse

from ppsolo.cli.shared import OK, SOME_FAILED, Commands, add_command, say

EXAMPLES = """ppsolo doctor
ppsolo doctor --quick"""


def add(commands: Commands) -> None:
    """Add the command and its flags to the parser."""
    command = add_command(commands, "doctor", run, EXAMPLES)
    command.add_argument("--quick", action="store_true", help="do not compute with Paddle, which takes up to a minute")


def run(options: argparse.Namespace) -> int:
    """Say what is installed, which runtime answers and why, what works, and what mends the rest."""
    from ppsolo.doctor import examine, format_findings
    from ppsolo.progress import ProgressBar

    with ProgressBar("examine", unit="steps") as progress:
        findings = examine(probes=not options.quick, progress=progress.update)
    say(format_findings(findings))
    broken = [one.name for one in findings if one.status == "broken"]
    say(f"broken: {', '.join(broken)}" if broken else "nothing is broken")
    return SOME_FAILED if broken else OK
