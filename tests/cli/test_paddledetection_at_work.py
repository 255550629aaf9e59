"""The flags of PaddleDetection's tools at work: each is given to a very small system, and its effect is looked at."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from busy import busy_model
from gpus import GPUS, needs_gpus

from ppsolo import deploy, save_weights
from ppsolo.cli import main
from ppsolo.config import load_config
from ppsolo.data.images import read_image

SYSTEM = "solov2_r50_fpn_1x"
NAME = "tiny"


class System(NamedTuple):
    """A very small system that finds something in every picture; its pictures; the words of a command before flags.

    options: the configuration with the data set. weighted: the same, and the weights. model: the same in Paddle,
    because converting it for another runtime takes longer than to predict.
    """

    pictures: Path
    options: list[str]
    weighted: list[str]

    @property
    def model(self) -> list[str]:
        return [*self.weighted, "--engine", "dygraph"]


class Run(NamedTuple):
    """A training run: the folder above its directory, the link to VisualDL's log, and what standard error got."""

    folder: Path
    log: Path
    errors: str


@pytest.fixture(scope="module")
def system(training, drawn, tmp_path_factory) -> System:
    settings = {
        **training,
        "model.head.dcn_layers": [],
        "model.backbone.norm": "bn",
        "train.epochs": 1,
        "train.schedule.milestones": [],
        "postprocess.score_threshold": 0.1,
        "postprocess.update_threshold": 0.01,
    }
    weights = tmp_path_factory.mktemp("system") / "model_final.pdparams"
    save_weights(busy_model(load_config(SYSTEM, settings)), weights)
    options = ["-c", SYSTEM, "-o", *(f"{key}={json.dumps(value)}" for key, value in settings.items())]
    return System(drawn / "val", options, [*options, f"weights={weights.with_suffix('')}"])


@pytest.fixture(scope="module")
def run(system, tmp_path_factory) -> Run:
    """One epoch of 4 steps from random weights, with the flags of a usual command."""
    folder = tmp_path_factory.mktemp("runs")
    flags = ["--eval", "--fleet", "--use_vdl", "True", "--vdl_log_dir", str(folder / "vdl" / "scalar")]
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        assert main(["train", *system.options, f"train.output_dir={folder}", *flags]) == 0
    return Run(folder, folder / "vdl" / "scalar", errors.getvalue())


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / NAME / "log.jsonl").read_text().splitlines()]


def results_of(folder: Path) -> list[dict]:
    return json.loads((folder / "predictions.json").read_text())


def table(text: str) -> list[str]:
    """The rows of average precision that a command printed, over all classes."""
    rows = [line for line in text.splitlines() if line.startswith(("segm ", "bbox ", "boundary "))]
    return [row for row in rows if "by class" not in row]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Training


def test_eval_evaluates_though_the_configuration_does_not(system, run):
    assert "train.evaluate_every=0" in system.options
    assert [record["step"] for record in log_of(run.folder) if "val/segm_AP" in record] == [4]
    assert (run.folder / NAME / "best.pdparams").is_file()


def test_the_log_of_visualdl_appears_where_it_should(run):
    (file,) = run.log.glob("vdlrecords.*")
    visualdl = pytest.importorskip("visualdl")
    tags = visualdl.LogReader(file_path=str(file)).get_tags()["scalar"]
    assert {"train/loss", "val/segm_AP"} <= set(tags)


def test_a_log_is_written_though_the_configuration_has_another_tracker(system, tmp_path):
    folder = [f"train.output_dir={tmp_path}", "train.sinks=[]"]
    assert main(["train", *system.options, *folder, "--vdl_log_dir", str(tmp_path / "vdl")]) == 0
    assert list((tmp_path / "vdl").glob("vdlrecords.*"))


def test_fleet_is_said_and_changes_nothing(run):
    assert run.errors.count("note: --fleet is ignored") == 1
    assert [record["step"] for record in log_of(run.folder) if "train/loss" in record] == [1, 2, 3, 4]


def test_resume_checkpoint_continues_a_run(system, run, tmp_path):
    shutil.copytree(run.folder / NAME, tmp_path / NAME)
    state = tmp_path / NAME / "checkpoints" / "000000004.safetensors"
    longer = [f"train.output_dir={tmp_path}", "train.epochs=2"]
    assert main(["train", *system.options, *longer, "--resume_checkpoint", str(state)]) == 0
    assert [record["step"] for record in log_of(tmp_path) if "train/loss" in record] == list(range(1, 9))
    assert log_of(tmp_path)[:4] == log_of(run.folder)[:4]


@pytest.mark.skipif(GPUS > 0, reason="takes a machine without a GPU")
@pytest.mark.parametrize("flag", ["--amp", "--fp16"])
def test_mixed_precision_needs_a_gpu(system, tmp_path, capsys, flag):
    assert main(["train", *system.options, f"train.output_dir={tmp_path}", flag]) == 2
    assert "train.amp=O1 needs a GPU" in capsys.readouterr().err


@pytest.mark.parametrize("flag", [pytest.param("--amp", marks=needs_gpus())])
def test_mixed_precision_scales_the_loss(system, tmp_path, flag):
    assert main(["train", *system.options, f"train.output_dir={tmp_path}", flag]) == 0
    assert all(record["train/loss_scale"] > 1 for record in log_of(tmp_path) if "train/loss" in record)


def test_flags_hold_for_a_recipe(system, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr("ppsolo.training.run.train", lambda config, **_: trained.append(config) or "done")
    data = [text for text in system.options if text.startswith("data.")]
    command = ["train", "--recipe", "auto", "--from_nothing", "-o", *data, f"train.output_dir={tmp_path}"]
    assert main([*command, "train.evaluate_every=0", "--amp", "--eval", "--vdl_log_dir", str(tmp_path / "vdl")]) == 0
    (config,) = trained
    assert (config.train.amp, config.train.evaluate_every) == ("O1", 1)
    assert (tmp_path / "vdl").readlink() == tmp_path / config.name / "visualdl"


# Evaluation


def test_classwise_adds_a_row_for_each_class(system, capsys):
    assert main(["eval", *system.model]) == 0
    plain = capsys.readouterr().out
    assert table(plain) and not any(line.startswith("circle") for line in plain.splitlines())
    assert main(["eval", *system.model, "--classwise"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert table("\n".join(lines)) == table(plain)
    for name in ("circle", "rectangle", "triangle"):
        assert sum(line.split()[:1] == [name] for line in lines) == 3  # masks, boxes and boundaries


def test_json_eval_gives_the_numbers_of_the_model_that_wrote_the_results(system, tmp_path, capsys):
    assert main(["eval", *system.model, "--output_eval", str(tmp_path)]) == 0
    of_the_model = table(capsys.readouterr().out)
    assert results_of(tmp_path)
    assert main(["eval", *system.options, "--json_eval", "--output_eval", str(tmp_path)]) == 0
    assert table(capsys.readouterr().out) == of_the_model


def test_save_prediction_only_writes_the_file_alone(system, tmp_path, capsys):
    assert main(["eval", *system.model, "--save_prediction_only", "--output_eval", str(tmp_path)]) == 0
    assert table(capsys.readouterr().out) == []
    assert names(tmp_path) == ["predictions.json"] and results_of(tmp_path)


@pytest.mark.parametrize("flag", ["json_eval", "compare", "report", "html", "find_thresholds"])
def test_save_prediction_only_refuses_flags_that_need_precision(system, tmp_path, capsys, flag):
    command = ["eval", *system.model, "--save_prediction_only", f"--{flag}", str(tmp_path / "x")]
    assert main(command) == 2
    assert capsys.readouterr().err.endswith(f"computes no average precision: omit --{flag}\n")


SLICES = ["--slice_infer", "--slice_size", "48", "48", "--overlap_ratio", "0.25", "0.25"]
TILES = ["--tile", "48", "--overlap", "12"]


def test_slices_are_predicted_as_tiles(system, tmp_path):
    for tool, source, folder in (
        ("eval", [], "--output_eval"),
        ("infer", ["--infer_dir", str(system.pictures), "--save_results", "--no_draw"], "--output_dir"),
    ):
        found = {}
        for how, flags in (("slices", SLICES), ("tiles", TILES), ("whole", [])):
            place = tmp_path / tool / how
            assert main([tool, *system.model, *source, *flags, folder, str(place)]) == 0
            found[how] = results_of(place)
        assert found["slices"] == found["tiles"] != found["whole"]


@pytest.mark.parametrize("ratio", ["nan", "inf", "-0.1", "0.8"])
def test_an_impossible_overlap_is_refused(system, capsys, ratio):
    command = ["infer", *system.model, "--infer_dir", str(system.pictures), "--slice_infer"]
    assert main([*command, "--overlap_ratio", ratio]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ppsolo: error: --overlap_ratio is {ratio}: ") and error.count("\n") == 1


# Prediction


def infer(system: System, output: Path, *flags: str) -> None:
    source = [] if "--infer_list" in flags else ["--infer_dir", str(system.pictures)]
    assert main(["infer", *system.model, *source, "--output_dir", str(output), *flags]) == 0


def test_infer_list_chooses_pictures_of_the_folder(system, tmp_path, monkeypatch):
    first, *_, last = names(system.pictures)
    text = f"{last}\n{first}\n"
    (tmp_path / "list").write_text(text, encoding="utf-8-sig")  # as some editors write it
    folder = ["--infer_dir", str(system.pictures)]
    infer(system, tmp_path / "file", *folder, "--infer_list", str(tmp_path / "list"))
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    infer(system, tmp_path / "input", *folder, "--infer_list", "-")
    assert names(tmp_path / "file") == names(tmp_path / "input") == [first, last]


def test_infer_list_alone_may_have_any_name(system, tmp_path):
    first = names(system.pictures)[0]
    (tmp_path / "list").write_text(f"{system.pictures / first}\n")
    infer(system, tmp_path / "out", "--infer_list", str(tmp_path / "list"))
    assert names(tmp_path / "out") == [first]


@pytest.mark.parametrize("flags", [[], SLICES])
def test_do_eval_gives_the_numbers_of_eval(system, tmp_path, capsys, flags):
    assert main(["eval", *system.model, *flags]) == 0
    expected = table(capsys.readouterr().out)
    infer(system, tmp_path, "--do_eval", "True", *flags)
    assert table(capsys.readouterr().out) == expected != []


def test_visualize_false_draws_nothing_and_save_results_saves(system, tmp_path, capsys):
    infer(system, tmp_path / "none", "--visualize", "False")
    assert not (tmp_path / "none").exists() and "none are drawn or saved" in capsys.readouterr().out
    infer(system, tmp_path / "saved", "--visualize", "False", "--save_results", "True")
    assert names(tmp_path / "saved") == ["predictions.json"]
    infer(system, tmp_path / "drawn", "--visualize", "True", "--save_results", "False", "--use_vdl", "True")
    assert names(tmp_path / "drawn") == names(system.pictures)
    assert capsys.readouterr().err.count("note: --use_vdl: drawings are files") == 1


def test_save_threshold_drops_weak_results(system, tmp_path):
    infer(system, tmp_path / "all", "--save_results", "True", "--no_draw")
    scores = sorted(entry["score"] for entry in results_of(tmp_path / "all"))
    middle = scores[len(scores) // 2]
    infer(system, tmp_path / "best", "--save_results", "True", "--no_draw", "--save_threshold", str(middle))
    assert sorted(entry["score"] for entry in results_of(tmp_path / "best")) == [s for s in scores if s >= middle]
    assert scores[0] < middle


def test_draw_threshold_chooses_what_is_drawn(system, tmp_path):
    first = names(system.pictures)[0]
    for threshold in ("0", "1"):
        infer(system, tmp_path / threshold, "--draw_threshold", threshold)
    original = read_image(system.pictures / first)
    changed = [np.any(read_image(tmp_path / threshold / first) != original) for threshold in ("0", "1")]
    assert changed == [True, first.endswith(".jpg")]  # a JPEG changes when it is written again


# Export


def test_export_without_a_folder(system, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *system.weighted, "--exclude_nms"]) == 0
    (folder,) = (tmp_path / "output_inference").iterdir()
    assert folder.name == NAME
    written = yaml.safe_load((folder / "infer_cfg.yml").read_text())["ppsolo"]
    assert written["graph"] == "network" and written["verified"]
    assert len(deploy.load(folder)(read_image(min(system.pictures.iterdir())))) > 0
