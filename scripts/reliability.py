"""The page of results, tests/RELIABILITY.md: one section per measuring script; a new run replaces it."""

import argparse
import datetime
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path

PAGE = Path(__file__).parents[1] / "tests" / "RELIABILITY.md"
HEAD = """# Reliability

The script that a section names writes it with `--record`. Do not edit this page by hand.
"""


def record(script: str, lines: Sequence[str], page: Path = PAGE) -> None:
    """Replace the section of a script by these lines, after the date and the machine."""
    text = page.read_text(encoding="utf-8") if page.exists() else HEAD
    start, end = f"<!-- {script} -->", f"<!-- end of {script} -->"
    text = re.sub(rf"\n{re.escape(start)}.*?{re.escape(end)}\n", "", text, flags=re.DOTALL)
    today = datetime.datetime.now(tz=datetime.timezone.utc).date()
    about = f"{today}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    section = [start, f"## `scripts/{script}`", "", about, "", *lines, end]
    page.write_text(text + "\n" + "\n".join(section) + "\n", encoding="utf-8")


def recorded(script: str, page: Path = PAGE) -> list[str]:
    """The lines of a script's section; none where there is no such section."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    return text.partition(f"<!-- {script} -->")[2].partition(f"<!-- end of {script} -->")[0].splitlines()


def recorded_rows(script: str, keys: int) -> dict[tuple[str, ...], str]:
    """The rows of the table in a script's section, without its head, by the text of their first `keys` cells."""
    rows = [line for line in recorded(script) if line.startswith("|")][2:]
    return {tuple(cell.strip() for cell in row.strip("|").split("|")[:keys]): row for row in rows}


def main() -> int:
    """Print the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    sys.stdout.write(PAGE.read_text(encoding="utf-8") if PAGE.exists() else HEAD)
    return 0


if __name__ == "__main__":
    sys.exit(main())
