"""Places of results: what cannot be written to is refused before the work, and nothing is created by the check."""

import os
from pathlib import Path

import pytest

from ppsolo.cli import main
from ppsolo.errors import ConfigError
from ppsolo.outputs import check_output_file, check_output_folder, output_folder


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    return path


def test_places_that_can_be_written_to(tmp_path, file):
    check_output_file(file, "--report")
    check_output_file(tmp_path / "new", "--report")
    check_output_folder(tmp_path, "--html")
    check_output_folder(tmp_path / "a" / "b", "--html")
    assert os.listdir(tmp_path) == ["file"]


def test_places_of_files_that_are_refused(tmp_path, file, monkeypatch):
    for place, reason in (
        (tmp_path, "a folder; give the name of a file"),
        ("/dev/null", "not a regular file"),
        (tmp_path / "gone" / "x", f"there is no folder {tmp_path / 'gone'}; create it first"),
        (file / "x", f"there is no folder {file}"),
    ):
        with pytest.raises(ConfigError, match=f"^--report {place}: {reason}"):
            check_output_file(place, "--report")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match=f"--report {tmp_path}/x: the folder {tmp_path} is not writable"):
        check_output_file(tmp_path / "x", "--report")


@pytest.mark.parametrize("check", [check_output_file, check_output_folder])
def test_names_that_cannot_be(check, tmp_path):
    with pytest.raises(ConfigError, match="File name too long; give another name"):
        check(tmp_path / ("x" * 300), "--output")


def test_places_of_folders_that_are_refused(tmp_path, file, monkeypatch):
    for place, reason in (
        (file, "a file; give a folder"),
        (file / "x" / "y", f"cannot be created, {file} is a file; choose another --html"),
    ):
        with pytest.raises(ConfigError, match=f"^--html {place}: {reason}"):
            check_output_folder(place, "--html")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match=f"--html {tmp_path}/x: {tmp_path} is not writable"):
        check_output_folder(tmp_path / "x", "--html")


def test_a_folder_without_results_does_not_stay(tmp_path):
    with pytest.raises(KeyError), output_folder(tmp_path / "a" / "b", "--output_dir"):
        raise KeyError
    assert not (tmp_path / "a").exists()
    with pytest.raises(KeyError), output_folder(tmp_path / "a" / "b", "--output_dir"):
        (tmp_path / "a" / "b" / "result").touch()
        raise KeyError
    with output_folder(tmp_path / "a", "--output_dir"):
        pass
    assert (tmp_path / "a" / "b" / "result").exists()


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    for name, target in (("broken", tmp_path / "gone"), ("loop", tmp_path / "loop")):
        (tmp_path / name).symlink_to(target)
        for check in (check_output_file, check_output_folder):
            with pytest.raises(ConfigError, match=r"a link to .*, which does not exist; remove or correct it"):
                check(tmp_path / name, "--report")


@pytest.mark.parametrize("command", [["convert", "-c", "compact", "--output"], ["import-data", "photos", "--output"]])
def test_links_in_a_circle_are_one_line(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    Path("a.pdparams").symlink_to("a.pdparams")
    Path("photos").symlink_to("photos")
    assert main([*command, "a.pdparams", *(["-o", "weights=a.pdparams"] if command[0] == "convert" else [])]) == 2
    assert main([*command, "b.pdparams", *(["-o", "weights=a.pdparams"] if command[0] == "convert" else [])]) == 2
    assert capsys.readouterr().err.count("ppsolo: error: ") == 2
