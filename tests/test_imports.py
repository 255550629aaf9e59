"""The house: imports between rooms go one way."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ppsolo"
# From the ground up, one room a floor: a module imports its own room and rooms on lower floors, nothing else.
ROOMS = (
    "text",
    "errors",
    "version",
    "interface",
    "cpu",
    "atomic",
    "progress",
    "processes",
    "outputs",
    "schema",
    "config_limits",
    "yaml_text",
    "legacy",
    "config",
    "checkpoint",
    "results",
    "models",
    "data",
    "formats",
    "serve",
    "check",
    "build",
    "pipeline",
    "deploy",
    "predictor",
    "model_source",
    "tracking",
    "infer",
    "evaluation",
    "training",
    "build/training",
    "training/run",
    "doctor",
    "benchmark",
    "demo",
    "api",
    "bulk",
    "cli",
    "__main__",
)
FLOOR_OF = {room: floor for floor, room in enumerate(ROOMS)}
# Rooms that stand on different floors and still do not know each other.
APART = {("data", "models"), ("models", "results")}


def room_at(*names: str) -> str:
    """The room of a module; a file that has a floor of its own is a room."""
    own = "/".join(names[:2])
    return own if own in FLOOR_OF else names[0]


def room_of(path: Path) -> str:
    return room_at(*path.relative_to(PACKAGE).with_suffix("").parts)


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ppsolo."):
            rooms |= {room_at(*node.module.split(".")[1:], alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "ppsolo":
            rooms |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {room_at(*alias.name.split(".")[1:]) for alias in node.names if alias.name.startswith("ppsolo.")}
    return rooms


MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_arrow_goes_up(path):
    room = room_of(path)
    for other in imported_rooms(path) - {room}:
        assert FLOOR_OF[other] < FLOOR_OF[room], f"{path.name} ({room}) imports {other}, which lies above it"
        assert (room, other) not in APART, f"{room} and {other} do not know each other"


@pytest.mark.parametrize("path", [*MODULES, PACKAGE / "__init__.py"], ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_first_line_says_what_a_file_is(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring and docstring.splitlines()[0].endswith((".", ":"))
