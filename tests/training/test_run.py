"""The commands around training: train, kill, resume, evaluate, verify."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ppsolo import Predictor, build_model, load_config, load_weights
from ppsolo.checkpoint.load import save_weights
from ppsolo.checkpoint.load_backbone import load_backbone
from ppsolo.checkpoint.reader import read_checkpoint
from ppsolo.checkpoint.writer import write_checkpoint
from ppsolo.cli import main
from ppsolo.config import load_answering_config, with_names_of_weights
from ppsolo.errors import CheckpointError
from ppsolo.legacy.names import published_names
from ppsolo.training.state import read_state

ROOT = Path(__file__).parents[2]
SYSTEM = "solov2_r50_enhance_coco"


def options(training, folder, **changes) -> list[str]:
    """Command-line arguments of a run in `folder`."""
    values = {**training, "train.output_dir": str(folder), **{k.replace("__", "."): v for k, v in changes.items()}}
    return ["-c", SYSTEM, "-o", *(f"{key}={json.dumps(value)}" for key, value in values.items())]


def refusal(capsys, *arguments) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("ppsolo: error: ")
    return message


@pytest.fixture(scope="module")
def run(training, tmp_path_factory) -> Path:
    """The directory of a finished run with evaluation."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(["train", *options(training, folder, train__evaluate_every=1, train__pictures=2)]) == 0
    return folder / "tiny"


def test_a_run_leaves_what_it_should(run):
    assert {path.name for path in run.iterdir()} == {
        "best.pdparams",
        "best.yml",
        "checkpoints",
        "class_names.txt",
        "config.yml",
        "last.pdparams",
        "last.yml",
        "log.csv",
        "log.jsonl",
        "model_card.md",
        "visualdl",
    }
    assert (run / "class_names.txt").read_text().split() == ["circle", "rectangle", "triangle"]
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "train/loss" in record] == list(range(1, 9))
    assert [record["step"] for record in records if "val/segm_AP" in record] == [4, 8]
    visualdl = pytest.importorskip("visualdl")
    (file,) = (run / "visualdl").iterdir()
    tags = visualdl.LogReader(file_path=str(file)).get_tags()
    assert {"train/loss", "train/learning_rate", "train/data_seconds", "val/segm_AP"} <= set(tags["scalar"])
    assert len(tags["image"]) == 2


def test_its_weights_can_be_predicted_with(run, drawn):
    image = next((drawn / "val").iterdir())
    for weights in ("best.pdparams", "last.pdparams"):
        predictor = Predictor(run / "config.yml", weights=run / weights)
        assert predictor.class_names == ("circle", "rectangle", "triangle")
        predictor(image)
        load_weights(build_model(load_config(run / "config.yml")), run / weights)


def test_a_finished_run_predicts_by_its_configuration(run, training, drawn, tmp_path):
    assert load_answering_config(run / "config.yml").weights == str(run / "best.pdparams")
    assert load_answering_config(run / "config.yml", ["weights=other.pdparams"]).weights == "other.pdparams"
    assert load_config(run / "config.yml").weights is None  # training starts as the run did
    image = next((drawn / "val").iterdir())
    predictor = Predictor(run / "config.yml")
    assert "best.pdparams" in str(predictor.load_report)
    assert main(["infer", "-c", str(run / "config.yml"), "--infer_img", str(image), "--output_dir", str(tmp_path)]) == 0


def test_weights_know_their_classes(run, training, tmp_path):
    for name in ("best.pdparams", "best.yml"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    weights = tmp_path / "best.pdparams"
    names = ("circle", "rectangle", "triangle")
    assert Predictor(load_config(SYSTEM, training), weights=weights).class_names == names
    config = load_config(SYSTEM, {**training, "weights": str(weights)})
    assert with_names_of_weights(config, config.weights).class_names == names
    others = load_config(SYSTEM, {**training, "class_names": ["a", "b", "c"]})
    assert with_names_of_weights(others, weights).class_names == ("a", "b", "c")
    (tmp_path / "best.yml").unlink()
    assert with_names_of_weights(config, config.weights).class_names == ()


def test_a_run_leaves_a_model_card_that_its_export_carries(run, tmp_path):
    card = (run / "model_card.md").read_text()
    assert "# tiny" in card and "- Classes (3): circle, rectangle, triangle" in card and "9 images" in card
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    best = max(record.get("val/segm_AP", -1) for record in records)
    assert f"Best mask AP: {100 * best:.1f}, after" in card and "| 8 |" in card
    target = tmp_path / "export"
    command = ["export", "-c", str(run / "config.yml"), "--output_dir", str(target), "--no_verify"]
    assert main(command) == 0
    assert (target / "model_card.md").read_text() == card


def test_what_is_published_is_the_average(run):
    state = read_state(sorted((run / "checkpoints").iterdir())[-1])
    weights = read_checkpoint(run / "last.pdparams")
    assert all(np.array_equal(value, state.arrays["ema"][name]) for name, value in weights.items())


def test_a_second_run_of_that_name_is_refused(run, training, capsys):
    arguments = options(training, run.parent)
    assert "tiny holds a run: resume it (-r auto)" in refusal(capsys, "train", *arguments)
    other = options(training, run.parent, train__batch_size=3)
    assert "train.batch_size is 3, the checkpoint was made with 2" in refusal(capsys, "train", *other, "-r", "auto")
    unchanged = load_config(run / "config.yml")
    assert unchanged.train.batch_size == 2


def test_a_finished_run_can_be_prolonged_with_its_own_configuration(training, tmp_path):
    assert main(["train", *options(training, tmp_path, train__epochs=1)]) == 0
    assert main(["train", "-c", str(tmp_path / "tiny" / "config.yml"), "-r", "-o", "train.epochs=2"]) == 0
    steps = [json.loads(line)["step"] for line in (tmp_path / "tiny" / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 9))


def test_a_killed_run_goes_on_from_its_newest_whole_checkpoint(training, run, tmp_path, capsys, caplog):
    """After a kill and damage to the newest checkpoint, the result is that of an undisturbed run."""
    arguments = options(
        training, tmp_path, train__checkpoint_steps=1, train__evaluate_every=1, train__keep_checkpoints=3
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # as many threads as here: they decide about the last bits
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *arguments]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    checkpoints = tmp_path / "tiny" / "checkpoints"
    deadline = time.monotonic() + 120
    while len(list(checkpoints.glob("*.safetensors"))) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    newest = sorted(checkpoints.glob("*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    with caplog.at_level("INFO"):
        assert main(["train", *arguments, "-r", "auto"]) == 0
    assert "skipped a broken checkpoint" in caplog.text and newest.name in caplog.text
    for name in ("last.pdparams", "best.pdparams"):
        ours, theirs = read_checkpoint(tmp_path / "tiny" / name), read_checkpoint(run / name)
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours.keys() | theirs.keys())


def test_resuming_where_there_is_nothing_starts_anew(training, tmp_path, caplog):
    with caplog.at_level("INFO"):
        assert main(["train", *options(training, tmp_path, train__epochs=1), "-r", "auto"]) == 0
    assert "a new run starts" in caplog.text


def test_bad_input_gets_one_line(training, tmp_path, capsys):
    def say(**changes) -> str:
        return refusal(capsys, "train", *options(training, tmp_path, **changes))

    assert "instances_gone.json: no such file" in say(data__train_annotations="instances_gone.json")
    assert "set num_classes=3" in say(num_classes=5)
    assert "gone.pdparams: no such file" in say(weights="gone.pdparams")
    assert "did you mean 'train.epochs'" in say(train__epoch=3) or "did you mean 'epochs'" in say(train__epoch=3)
    assert "does not exist; check the image folder" in say(train__evaluate_every=1, data__val_images="train_gone")
    gone = refusal(capsys, "train", *options(training, tmp_path), "-r", str(tmp_path / "gone.safetensors"))
    assert "gone.safetensors" in gone
    assert not (tmp_path / "tiny" / "checkpoints").exists() or not list((tmp_path / "tiny" / "checkpoints").iterdir())


def test_fine_tuning_takes_other_classes_and_says_so(training, run, tmp_path, caplog, drawn):
    content = json.loads((drawn / "instances_train.json").read_text())
    content["categories"] = content["categories"][:1]
    content["annotations"] = [{**a, "category_id": content["categories"][0]["id"]} for a in content["annotations"]]
    (tmp_path / "instances_train.json").write_text(json.dumps(content))
    (tmp_path / "train").symlink_to(drawn / "train")
    changes = {"data__root": str(tmp_path), "num_classes": 1, "train__epochs": 1, "weights": str(run / "best.pdparams")}
    with caplog.at_level("INFO"):
        assert main(["train", *options(training, tmp_path, **changes)]) == 0
    assert "the class layer is new" in caplog.text


def test_the_preset_for_fine_tuning_goes_on_a_system(training, tmp_path, caplog):
    """The preset works as its comment says, on a smaller system: weights with other classes, and a gentle schedule."""
    own = {key: value for key, value in training.items() if "schedule" not in key and "clip_norm" not in key}
    own |= {"train.epochs": 1, "train.output_dir": str(tmp_path), "weights": str(tmp_path / "others.pdparams")}
    others = build_model(load_config(SYSTEM, {**training, "num_classes": 7}))
    save_weights(others, tmp_path / "others.pdparams", generation="ppsolo")
    (tmp_path / "mine.yml").write_text(f"_BASE_: [{SYSTEM}, finetune]\n")
    arguments = ["train", "-c", str(tmp_path / "mine.yml"), "-o"]
    with caplog.at_level("INFO"):
        assert main([*arguments, *(f"{key}={json.dumps(value)}" for key, value in own.items())]) == 0
    assert "the class layer is new" in caplog.text
    assert "learning rate 0.000625: 0.005 is for 16 images a step, and this run has 2" in caplog.text
    config = load_config(tmp_path / "tiny" / "config.yml")
    assert config.train.schedule.type == "cosine" and config.train.patience == 4 and config.num_classes == 3


def test_the_learning_rate_is_scaled_in_one_line(training, tmp_path, caplog):
    with caplog.at_level("INFO"):
        assert main(["train", *options(training, tmp_path, train__epochs=1, train__schedule__scale_to_batch=True)]) == 0
    assert "learning rate 0.00125: 0.01 is for 16 images a step, and this run has 2" in caplog.text


BACKBONES = {
    "solov2_light_r50_vd_fpn_dcn_512_3x": "static-0.5",
    "solov2_r50_enhance_coco": "dygraph-2.x",
    "solov2_mobilenetv3_fpn_448_3x": "static-0.5",
}


@pytest.mark.parametrize("system", BACKBONES)
@pytest.mark.parametrize("bare", [False, True])
def test_an_imagenet_archive_fills_the_backbone(tiny, tmp_path, system, bare):
    model = build_model(load_config(system, {**tiny, "model.backbone.scale": 0.25, "model.head.dcn_layers": []}))
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    names = published_names(state, BACKBONES[system])
    random = np.random.default_rng(0)
    ours = {old: random.random(state[old].shape, np.float32) for old in names if old.startswith("backbone.")}
    archive = {names[old]: value for old, value in ours.items() if ".offset." not in old}
    archive = {name.removeprefix("backbone.") if bare else name: value for name, value in archive.items()}
    classifier = "fc_0.w_0" if BACKBONES[system] == "static-0.5" else "fc.weight"
    write_checkpoint({**archive, classifier: np.zeros((4, 3), np.float32)}, tmp_path / "net.pdparams")
    report = load_backbone(model, tmp_path / "net.pdparams")
    assert (report.loaded, report.ignored) == (len(archive), (classifier,))
    assert set(report.untouched) == {name for name in ours if ".offset." in name}
    for name, value in model.state_dict().items():
        loaded = name.startswith("backbone.") and ".offset." not in name
        np.testing.assert_array_equal(value.numpy(), ours[name] if loaded else state[name])
    assert "ignored its classifier: " + classifier in str(report)


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape"])
def test_an_archive_that_does_not_fit_changes_nothing(tiny, tmp_path, fault):
    model = build_model(load_config(SYSTEM, {**tiny, "model.head.dcn_layers": []}))
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    names = published_names(before, "dygraph-2.x")
    archive = {names[old]: value + 1 for old, value in before.items() if old.startswith("backbone.")}
    first = next(iter(archive))
    if fault == "missing":
        del archive[first]
    elif fault == "unexpected":
        archive["backbone.extra"] = archive[first]
    else:
        archive[first] = archive[first][:1]
    write_checkpoint(archive, tmp_path / "net.pdparams")
    with pytest.raises(CheckpointError, match=r"net\.pdparams does not fit the backbone"):
        load_backbone(model, tmp_path / "net.pdparams")
    assert all(np.array_equal(value.numpy(), before[name]) for name, value in model.state_dict().items())


def test_a_pretrained_backbone_is_where_training_starts(training, tmp_path, caplog):
    model = build_model(load_config(SYSTEM, training))
    names = published_names(model.state_dict(), "dygraph-2.x")
    archive = {new: model.state_dict()[old].numpy() for old, new in names.items() if old.startswith("backbone.")}
    write_checkpoint(archive, tmp_path / "net.pdparams")
    with caplog.at_level("INFO"):
        changes = {"pretrained_backbone": str(tmp_path / "net.pdparams"), "train__epochs": 1}
        assert main(["train", *options(training, tmp_path, **changes)]) == 0
    assert "arrays of net.pdparams loaded into the backbone" in caplog.text


def test_eval_reports_what_training_measured(run, drawn, tmp_path, capsys):
    command = ["eval", "-c", str(run / "config.yml"), "-o", f"weights={run / 'best.pdparams'}"]
    more = ["--classwise", "--save_results", "--output_dir", str(tmp_path), "--report", str(tmp_path / "report.json")]
    assert main([*command, *more]) == 0
    out = capsys.readouterr().out
    assert "segm by class" in out and "triangle" in out and "annotated" in out
    report = json.loads((tmp_path / "report.json").read_text())
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert report["segm"]["stats"][0] == max(record.get("val/segm_AP", -1) for record in records)
    assert len(report["bbox"]["stats"]) == 12 and "boundary" in report
    again = [
        "eval",
        "--json_eval",
        str(tmp_path / "predictions.json"),
        "--annotations",
        str(drawn / "instances_val.json"),
    ]
    assert main([*again, "--report", str(tmp_path / "again.json")]) == 0
    other = json.loads((tmp_path / "again.json").read_text())
    assert [other[kind]["stats"] for kind in ("segm", "bbox")] == [report[kind]["stats"] for kind in ("segm", "bbox")]


def test_eval_says_what_is_missing(run, training, capsys, tmp_path):
    assert "give a model (-c or --model_dir), or results (--json_eval)" in refusal(capsys, "eval")
    assert "add --annotations FILE" in refusal(capsys, "eval", "--json_eval", "x.json")
    assert "has no weights" in refusal(capsys, "eval", *options(training, tmp_path))
    wrong = options({**training, "num_classes": 7}, tmp_path)
    assert "set num_classes=3" in refusal(capsys, "eval", *wrong)


def test_verify_compares_with_the_published_ap(drawn, tmp_path, capsys, monkeypatch, tiny):
    """The zoo's configuration made tiny, its file written here: the AP cannot be the published one."""
    (tmp_path / "annotations").mkdir()
    content = json.loads((drawn / "instances_val.json").read_text())
    content["categories"] = [{"id": i, "name": str(i)} for i in range(1, 81)]
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    (tmp_path / "val2017").symlink_to(drawn / "val")
    small = load_config("solov2_r50_fpn_1x", {**tiny, "num_classes": 80})
    save_weights(build_model(small), tmp_path / "small.pdparams")
    real = load_config

    def made_tiny(name, overrides=()):
        return real(name, {**overrides, **tiny, "num_classes": 80, "weights": str(tmp_path / "small.pdparams")})

    monkeypatch.setattr("ppsolo.cli.zoo.load_config", made_tiny)
    assert main(["zoo", "verify", "solov2_r50_fpn_1x", "--data", str(tmp_path)]) == 1
    assert "mask AP published 35.6, measured 0.0 (-35.60): they differ by more than 0.2" in capsys.readouterr().out
