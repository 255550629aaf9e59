"""The benchmark: what is counted by hand, sides in turn, a chart, refusals."""

import json
import multiprocessing
import os
import signal

import numpy as np
import paddle
import pytest

from ppsolo import build_model, load_config, save_weights
from ppsolo.benchmark.machine import in_new_process, machine, matrix_product
from ppsolo.benchmark.peers import OnnxRunner, PaddleDetectionRunner
from ppsolo.benchmark.prediction import (
    _said,
    benchmark,
    count_multiply_adds,
    open_side,
    summary,
    write_benchmark,
)
from ppsolo.benchmark.sides import Side
from ppsolo.cli import main
from ppsolo.data.images import read_image, write_image
from ppsolo.deploy.export import export_model
from ppsolo.deploy.graph import PADDLE_3
from ppsolo.errors import ConfigError, PpsoloError
from ppsolo.models.layers import ConvNorm


def test_multiply_adds_are_those_of_the_convolutions():
    plain = paddle.nn.Sequential(ConvNorm(4, 6, 3), ConvNorm(6, 6, 3, stride=2, groups=3), ConvNorm(6, 2, 1))
    expected = 6 * 4 * 9 * 80 + 6 * 2 * 9 * 20 + 2 * 6 * 20
    assert count_multiply_adds(plain, paddle.zeros([1, 4, 8, 10])) == expected
    deformable = ConvNorm(4, 6, 3, deformable=True)
    assert count_multiply_adds(deformable, paddle.zeros([2, 4, 8, 10])) == 2 * 80 * (27 * 4 * 9 + 6 * 4 * 9)


def test_numbers_of_a_summary():
    values = summary([3.0, 1.0, 2.0])
    assert (values["median"], values["least"], values["most"]) == (2.0, 1.0, 3.0)
    assert 2.0 < values["p90"] < values["p99"] < 3.0


def test_what_a_measurement_was_made_on():
    assert min(in_new_process(matrix_product, 1, (64, 64, 64), 1).values()) > 0
    found = machine()
    assert found["processor"] and found["cores"] >= 1 and found["threads"] >= 1 and found["memory_gb"] > 0
    assert {"python", "numpy", "pycocotools"} <= set(found["versions"])


def test_sides_are_measured_stage_by_stage(tmp_path, tiny):
    config = load_config("solov2_r50_fpn_1x", tiny)
    save_weights(build_model(config), tmp_path / "own.safetensors")
    write_image(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, [60, 90, 3], dtype=np.uint8))
    config = load_config("solov2_r50_fpn_1x", {**tiny, "weights": str(tmp_path / "own.safetensors")})
    side = Side("dygraph", config, str(tmp_path / "a.png"), batch=2)
    report = benchmark([side], repeats=2, warm_up=1)
    (measured,) = report["sides"]
    seconds = measured["seconds"]
    assert {"reading", "preprocessing", "network", "postprocessing", "total"} < set(seconds)
    parts = sum(values["least"] for stage, values in seconds.items() if stage != "total")
    assert 0 < parts <= seconds["total"]["most"]
    assert report["input"] == [2, 3, 64, 96] and report["multiply_adds"] > 1e6 and report["floor_seconds"] > 0
    assert measured["peak_memory_mb"] > 50 and len(measured["instances"]) == 2
    (line,) = write_benchmark([report], tmp_path / "out" / "benchmark.json")
    assert "dygraph" in line
    assert set(json.loads((tmp_path / "out" / "benchmark.json").read_text())[0]["gigaflops"]) == {"numpy", "paddle"}
    assert (read_image(tmp_path / "out" / "benchmark.png") != 255).any()


def test_a_side_that_cannot_be_had_is_named(tmp_path, tiny):
    write_image(tmp_path / "a.png", np.zeros([60, 90, 3], np.uint8))
    side = Side(str(tmp_path / "nothing"), load_config("solov2_r50_fpn_1x", tiny), str(tmp_path / "a.png"))
    with pytest.raises(PpsoloError, match="nothing: give one of dygraph, onnxruntime") as caught:
        benchmark([side], repeats=1, warm_up=0)
    assert str(caught.value).count("nothing") == 1


def test_a_broken_peer_is_one_line(tmp_path, tiny):
    config = load_config("solov2_r50_fpn_1x", tiny)
    (tmp_path / "bad.onnx").write_text("no model")
    with pytest.raises(ConfigError, match=r"bad\.onnx: onnxruntime .* cannot load it \(.*INVALID_PROTOBUF"):
        OnnxRunner(Side(str(tmp_path / "bad.onnx"), config, "a.png"))
    for name in ("model.json", "model.pdiparams"):
        (tmp_path / name).write_text("no model")
    if not PADDLE_3:
        return  # this version ends the process
    with pytest.raises(ConfigError, match=r"model\.json: Paddle .* cannot load it") as caught:
        PaddleDetectionRunner(Side(str(tmp_path), config, "a.png"))
    assert "Traceback" not in str(caught.value)


def test_a_worker_that_died_or_failed_is_named_once(tmp_path, tiny):
    side = Side("peers/model.onnx", load_config("solov2_r50_fpn_1x", tiny), "a.png")
    context = multiprocessing.get_context("fork")
    for work, expected in (
        (lambda there: os.kill(os.getpid(), signal.SIGKILL), r"^peers/model.onnx: its process died \(signal 9\)"),
        (lambda there: there.send("peers/model.onnx: broken"), "^peers/model.onnx: broken$"),
        (lambda there: there.send("broken"), "^peers/model.onnx: broken$"),
    ):
        here, there = context.Pipe()
        process = context.Process(target=work, args=(there,))
        process.start()
        there.close()
        with pytest.raises(PpsoloError, match=expected):
            _said((process, here), side)
        process.join()


def test_exports_take_the_class_thresholds_of_the_configuration(tmp_path, tiny):
    config = load_config("solov2_r50_fpn_1x", {**tiny, "num_classes": 2})
    export_model(build_model(config), config, tmp_path / "export", format="onnx", graph="network", verify_export=False)
    thresholds = (0.25, 0.75)
    chosen = load_config(
        "solov2_r50_fpn_1x", {**tiny, "num_classes": 2, "postprocess.class_thresholds": list(thresholds)}
    )
    assert open_side(Side(str(tmp_path / "export"), chosen, "a.png")).config.postprocess.class_thresholds == thresholds
    assert open_side(Side(str(tmp_path / "export"), config, "a.png")).config.postprocess.class_thresholds == ()


@pytest.mark.parametrize("flags", [("batch", "1", "0"), ("threads", "-1"), ("height", "0"), ("repeats", "0")])
def test_numbers_that_measure_nothing_are_refused(flags, capsys):
    assert main(["benchmark", "-c", "compact", "--image", "x.jpg", f"--{flags[0]}", *flags[1:]]) == 2
    assert f"--{flags[0]} is {flags[-1]}: give at least 1" in capsys.readouterr().err
