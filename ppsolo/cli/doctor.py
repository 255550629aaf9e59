"""`ppsolo doctor`: examine the installation and name the remedy for each fault."""

import argparse

from ppsolo.cli.shared import OK, SOME_FAILED, Commands, add_command, say
from ppsolo.processes import launched

EXAMPLES = """ppsolo doctor
ppsolo doctor --quick"""


def add(commands: Commands) -> None:
    """Add the command and its flags to the parser."""
    command = add_command(commands, "doctor", run, EXAMPLES)
    command.add_argument(
        "--quick", action="store_true", help="skip the computations with Paddle, which take up to a minute"
    )


def run(options: argparse.Namespace) -> int:
    """Show installed packages, the chosen runtime and the reason, what works, and the command that fixes each fault."""
    launched()  # wrong variables of a launcher would make every probe fail
    from ppsolo.doctor import examine, format_findings
    from ppsolo.progress import ProgressBar

    with ProgressBar("examine", unit="steps") as progress:
        findings = examine(probes=not options.quick, progress=progress.update)
    say(format_findings(findings))
    broken = [one.name for one in findings if one.status == "broken"]
    say(f"broken: {', '.join(broken)}" if broken else "nothing is broken")
    return SOME_FAILED if broken else OK
