"""The house: imports between rooms go one way."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ppsolo"
# From the ground up; a module may import what lies below its own floor, and its own room.
FLOORS = (
    ("errors", "atomic", "rle", "cpu"),
    ("models", "data", "config", "schema", "masks", "detection"),
    ("visualize", "plot"),
    ("instances", "legacy"),
    ("build", "checkpoint"),
    ("pipeline", "engine", "predictor", "deploy", "progress"),
    ("cli",),
    ("__main__",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
APART = {("models", "data"), ("data", "models"), ("config", "models"), ("config", "data"), ("config", "masks")}
APART |= {("schema", room) for room in ("models", "data", "config", "masks")}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ppsolo."):
            rooms.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "ppsolo":
            rooms |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("ppsolo.")}
    return rooms


MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_arrow_goes_up(path):
    room = room_of(path)
    for other in imported_rooms(path) - {room}:
        assert FLOOR_OF[other] <= FLOOR_OF[room], f"{path.name} ({room}) imports {other}, which lies above it"
        assert (room, other) not in APART, f"{room} and {other} do not know each other"


@pytest.mark.parametrize("path", [*MODULES, PACKAGE / "__init__.py"], ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_first_line_says_what_a_file_is(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring and docstring.splitlines()[0].endswith((".", ":"))
