"""Places of results: what cannot be written to is refused before the work, and nothing is created by the check."""

import os

import pytest

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
