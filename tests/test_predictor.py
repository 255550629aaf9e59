"""The predictor: forms of input, true batches, refusals, and what it loads from."""

import json
import threading
import time
from unittest.mock import Mock

import cv2
import numpy as np
import paddle
import pytest
import yaml
from busy import busy_model

import ppsolo
from ppsolo import ConfigError, Instances, Predictor, load_config, save_weights
from ppsolo import predictor as predictor_module
from ppsolo.checkpoint import zoo
from ppsolo.config import config_to_dict
from ppsolo.data.images import write_image
from ppsolo.data.tiles import Tiling
from ppsolo.errors import CheckpointError, ImageError
from ppsolo.pipeline import TiledPipeline


@pytest.fixture(scope="module")
def predictor(tiny):
    config = load_config("solov2_r50_fpn_1x", tiny)
    return Predictor(config, model=busy_model(config))


def picture(seed: int, height: int = 60, width: int = 90) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, [height, width, 3], dtype=np.uint8)


def assert_same(one: Instances, other: Instances) -> None:
    assert one.size == other.size and len(one) == len(other)
    np.testing.assert_array_equal(one.labels, other.labels)
    # another batch size may take other kernels: float32 rounding
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    assert sum(np.count_nonzero(a != b) for a, b in zip(one.masks, other.masks, strict=True)) <= 2 * len(one)


def test_an_image_gives_instances(predictor):
    instances = predictor(picture(0))
    assert isinstance(instances, Instances) and len(instances) > 3
    assert instances.masks.shape == (len(instances), 60, 90) and instances.masks.dtype == bool
    assert (np.diff(instances.scores) <= 0).all() and 0 < instances.scores[-1] <= instances.scores[0] <= 1
    assert instances.names[0] == f"class {instances.labels[0]}"


def test_a_batch_answers_as_its_images_do_whatever_their_sizes(predictor):
    images = [picture(0), picture(1, 64, 64), picture(2), picture(3, 30, 200), picture(4, 61, 90)]
    alone = [predictor(image) for image in images]
    forwards = []
    hook = predictor.model.register_forward_post_hook(lambda layer, x, y: forwards.append(x[0].shape[0]))
    together = predictor(images, batch_size=5)
    hook.remove()
    assert sorted(forwards) == [1, 1, 3]  # three share a padded size and one forward
    for one, other in zip(alone, together, strict=True):
        assert_same(one, other)


def test_a_stream_answers_as_calls_do_and_one_batch_ahead(predictor, monkeypatch):
    batches = [[picture(0), picture(1, 30, 200)], [], [picture(2)], [picture(3)], [picture(4)]]
    expected = [predictor(batch) if batch else [] for batch in batches]
    begun = []
    detect = predictor.detect
    monkeypatch.setattr(predictor, "detect", lambda batch: begun.append(threading.get_ident()) or detect(batch))
    keyed = [[(f"{i}.{j}", image) for j, image in enumerate(batch)] for i, batch in enumerate(batches)]
    for number, answered in enumerate(predictor.stream(iter(keyed))):
        assert [(key, id(image)) for key, image, _ in answered] == [(key, id(image)) for key, image in keyed[number]]
        for (_, _, one), other in zip(answered, expected[number], strict=True):
            assert_same(one, other)
        if number == 2:
            deadline = time.monotonic() + 60
            while len(begun) < 4:  # two of the first batch, one of the third, and already one of the next
                assert time.monotonic() < deadline
                time.sleep(0.01)
    assert len(begun) == 5 and threading.get_ident() not in begun
    stream = predictor.stream(iter(keyed))
    next(stream)
    stream.close()
    assert not any(thread.name.startswith("network") for thread in threading.enumerate())


def test_a_stream_raises_what_a_call_does(predictor, monkeypatch):
    def broken(batch):
        raise ppsolo.PpsoloError("not finite")

    monkeypatch.setattr(predictor, "detect", broken)
    with pytest.raises(ppsolo.PpsoloError, match="not finite"):
        list(predictor.stream([[("a", picture(0))]]))


def test_a_path_and_its_pixels_answer_alike(predictor, tmp_path):
    write_image(tmp_path / "a.png", picture(5))
    for source in (str(tmp_path / "a.png"), tmp_path / "a.png"):
        assert_same(predictor(source), predictor(picture(5)))
    assert predictor([]) == []


def test_nothing_found_flows_through_every_form(predictor, tmp_path):
    bias = predictor.model.head.category.bias
    before = bias.numpy()
    bias.set_value(before - 50)
    try:
        instances = predictor(picture(0))
    finally:
        bias.set_value(before)
    assert len(instances) == 0 and instances.masks.shape == (0, 60, 90) and instances.boxes.shape == (0, 4)
    assert instances.rle() == instances.polygons() == instances.to_coco(image_id=1) == instances.names == []
    instances.to_labelme(tmp_path / "empty.json")
    assert json.loads((tmp_path / "empty.json").read_text())["shapes"] == []
    np.testing.assert_array_equal(instances.draw(picture(0)), picture(0))


def test_kernels_and_mask_features_are_computed_only_if_a_cell_passes_the_threshold(predictor, tiny):
    config = load_config("solov2_r50_fpn_1x", tiny)
    scores = predictor(picture(0)).scores
    layers: list[str] = []
    hooks = [
        layer.register_forward_post_hook(lambda layer, x, y, name=name: layers.append(name))
        for name, layer in {
            "features": predictor.model.mask_feature_head,
            "kernel": predictor.model.head.kernel,
        }.items()
    ]
    try:
        for threshold, expected in ((config.postprocess.score_threshold, len(scores)), (0.999999, 0)):
            settings = load_config("solov2_r50_fpn_1x", {**tiny, "postprocess.score_threshold": threshold})
            network = Predictor(settings, model=predictor.model).dygraph
            batch = np.stack([predictor.prepare(picture(0))[0], predictor.prepare(picture(1))[0]])
            usual = network.postprocess(network.predict(batch))
            layers.clear()
            found = network.run(batch)
            assert found.counts[0] == expected and set(layers) == ({"features", "kernel"} if expected else set())
            for one, other in zip(found, usual, strict=True):
                assert one.dtype == other.dtype and one.shape == other.shape and np.array_equal(one, other)
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (2000, 3)])
def test_tiles_find_what_one_picture_shows(predictor, size):
    assert predictor(picture(0, *size), tile=64, overlap=32).size == size


def test_a_picture_of_one_tile_answers_as_it_does_whole(predictor):
    assert_same(predictor(picture(0), tile=128, overlap=32), predictor(picture(0)))
    pair = predictor([picture(0), picture(1)], tile=128, overlap=32)
    assert [len(one) for one in pair] == [len(predictor(picture(0))), len(predictor(picture(1)))]
    with pytest.raises(ConfigError, match="overlap is 64"):
        predictor(picture(0), tile=64, overlap=64)


def test_a_tiled_pipeline_answers_as_calls_with_tiles(predictor, tmp_path, monkeypatch):
    """It reads a file part by part, and takes other tiles too."""
    tifffile = pytest.importorskip("tifffile")
    image, tiled = picture(0, 100, 150), TiledPipeline(predictor, Tiling(64, 32))
    expected = predictor(image, tile=64, overlap=32)
    assert_same(tiled(image), expected)
    assert_same(tiled([image, image])[1], expected)
    assert_same(tiled(image, tile=96, overlap=32), predictor(image, tile=96, overlap=32))
    tifffile.imwrite(tmp_path / "large.tif", image, photometric="rgb", tile=(64, 64))
    monkeypatch.setattr(tiled, "read", Mock(side_effect=AssertionError("the whole file is read")))
    assert_same(tiled(tmp_path / "large.tif"), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (2000, 3)])
def test_extreme_sizes(predictor, size):
    assert predictor(picture(0, *size)).size == size


@pytest.mark.parametrize(("height", "width"), [(100, 640), (640, 100), (73, 500)])
def test_masks_have_the_size_of_the_image(predictor, tiny, height, width):
    """2.x divides both sides by the vertical ratio: it gives 100x640 masks of 100x641 pixels."""
    predictor = Predictor(load_config("solov2_r50_fpn_1x_coco", tiny), model=predictor.model)
    detections = []
    detect = predictor.detect
    predictor.detect = lambda batch: detections.append(detect(batch)) or detections[-1]
    instances = predictor(picture(0, height, width))
    assert len(instances) > 0 and instances.masks.shape[1:] == (height, width)
    scale = min(64 / min(height, width), 96 / max(height, width))
    rows, columns = int(scale * height + 0.5), int(scale * width + 0.5)
    for mask, soft in zip(instances.masks, detections[0].masks, strict=True):
        padded = cv2.resize(soft, (soft.shape[1] * 4, soft.shape[0] * 4), interpolation=cv2.INTER_LINEAR)
        plain = cv2.resize(padded[:rows, :columns], (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
        # where a probability comes within float rounding of the threshold, either answer is right
        assert np.count_nonzero(mask != plain) <= 2


@pytest.mark.parametrize("engine", ["dygraph", "onnxruntime", "openvino"])
def test_an_output_that_is_not_finite_is_refused(predictor, tiny, engine):
    if engine != "dygraph":
        pytest.importorskip(engine)
    config = load_config("solov2_r50_fpn_1x", tiny)
    model = busy_model(config)
    weight = model.head.category.weight
    weight.set_value(paddle.full_like(weight, 3e38))  # finite itself, its products overflow
    with pytest.raises(ppsolo.PpsoloError, match="not finite"):
        Predictor(config, model=model, engine=engine)(picture(0))


def test_as_many_instances_as_asked_for(predictor, tiny):
    limit = len(predictor(picture(0))) - 2
    config = load_config("solov2_r50_fpn_1x", {**tiny, "postprocess.max_instances": limit})
    assert len(Predictor(config, model=predictor.model)(picture(0))) == limit


def test_weights_come_from_a_file_or_the_configuration(predictor, tmp_path, tiny):
    weights = tmp_path / "own.safetensors"
    save_weights(predictor.model, weights)
    config = tmp_path / "mine.yml"
    config.write_text(yaml.safe_dump(config_to_dict(load_config("solov2_r50_fpn_1x", tiny))))
    loaded = Predictor.from_pretrained(str(config), weights=str(weights))
    assert loaded.load_report is not None and loaded.load_report.loaded == loaded.load_report.total
    assert_same(loaded(picture(0)), predictor(picture(0)))
    by_config = Predictor(load_config(config, {"weights": str(weights)}))
    assert_same(by_config(picture(0)), predictor(picture(0)))


def test_the_engine_is_the_best_that_is_exact_and_says_so(predictor, tmp_path, tiny, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    assert predictor.description.startswith("Paddle") and "dygraph, cpu" in predictor.description  # the model was given
    save_weights(predictor.model, tmp_path / "own.safetensors")
    config = load_config("solov2_r50_fpn_1x", tiny)
    chosen = Predictor(config, weights=tmp_path / "own.safetensors", threads=1)
    assert chosen.description.startswith("OpenVINO") and "fp32, 1 thread;" in chosen.description
    expected = predictor(picture(0))
    assert_same(chosen(picture(0)), expected)
    monkeypatch.setattr("ppsolo.deploy.engines.installed", lambda package: package != "openvino")
    second = Predictor(config, weights=tmp_path / "own.safetensors")
    assert second.description.startswith("onnxruntime")
    assert_same(second(picture(0)), expected)
    plain = Predictor(config, weights=tmp_path / "own.safetensors", engine="dygraph", threads=2)
    assert "dygraph" in plain.description and plain.description.endswith("2 threads")
    assert_same(plain(picture(0)), expected)
    explicit = Predictor(config, model=predictor.model, engine="onnxruntime")
    assert explicit.description.startswith("onnxruntime")
    assert_same(explicit(picture(0)), expected)


def test_reading_an_attribute_changes_nothing(predictor, tmp_path, tiny):
    """The runtime is chosen when the predictor is made. Only dygraph has the model, and uses changed weights."""
    pytest.importorskip("onnxruntime")
    save_weights(predictor.model, tmp_path / "own.safetensors")
    config = load_config("solov2_r50_fpn_1x", tiny)
    loaded = Predictor(config, weights=tmp_path / "own.safetensors")
    description, expected = loaded.description, loaded(picture(0))
    with pytest.raises(ppsolo.PredictionError, match="engine='dygraph'"):
        _ = loaded.model
    assert loaded.description == description and "dygraph" not in description
    assert_same(loaded(picture(0)), expected)
    plain = Predictor(config, weights=tmp_path / "own.safetensors", engine="dygraph")
    bias = plain.model.head.category.bias
    bias.set_value(bias.numpy() - 50)
    assert len(plain(picture(0))) == 0 and len(expected) > 0


@pytest.mark.parametrize("keep", [True, False])
def test_freed_memory_is_kept_in_dygraph_only_where_wanted(predictor, monkeypatch, keep):
    kept = []
    monkeypatch.setattr(predictor_module, "keep_freed_memory", lambda: kept.append(True))
    Predictor(predictor.config, model=predictor.model, keep_memory=keep)(picture(0))
    assert bool(kept) == keep


def test_weights_of_the_other_generation_are_warned_about(predictor, tmp_path, tiny, caplog):
    save_weights(predictor.model, tmp_path / "other.pdparams", generation="dygraph-2.x")
    Predictor(load_config("solov2_r50_fpn_1x", tiny), weights=tmp_path / "other.pdparams")
    assert "dygraph-2.x" in caplog.text and "static-0.5" in caplog.text


def test_refusals(predictor, tmp_path, tiny):
    config = load_config("solov2_r50_fpn_1x", tiny)
    with pytest.raises(ConfigError, match="has no weights"):
        Predictor(config)
    with pytest.raises(CheckpointError, match=r"nowhere\.pdparams: no such file"):
        Predictor(config, weights="nowhere.pdparams")
    with pytest.raises(ConfigError, match="choose one of auto"):
        Predictor(config, model=predictor.model, engine="fastest")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="threads is 0"):
        Predictor(config, model=predictor.model, threads=0)
    with pytest.raises(ConfigError, match="solov2_r50_fpn_1x"):
        Predictor(config, weights="solov2_r50_fpn1x")
    with pytest.raises(ImageError, match=r"missing\.jpg"):
        predictor([picture(0), tmp_path / "missing.jpg"])
    with pytest.raises(ImageError, match="uint8"):
        predictor(picture(0).astype("float32"))
    with pytest.raises(ValueError, match="batch_size"):
        predictor([picture(0)], batch_size=0)


def test_a_published_name_is_fetched_checked_and_loaded(tmp_path, monkeypatch, seeded_weights, reference):
    import pickle

    name = "solov2_mobilenetv3_fpn_448_3x"
    manifest = json.loads((reference / "manifests" / f"{name}.manifest.json").read_text())
    weights = seeded_weights.fill(manifest, 1, "static-0.5")
    monkeypatch.setenv("PPSOLO_WEIGHTS", str(tmp_path))
    (tmp_path / f"{name}.pdparams").write_bytes(pickle.dumps(weights, protocol=2))
    predictor = Predictor.from_pretrained(name)
    assert predictor.load_report is not None and predictor.load_report.loaded == len(zoo.load_manifest(zoo.ZOO[name]))
    assert predictor.class_names[0] == "person"

    (tmp_path / f"{name}.pdparams").write_bytes(pickle.dumps({**weights, "extra": weights["conv1_weights"]}))
    with pytest.raises(ppsolo.DownloadError, match="sha256"):
        Predictor.from_pretrained(name)
    (tmp_path / f"{name}.pdparams.sha256").unlink()
    with pytest.raises(CheckpointError, match="extra"):
        Predictor.from_pretrained(name)


def test_a_model_whose_weights_are_not_finite_is_refused(tiny):
    config = ppsolo.load_config("solov2_r50_fpn_1x", tiny)
    model = ppsolo.build_model(config)
    weight = model.head.category.weight
    weight.set_value(paddle.full_like(weight, float("nan")))
    with pytest.raises(ppsolo.PpsoloError, match=r"not finite \(head\.category\.weight\)"):
        ppsolo.Predictor(config, model=model)
