"""Networks in int8: what is written, its price, what is refused, and that it answers by itself."""

import json
import logging

import numpy as np
import pytest
from exports import lively_model

from ppsolo import load_config
from ppsolo.build.pipeline import build_preprocess
from ppsolo.cli import main
from ppsolo.data.synthetic import draw_dataset, draw_scene
from ppsolo.deploy.runtime import load
from ppsolo.errors import ExportError

pytest.importorskip("openvino")
pytest.importorskip("nncf")


@pytest.fixture(scope="module")
def lively(tiny):
    """A configuration, its model and prepared images."""
    config = load_config("solov2_r50_fpn_1x", tiny)
    preprocess = build_preprocess(config)
    scenes = [draw_scene(np.random.default_rng(i), (64, 96)).image for i in range(4)]
    return config, lively_model(config), [preprocess(scene)[0] for scene in scenes]


def test_int8_is_written_with_its_price_and_answers(lively, tmp_path):
    from ppsolo.deploy.quantize import quantize_model

    config, model, images = lively
    aps = iter([0.6, 0.598])
    users = logging.NullHandler()  # of the program that quantizes
    logging.getLogger("nncf").addHandler(users)
    written = quantize_model(model, config, tmp_path / "out", images=images, measure=lambda predictor: next(aps))
    logging.getLogger("nncf").removeHandler(users)
    assert users.level == logging.NOTSET
    table = json.loads((tmp_path / "out" / "quantization.json").read_text())
    assert table["mask_ap_fp32"] == 0.6 and table["mask_ap_int8"] == 0.598 and len(table["attempts"]) == 1
    assert table["calibration_images"] == 4 and len(table["heads"]) == 11
    assert 0 < max(head["mean"] for head in table["heads"].values()) < 0.5
    assert "mask AP 60.00 in fp32, 59.80 in int8 (it may fall by 0.50)" in str(written)
    predictor = load(tmp_path / "out", threads=1)
    assert "int8 and fp32" in predictor.description and "verified, int8" in predictor.origin
    found = predictor(draw_scene(np.random.default_rng(9), (64, 96)).image)
    assert found.masks.shape[1:] == (64, 96)
    weights = (tmp_path / "out" / "model.xml").read_text()
    assert 'element_type="i8"' in weights or 'precision="I8"' in weights
    with pytest.raises(ExportError, match="openvino"):
        load(tmp_path / "out", engine="onnxruntime")


def test_inputs_of_norms_and_coordinates_stay_in_float(lively, tmp_path):
    from ppsolo.deploy.openvino_runtime import read_graph
    from ppsolo.deploy.quantize import quantize_model

    config, model, images = lively
    quantize_model(model, config, tmp_path / "out", images=images[:1], measure=None)
    operations = read_graph(tmp_path / "out" / "model.xml").get_ordered_ops()
    quantized = [operation for operation in operations if operation.get_type_name() == "FakeQuantize"]
    users = {user.get_node().get_type_name() for value in quantized for user in value.output(0).get_target_inputs()}
    assert "Convolution" in users and users.isdisjoint({"MVN", "Divide", "Multiply", "Subtract"})


def test_more_layers_stay_in_float_until_the_drop_is_small(lively, tmp_path):
    from ppsolo.deploy.quantize import quantize_model

    config, model, images = lively
    aps = iter([0.6, 0.5, 0.599])
    card = tmp_path / "model_card.md"
    card.write_text("# mine\n")
    quantize_model(
        model, config, tmp_path / "out", images=images[:1], measure=lambda predictor: next(aps), model_card=card
    )
    assert (tmp_path / "out" / "model_card.md").read_text() == "# mine\n"
    table = json.loads((tmp_path / "out" / "quantization.json").read_text())
    assert [attempt["mask_ap"] for attempt in table["attempts"]] == [0.5, 0.599]
    assert "last layers" in table["kept_in_float"]


def test_beyond_the_drop_nothing_is_written(lively, tmp_path, monkeypatch):
    from ppsolo.deploy import quantize
    from ppsolo.deploy.quantize import quantize_model

    monkeypatch.setattr(quantize, "LADDER", quantize.LADDER[:1])
    config, model, images = lively
    aps = iter([0.6, 0.3])
    with pytest.raises(ExportError, match=r"from 60\.00 to 30\.00 at best, by more than 0\.50: .* raise --max_drop"):
        quantize_model(model, config, tmp_path / "out", images=images[:1], measure=lambda predictor: next(aps))
    monkeypatch.undo()
    aps = iter([0.6, 0.3, 0.5, 0.4, 0.2])
    with pytest.raises(ExportError, match=r"from 60\.00 to 50\.00 at best in 4 attempts, by more than 0\.50: nothing"):
        quantize_model(model, config, tmp_path / "out", images=images[:1], measure=lambda predictor: next(aps))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ExportError, match="pictures"):
        quantize_model(model, config, tmp_path / "out", images=[], measure=None)


def test_the_command_calibrates_on_a_coco_file(tiny, lively, tmp_path, capsys):
    from ppsolo import save_weights

    draw_dataset(tmp_path / "data", train=1, val=3)
    save_weights(lively[1], tmp_path / "w.pdparams")
    options = [f"{key}={value}" for key, value in {**tiny, "weights": str(tmp_path / "w.pdparams")}.items()]
    command = ["export", "-c", "solov2_r50_fpn_1x", "-o", *options, "--output_dir", str(tmp_path / "out")]
    calibrate = ["--precision", "int8", "--calibrate", str(tmp_path / "data" / "instances_val.json")]
    assert main([*command, *calibrate, "--max_drop", "1"]) == 0
    assert "mask AP" in capsys.readouterr().out
    table = json.loads((tmp_path / "out" / "quantization.json").read_text())
    assert table["calibration_images"] == 3 and table["max_drop"] == 1.0 and table["drop"] is not None


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--precision", "int8"], "--calibrate"),
        (["--max_drop", "0.1"], "--precision int8"),
        (["--precision", "int8", "--calibrate", "nowhere"], "weights"),
    ],
)
def test_what_is_missing_is_named(arguments, word, tmp_path, capsys):
    assert main(["export", "-c", "solov2_r50_fpn_1x", "--output_dir", str(tmp_path / "out"), *arguments]) == 2
    assert word in capsys.readouterr().err
