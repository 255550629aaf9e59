"""The documents name what is there: every room, and only files that exist."""

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from script_files import load_script
from test_imports import PACKAGE, ROOMS

import ppsolo
from ppsolo import cli

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


def reference_pages():
    return load_script("write_reference")


def test_the_configuration_reference_is_that_of_the_schema():
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == reference_pages().configuration_page(), "run python scripts/write_reference.py"


def test_every_public_name_is_in_the_reference():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert {f"## ppsolo.{name}" for name in ppsolo.__all__} - {"## ppsolo.__version__", "## ppsolo.Config"} <= set(
        page.splitlines()
    )


def commands(text: str) -> list[list[str]]:
    """The words of each command of ours in code blocks, fenced or indented, without what stands before it."""
    found = []
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    blocks = [block for language, block in fenced if language in ("", "sh", "bash", "console")]
    blocks += re.findall(r"^    (ppsolo .*)$", text, re.MULTILINE)
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        command = re.search(r"^(?:.*[|&] (?:\S*bin/)?)?ppsolo (.*)", line)
        if command:
            words = shlex.split(command[1], comments=True)
            found.append(words[: words.index(">")] if ">" in words else words)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_in_the_documents_is_understood(document):
    for words in commands(document.read_text(encoding="utf-8")):
        cli.parser().parse_args(words)


def test_commands_are_found_in_every_form():
    text = "```sh\nls | ppsolo infer --source - # x\na && .venv/bin/ppsolo demo\n```\n\n    ppsolo doctor > log\n"
    assert commands(text) == [["infer", "--source", "-"], ["demo"], ["doctor"]]


def test_flags_in_running_text_exist():
    """`ppsolo COMMAND --flag` within a line names flags of that command, `python scripts/X.py --flag` those of X."""
    actions = next(a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for name, rest in re.findall(r"`ppsolo ([a-z][\w-]*)([^`\n]*)`", text):
            assert name in actions.choices, f"{document.name}: there is no command ppsolo {name}"
            known = actions.choices[name]._option_string_actions
            for flag in re.findall(r"(?<=\s)--?[a-z][\w-]*", rest.split("&&")[0]):
                assert flag in known, f"{document.name}: ppsolo {name} has no {flag}"
        for script, rest in re.findall(r"python3? (?:-m \S+ (?:--\w+ \S+ )*)?(scripts/\w+\.py)([^`\n]*)", text):
            source = (ROOT / script).read_text(encoding="utf-8")
            if "from ppsolo.cli import main" not in source:
                for flag in re.findall(r"(?<=\s)--[a-z][\w-]*", rest.split("#")[0]):
                    assert f'"{flag}"' in source, f"{document.name}: {script} has no {flag}"


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "first-hour" / "index.html").is_file()
