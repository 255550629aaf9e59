"""The documents name what is there: every room, and only files that exist."""

import argparse
import ast
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from script_files import load_script
from test_imports import PACKAGE, ROOMS

import ppsolo
from ppsolo import cli
from ppsolo.config import dotted_keys
from ppsolo.schema import Config
from ppsolo.training.sinks import ConsoleSink

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


def test_the_reference_is_readable():
    page = reference_pages().api_page()
    assert "Built-in" not in page and "collections.abc" not in page
    assert "read_image(source: Source," in page


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


def test_the_data_set_written_by_hand_is_correct(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "your-data.md").read_text(encoding="utf-8")
    (annotations,) = re.findall(r"^```json\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (configuration,) = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(annotations.splitlines()) == 10
    monkeypatch.chdir(tmp_path)
    folder = Path("data/mine")
    for part, name in (("train", "street.jpg"), ("val", "park.jpg")):
        (folder / part).mkdir(parents=True)
        ppsolo.write_image(folder / part / name, np.zeros((480, 640, 3), np.uint8))
        (folder / f"instances_{part}.json").write_text(annotations.replace("street.jpg", name))
        assert f"{name}" in page and f"instances_{part}.json" in page
    (folder / "config.yml").write_text(configuration)
    assert cli.main(["check-data", "-c", "data/mine/config.yml"]) == 0
    assert capsys.readouterr().out.count("nothing is wrong") == 2


def test_the_log_line_of_the_documents_is_that_of_training():
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^epoch .* left$", page, re.MULTILINE)
    numbers = dict.fromkeys(
        ("loss", "loss_mask", "loss_category", "learning_rate", "data_seconds", "step_seconds"), 1.0
    )
    stream = io.StringIO()
    sink = ConsoleSink(stream, first_step=0, total_steps=400)
    sink.log({"train/epoch": 2, **{f"train/{name}": value for name, value in numbers.items()}}, 120)
    shape = re.compile(r"[\d.:e+-]+")
    assert shape.sub("#", stream.getvalue().splitlines()[-1]) == shape.sub("#", line)


def printed_texts() -> list[str]:
    """Every text in the package's code, with "..." for what is filled in."""
    texts = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "..." for part in node.values]
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def test_the_errors_among_the_questions_are_those_that_are_printed():
    page = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    quoted = re.findall(r'^\*\*"([^"]+)"\*\*', page, re.MULTILINE)
    assert len(quoted) >= 4
    texts = printed_texts()
    for error in quoted:
        pattern = re.compile(".*".join(re.escape(part) for part in error.split("...")))
        assert any(pattern.search(text) for text in texts), f"no error reads {error!r}"


def test_keys_in_the_documents_are_those_of_the_schema():
    known = set(dotted_keys(Config, ""))
    known |= {key.rpartition(".")[0] for key in known}
    for document in DOCUMENTS:
        if document.name in ("CHANGELOG.md", "migration.md"):  # they name keys that are gone
            continue
        text = document.read_text(encoding="utf-8")
        for key in re.findall(r"`((?:train|data|model|preprocess|postprocess)\.[a-z_.]+)(?:=[^`]*)?`", text):
            assert key in known or is_a_file(key), f"{document.name}: {key}"


def is_a_file(name: str) -> bool:
    return name.rpartition(".")[2] in ("py", "yml", "yaml", "json", "onnx", "pdmodel", "pdiparams", "pdparams")
