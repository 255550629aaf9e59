"""Models compared on one data set, through the command: the same model in two runtimes has the same AP."""

import json
import multiprocessing

import cv2
import numpy as np
import pytest
from exports import lively_model

from ppsolo import load_config, save_weights
from ppsolo.benchmark import prediction
from ppsolo.cli import main
from ppsolo.data.synthetic import draw_dataset
from ppsolo.deploy.export import export_model
from ppsolo.errors import DatasetError, PpsoloError
from ppsolo.evaluation import compare
from ppsolo.evaluation.compare import draw_comparison, format_comparison
from ppsolo.model_source import ModelSource


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny):
    """A data set, weights, their configuration and an ONNX export."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("compare")
    draw_dataset(folder / "data", train=1, val=6)
    config = load_config("solov2_r50_fpn_1x", tiny)
    model = lively_model(config)
    save_weights(model, folder / "w.pdparams")
    export_model(model, config, folder / "onnx", format="onnx", graph="network", verify_export=False)
    return folder


def flags(folder, tiny):
    options = {**tiny, "weights": str(folder / "w.pdparams")}
    return ["-c", "solov2_r50_fpn_1x", "-o", *(f"{key}={value}" for key, value in options.items())]


def data_flags(folder):
    return ["--annotations", str(folder / "data" / "instances_val.json"), "--image_dir", str(folder / "data" / "val")]


def test_two_runtimes_of_one_model_have_the_same_ap(place, tiny, tmp_path, capsys):
    command = ["eval", *flags(place, tiny), *data_flags(place), "--compare", "dygraph", str(place / "onnx")]
    assert main([*command, "--output_dir", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "compare.json").read_text())
    first, second = report["sides"]
    assert abs(first["mask_ap"] - second["mask_ap"]) < 1e-4 and first["mask_ap_difference"] == 0.0
    assert second["seconds_ratio"] == pytest.approx(second["seconds"] / first["seconds"])
    assert first["peak_memory_mb"] > 20 and report["images"] == 6 and report["timed_images"] == 5
    assert "Paddle" in first["description"] and "onnxruntime" in second["description"]
    assert cv2.imread(str(tmp_path / "compare.png")).shape[1] == 960
    text = capsys.readouterr().out
    assert "mask AP" in text and str(place / "onnx")[-20:] in text


def test_the_error_of_a_process_that_has_ended_is_told(tiny):
    side = ModelSource(load_config("solov2_r50_fpn_1x", {**tiny, "data.val_annotations": "none.json"}))
    before = set(multiprocessing.active_children())
    with compare._process(side, 1, 100) as ask:
        (process,) = set(multiprocessing.active_children()) - before
        process.join(timeout=60)
        with pytest.raises(PpsoloError, match=r"none\.json"):
            ask("evaluate")


def test_an_export_is_evaluated_by_itself(place, tmp_path, capsys):
    command = ["eval", "--model_dir", str(place / "onnx"), *data_flags(place), "--report", str(tmp_path / "r.json")]
    assert main([*command, "--max_detections", "1"]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["images"] == 6 and report["max_detections"] == 1 and report["beyond_max_detections"] > 0
    text = capsys.readouterr().out
    assert "onnxruntime" in text and "see --max_detections" in text


def test_thresholds_are_found_and_taken(place, tmp_path, capsys):
    file = tmp_path / "thresholds.json"
    common = ["--model_dir", str(place / "onnx")]
    assert main(["eval", *common, *data_flags(place), "--find_thresholds", str(file)]) == 0
    assert "F1" in capsys.readouterr().out
    content = json.loads(file.read_text())
    assert len(content["class_thresholds"]) == 3
    for entry in content["class_thresholds"]:
        entry["threshold"] = 1.0
    file.write_text(json.dumps(content))
    picture = next((place / "data" / "val").iterdir())
    command = ["infer", *common, "--infer_img", str(picture), "--output_dir", str(tmp_path / "out")]
    assert main([*command, "--class_thresholds", str(file)]) == 0
    assert "0 instances in 1 image" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--compare", "dygraph"], "-c CONFIG"),
        (["--compare", "nowhere", "elsewhere"], "nowhere"),
        (["--compare", "nowhere", "--model_dir", "x"], "--model_dir"),
        (["--least_precision", "0.9"], "--find_thresholds"),
        (["--find_thresholds", "x.json", "--least_precision", "7"], "--least_precision is 7.0: give a number above 0"),
        (["--report", "."], "--report .: a folder"),
        (["--find_thresholds", "."], "--find_thresholds .: a folder"),
        (["--html", __file__], ": a file; give a folder"),
        (["--output_dir", __file__], ": a file; give a folder"),
        (["--model_dir", "nowhere"], "nowhere"),
        (["--max_detections", "0"], "--max_detections is 0"),
        ([], "nothing to evaluate"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, word, capsys):
    assert main(["eval", *arguments]) == 2
    assert word in capsys.readouterr().err


@pytest.mark.parametrize("answering", [compare._answer, prediction._work])
def test_a_side_whose_command_was_ended_is_silent(answering, monkeypatch):
    def fail(*_: object) -> None:
        raise DatasetError("no data set")

    monkeypatch.setattr(compare, "open_evaluation_set", fail)
    monkeypatch.setattr(prediction, "_runner", fail)
    here, there = multiprocessing.get_context("spawn").Pipe()
    here.close()  # every answer ends with a broken pipe
    more = {"batch_size": 1, "max_detections": 100} if answering is compare._answer else {}
    answering(ModelSource(load_config("compact")), connection=there, **more)


def test_the_table_and_the_picture_hold_every_side():
    side = {"mask_ap": 0.5, "mask_ap50": 0.6, "mask_ap75": 0.4, "box_ap": 0.5, "seconds": 0.1, "peak_memory_mb": 10.0}
    sides = [
        {"name": name, **side, "mask_ap_difference": 0.0, "seconds_ratio": 1.0} for name in ("first", "second", "third")
    ]
    report = {"annotations": "x.json", "images": 3, "timed_images": 2, "sides": sides}
    assert format_comparison(report).count("50.0 ") >= 3
    picture = draw_comparison(report)
    assert picture.dtype == np.uint8 and picture.shape == (3 * (64 + 48 * 3), 960, 3)
