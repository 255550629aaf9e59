"""The documents name what is there: every room, and only files that exist."""

import re
from pathlib import Path

import pytest
from test_imports import PACKAGE, ROOMS

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def test_every_room_is_on_the_map():
    table = ARCHITECTURE.split("## The rooms")[1].split("\n## ")[0]
    rooms = {room for room in ROOMS if "/" not in room} - {"__main__"}
    assert rooms <= set(re.findall(r"`(\w+)`", table))


def test_files_on_the_map_exist():
    for name in set(re.findall(r"\b((?:\w+/)*\w+\.py)\b", ARCHITECTURE)):
        places = (PACKAGE, ROOT, PACKAGE / "checkpoint")
        assert any((place / name).is_file() for place in places), f"architecture.md names {name}, which is not there"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document):
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} links to {target}, which is not there"
