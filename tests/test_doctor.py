"""The doctor: what it finds here, and what it says where something is missing or crashes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ppsolo import doctor
from ppsolo.cli import main
from ppsolo.doctor import Finding, examine, format_findings

ROOT = Path(__file__).parent.parent


def test_the_command_names_versions_devices_and_the_runtime(capsys):
    code = main(["doctor", "--quick"])
    text = capsys.readouterr().out
    assert all(word in text for word in ("versions", "devices", "Predictor takes", "CPU", "shared memory", "FFmpeg"))
    assert code == (1 if "broken:" in text else 0)


def test_what_is_missing_comes_with_its_remedy(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda package: False)
    monkeypatch.setattr("ppsolo.deploy.engines.installed", lambda package: False)
    found = {one.name: one for one in examine()}
    assert found["Paddle"].status == "missing" and "ppsolo[cpu]" in found["Paddle"].remedy
    assert found["openvino"].remedy == "pip install 'ppsolo[openvino]'"
    assert found["Predictor takes"].text.startswith("dygraph")
    assert found["fonts"].remedy == "pip install pillow"
    assert "oneDNN" not in found  # without Paddle there is nothing to compute with


def test_a_probe_that_crashes_is_a_finding(monkeypatch):
    monkeypatch.setattr(doctor, "_ONEDNN", "import os, sys; print('Illegal instruction', file=sys.stderr); os.abort()")
    (found,) = doctor._onednn()
    assert found.status == "broken" and "Illegal instruction" in found.text and found.remedy


def test_little_shared_memory_is_found(monkeypatch):
    monkeypatch.setattr(doctor, "LEAST_SHARED_MEMORY", 1 << 60)
    (found,) = doctor._shared_memory()
    assert found.status == "broken" or sys.platform != "linux"


def test_the_remedy_stands_below():
    text = format_findings([Finding("fonts", "missing", "no font", "apt-get install fonts-noto-cjk")])
    assert text.splitlines()[1].strip() == "-> apt-get install fonts-noto-cjk"


def test_quiet_shows_no_progress(monkeypatch, capsys):
    monkeypatch.setenv("PPSOLO_PROGRESS", "on")  # put back afterwards
    main(["-q", "doctor", "--quick"])
    assert "examine" not in capsys.readouterr().err


def test_the_shell_completes_commands_and_flags(tmp_path):
    pytest.importorskip("argcomplete", reason="argcomplete is not installed")
    for line, expected in (("ppsolo doc", "doctor"), ("ppsolo eval --htm", "--html")):
        answer = tmp_path / "answer"
        environment = {
            **os.environ,
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
        }
        subprocess.run([sys.executable, "-m", "ppsolo"], env=environment, cwd=ROOT, capture_output=True, check=False)
        assert expected in answer.read_text()
