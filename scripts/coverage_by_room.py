"""Prints the share of statements that the tests run, per room, from coverage's JSON report."""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path


def by_room(report: dict) -> dict[str, tuple[int, int]]:
    """Room -> (statements that ran, statements), from the content of `coverage json`."""
    rooms: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, file in report["files"].items():
        parts = Path(name).with_suffix("").parts
        room = parts[parts.index("ppsolo") + 1]
        rooms[room][0] += file["summary"]["covered_lines"]
        rooms[room][1] += file["summary"]["num_statements"]
    return {room: (ran, total) for room, (ran, total) in sorted(rooms.items()) if total}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="a file of `coverage json`")
    rooms = by_room(json.loads(parser.parse_args().report.read_text()))
    rooms["all"] = (sum(ran for ran, _ in rooms.values()), sum(total for _, total in rooms.values()))
    for room, (ran, total) in rooms.items():
        sys.stdout.write(f"{room:12} {100 * ran / total:5.1f} % of {total} statements\n")


if __name__ == "__main__":
    main()
