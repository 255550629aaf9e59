"""The export for PaddleDetection's deploy tools: what it computes, and that our loader reads it."""

import cv2
import numpy as np
import paddle
import pytest
import yaml
from paddle import inference

from ppsolo import build_model, load_config
from ppsolo.build.network import build_postprocess
from ppsolo.data.synthetic import draw_scene
from ppsolo.deploy import load
from ppsolo.deploy.export import export_model
from ppsolo.deploy.paddle_inference import PaddleEngine
from ppsolo.deploy.paddledetection import INPUTS, OUTPUTS, PADDLEX_OUTPUTS, PaddleDetectionGraph
from ppsolo.errors import ExportError
from ppsolo.predictor import Predictor

LOW = {"postprocess.score_threshold": 0.005, "postprocess.update_threshold": 0.001}


@pytest.fixture(scope="module")
def system(tiny):
    """A configuration, its model, and a picture in which the model finds instances."""
    paddle.seed(0)
    config = load_config("solov2_r50_fpn_1x_coco", {**tiny, **LOW})
    model = build_model(config)
    model.eval()
    return config, model, draw_scene(np.random.default_rng(0), (50, 70)).image


def test_the_graph_gives_masks_at_the_size_of_the_image(system):
    config, model, image = system
    predictor = Predictor(config, model=model)
    expected = predictor(image)
    prepared = predictor.prepare(image)
    height, width = prepared.size.resized
    graph = PaddleDetectionGraph(model, build_postprocess(config), config.postprocess.mask_threshold)
    scale = np.float32([[height / image.shape[0], width / image.shape[1]]])
    inputs = [prepared.image[None], np.float32([[height, width]]), scale]
    found = dict(zip(OUTPUTS, (value.numpy() for value in graph(*map(paddle.to_tensor, inputs))), strict=True))
    segm, count, labels, scores = (found[name] for name in ("segm", "bbox_num", "label", "score"))
    assert len(expected) == count[0] > 0 and segm.dtype == np.uint8
    np.testing.assert_allclose(scores, expected.scores, atol=1e-6)
    np.testing.assert_array_equal(labels, expected.labels)
    # Both resize in float32, in another order of additions: a pixel on the threshold may fall on either side.
    assert segm.shape == expected.masks.shape and np.mean(segm.astype(bool) != expected.masks) < 1e-5


def test_nothing_found_is_no_row(system):
    config, model, image = system
    prepared = Predictor(config, model=model).prepare(image)
    nothing = load_config("solov2_r50_fpn_1x_coco", {"postprocess.score_threshold": 1.0})
    graph = PaddleDetectionGraph(model, build_postprocess(nothing), 0.5)
    size = np.float32([prepared.size.resized])
    inputs = map(paddle.to_tensor, [prepared.image[None], size, np.float32([[1, 1]])])
    found = dict(zip(OUTPUTS, (value.numpy() for value in graph(*inputs)), strict=True))
    assert found["bbox_num"][0] == 0 and found["segm"].shape == (0, *prepared.size.resized)


@pytest.mark.parametrize("by_paddle_3", [True, False])
def test_our_loader_reads_both_orders(by_paddle_3):
    """Outputs are found by position; Paddle 2.6 and 3 write them in different orders."""
    found = {
        "segm": np.zeros((2, 8, 9), np.uint8),
        "bbox_num": np.int32([2]),
        "label": np.int64([1, 0]),
        "score": np.float32([0.9, 0.8]),
        "masks": np.ones((2, 3, 4), np.float32),
    }
    order = ("segm", "bbox_num", "label", "score") if by_paddle_3 else PADDLEX_OUTPUTS

    class Session:
        description = ""

        def __call__(self, images):
            return [found[name] for name in (*order, "masks")]

    answer = PaddleEngine(Session()).run(np.zeros((1, 3, 32, 32), np.float32))
    assert answer.labels is found["label"] and answer.scores is found["score"] and answer.masks is found["masks"]
    assert answer.counts.tolist() == [2]


def test_our_loader_reads_the_export(system, tmp_path):
    config, model, image = system
    written = export_model(model, config, tmp_path / "export", layout="paddledetection", verify_export=False)
    assert [fact.name for fact in written.info.inputs] == list(INPUTS)
    assert [fact.name for fact in written.info.outputs] == list(OUTPUTS)
    cv2.imwrite(str(tmp_path / "picture.png"), image[:, :, ::-1])
    exported, expected = load(tmp_path / "export"), Predictor(config, model=model)(image)
    for found in exported([tmp_path / "picture.png", image]):
        assert len(found) == len(expected)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def test_paddlex_reads_the_export_and_so_does_our_loader(system, tmp_path):
    config, model, image = system
    place = tmp_path / "export"
    export_model(model, config, place, layout="paddlex", verify_export=False)
    assert not (place / "model.pdiparams").exists()  # the weights are there once
    settings = yaml.safe_load((place / "inference.yml").read_text())
    assert settings["Global"] == {"model_name": "SOLOv2"} and len(settings["label_list"]) == config.num_classes
    assert [step["type"] for step in settings["Preprocess"]] == ["NormalizeImage", "Resize", "Permute", "PadStride"]

    # As PaddleX does: inputs by the order of their names, outputs by their place.
    predictor = Predictor(config, model=model)
    prepared, expected = predictor.prepare(image), predictor(image)
    (program,) = [path for path in place.glob("inference.*") if path.suffix in (".json", ".pdmodel")]
    options = inference.Config(str(program), str(place / "inference.pdiparams"))
    options.disable_glog_info()
    if hasattr(options, "disable_mkldnn"):
        options.disable_mkldnn()
    runner = inference.create_predictor(options)
    size = np.float32([prepared.size.resized])
    scale = size / np.float32([image.shape[:2]])
    names = sorted(runner.get_input_names())
    for name, value in zip(names, [size, prepared.image[None], scale], strict=True):
        runner.get_input_handle(name).copy_from_cpu(value)
    runner.run()
    outputs = [runner.get_output_handle(name).copy_to_cpu() for name in runner.get_output_names()]
    assert len(outputs) == len(PADDLEX_OUTPUTS)
    count, labels, scores, masks = outputs
    assert count[0] == len(expected) > 0
    np.testing.assert_array_equal(labels, expected.labels)
    np.testing.assert_allclose(scores, expected.scores, atol=1e-5)
    assert masks.shape == expected.masks.shape and np.mean(masks.astype(bool) != expected.masks) < 1e-4

    found = load(place)(image)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


@pytest.mark.parametrize("layout", ["paddledetection", "paddlex"])
@pytest.mark.parametrize("other", [{"format": "onnx"}, {"graph": "network"}])
def test_the_layout_takes_a_whole_paddle_graph(system, tmp_path, other, layout):
    config, model, _ = system
    with pytest.raises(ExportError, match="needs a whole Paddle graph"):
        export_model(model, config, tmp_path / "export", layout=layout, **other)
