"""Every command refuses a place that it cannot write to before it reads its input."""

import pytest

from ppsolo.cli import main

EVAL = ["eval", "-c", "compact"]
CHECK = ["check-data", "-c", "compact", "--annotations", "gone.json", "--images", "gone"]
INFER = ["infer", "-c", "compact", "--source", "{folder}", "--output_dir", "{file}/x"]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ([*CHECK, "--json", "{folder}"], "--json {folder}: a folder"),
        ([*CHECK, "--json", "{folder}/new/x"], "--json {folder}/new/x: there is no folder {folder}/new"),
        ([*EVAL, "--report", "{folder}/new/x"], "--report {folder}/new/x: there is no folder"),
        ([*EVAL, "--find_thresholds", "{folder}/new/x"], "--find_thresholds {folder}/new/x: there is no folder"),
        ([*EVAL, "--html", "{file}/x"], "--html {file}/x: cannot be created, {file} is a file"),
        ([*EVAL, "--save_results", "--output_dir", "{file}/x"], "--output_dir {file}/x: cannot be created"),
        ([*EVAL, "-f", "{file}/x"], "--output_eval {file}/x: cannot be created"),
        (["benchmark", "-c", "compact", "--image", "x.jpg", "--output", "{folder}"], "--output {folder}: a folder"),
        (["benchmark", "-c", "compact", "--image", "x.jpg", "--output", "{folder}/new/x"], "there is no folder"),
        (["merge", "gone", "--output", "{folder}/new/x.json"], "--output {folder}/new/x.json: there is no folder"),
        (["convert", "-c", "compact", "--output", "{folder}/new/x.pdparams"], "there is no folder {folder}/new"),
        (["export", "-c", "compact", "--output_dir", "{file}/x"], "--output_dir {file}: a file; give a folder"),
        (["import-data", "gone", "--output", "{file}/x"], "--output {file}/x: cannot be created"),
        (["demo", "--output_dir", "{file}/x"], "--output_dir {file}/x: cannot be created"),
        (["train", "-c", "compact", "-o", "train.output_dir={file}"], "train.output_dir {file}/compact: cannot be"),
        (INFER, "--output_dir {file}/x: cannot be created, {file} is a file; choose another --output_dir"),
        ([*INFER, "--results", "jsonl"], "--output_dir {file}/x: cannot be created"),
    ],
)
def test_a_wrong_place_is_found_first(tmp_path, capsys, command, reason):
    places = {"folder": str(tmp_path / "folder"), "file": str(tmp_path / "file")}
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").touch()
    (tmp_path / "file").write_text("")
    assert main([word.format(**places) for word in command]) == 2
    said = capsys.readouterr().err
    assert reason.format(**places) in said and said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
