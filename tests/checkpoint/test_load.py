"""Strict loading: every array accounted for, or refused by name; and the way back."""

import json
import pickle

import numpy as np
import paddle
import pytest

from ppsolo import build_model, load_config, load_weights, save_weights
from ppsolo.checkpoint.load import LoadReport, load_pretrained
from ppsolo.checkpoint.reader import read_checkpoint
from ppsolo.checkpoint.zoo import ZOO
from ppsolo.errors import CheckpointError
from ppsolo.legacy.names import DYGRAPH, STATIC, alias_of, published_names

SYSTEMS = {STATIC: "solov2_r101_vd_fpn_3x", DYGRAPH: "solov2_r101_vd_fpn_3x_coco"}


def model_of(generation: str, tiny: dict, **changes):
    paddle.seed(0)
    return build_model(load_config(SYSTEMS[generation], {**tiny, **changes}))


def arrays_of(model, generation: str) -> dict[str, np.ndarray]:
    """A published file's content for `model`, with values that tell the arrays apart."""
    random = np.random.default_rng(0)
    names = published_names(model.state_dict(), generation)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    arrays = {new: random.normal(size=shapes[old]).astype("float32") for old, new in names.items()}
    if generation == DYGRAPH:
        arrays |= {alias: array for name, array in arrays.items() if (alias := alias_of(name))}
    return arrays


def written(folder, arrays: dict, protocol: int = 4) -> str:
    path = folder / "weights.pdparams"
    path.write_bytes(pickle.dumps(arrays, protocol=protocol))
    return str(path)


def snapshot(model) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("generation", [STATIC, DYGRAPH])
def test_everything_lands_where_it_belongs(tmp_path, tiny, generation):
    model = model_of(generation, tiny)
    arrays = arrays_of(model, generation)
    report = load_weights(model, written(tmp_path, arrays, protocol=2))
    assert (report.loaded, report.total, report.generation) == (len(arrays), len(arrays), generation)
    assert f"{len(arrays)} of {len(arrays)}" in str(report)
    state = model.state_dict()
    for ours, published in published_names(state, generation).items():
        np.testing.assert_array_equal(state[ours].numpy(), arrays[published])


def change(arrays: dict, fault: str, name: str) -> str:
    """Break `arrays`; returns what the refusal must say."""
    if fault == "missing":
        del arrays[name]
        return f"missing {name}"
    if fault == "unexpected":
        arrays["extra.weight"] = np.zeros(3, "float32")
        return "unexpected extra.weight"
    if fault == "renamed":
        arrays[name + "x"] = arrays.pop(name)
        return f"missing {name}, unexpected {name}x"
    if fault == "shape":
        arrays[name] = arrays[name][..., None]
        return f"{name} is "
    if fault == "overflow":
        arrays[name] = arrays[name].astype("float64") * 1e300
        return f"{name} has values that are not finite in float32"
    if fault == "nan":
        arrays[name] = arrays[name] * np.float32("nan")
        return f"{name} has values that are not finite"
    arrays[name] = arrays[name].astype("int32")
    return f"{name} is int32, not floating-point"


@pytest.mark.parametrize("fault", ["missing", "unexpected", "renamed", "shape", "nan", "overflow", "type"])
@pytest.mark.parametrize("generation", [STATIC, DYGRAPH])
def test_a_fault_is_refused_by_name_and_nothing_is_loaded(tmp_path, tiny, generation, fault):
    model = model_of(generation, tiny)
    arrays = arrays_of(model, generation)
    name = published_names(model.state_dict(), generation)["backbone.stages.2.0.conv2.conv.offset.weight"]
    expected = change(arrays, fault, name)
    before = snapshot(model)
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, written(tmp_path, arrays))
    assert expected in str(caught.value) and "\n" not in str(caught.value)
    after = snapshot(model)
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_one_array_stored_twice_with_different_values_is_refused(tmp_path, tiny):
    model = model_of(DYGRAPH, tiny)
    arrays = arrays_of(model, DYGRAPH)
    arrays["solov2_head.solo_cate.bias"] = arrays["solov2_head.solo_cate.bias"] + 1
    with pytest.raises(CheckpointError, match=r"solov2_head\.solo_cate\.bias .* stored twice"):
        load_weights(model, written(tmp_path, arrays))


@pytest.mark.parametrize("generation", [STATIC, DYGRAPH])
def test_another_class_count_is_refused_unless_asked_for(tmp_path, tiny, generation):
    path = written(tmp_path, arrays_of(model_of(generation, tiny), generation))
    model = model_of(generation, tiny, num_classes=5)
    before = snapshot(model)
    with pytest.raises(CheckpointError, match="has 3 classes, but the model 5"):
        load_weights(model, path)
    report = load_weights(model, path, allow_other_classes=True)
    assert report.total - report.loaded == len(report.skipped) == (4 if generation == DYGRAPH else 2)
    assert "solo_cate.bias" in str(report)
    after = snapshot(model)
    np.testing.assert_array_equal(before["head.category.weight"], after["head.category.weight"])
    assert not np.array_equal(before["head.kernel.weight"], after["head.kernel.weight"])


def test_a_class_layer_at_odds_with_itself_is_refused(tmp_path, tiny):
    arrays = arrays_of(model_of(STATIC, tiny), STATIC)
    for bias in (np.zeros(7, "float32"), np.zeros((), "float32")):
        arrays["bbox_head.solo_cate.bias"] = bias
        with pytest.raises(CheckpointError, match=r"damaged|does not fit"):
            load_weights(model_of(STATIC, tiny), written(tmp_path, arrays), allow_other_classes=True)


def test_a_file_of_something_else_is_refused(tmp_path, tiny):
    path = written(tmp_path, {"fc.weight": np.zeros((2, 2), "float32")})
    with pytest.raises(CheckpointError, match=r"array names belong to no SOLOv2 .*'fc\.weight'"):
        load_weights(model_of(STATIC, tiny), path)


def test_a_file_of_the_other_generation_is_refused_where_layers_differ(tmp_path, tiny):
    path = written(tmp_path, arrays_of(model_of(STATIC, tiny), STATIC))
    with pytest.raises(CheckpointError, match=r"static-0\.5 generation has no array"):
        load_weights(model_of(DYGRAPH, tiny), path)


@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
def test_own_names_round_trip(tmp_path, tiny, suffix):
    model = model_of(STATIC, tiny)
    save_weights(model, tmp_path / f"own{suffix}")
    other = model_of(STATIC, tiny)
    for parameter in other.parameters():
        parameter.set_value(paddle.zeros_like(parameter))
    report = load_weights(other, tmp_path / f"own{suffix}")
    assert report.generation == "ppsolo"
    before, after = snapshot(model), snapshot(other)
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_what_paddle_saves_loads(tmp_path, tiny):
    model = model_of(STATIC, tiny)
    paddle.save(model.state_dict(), str(tmp_path / "saved.pdparams"))
    report = load_weights(model_of(STATIC, tiny), tmp_path / "saved.pdparams")
    assert report.loaded == report.total == len(model.state_dict())


def test_the_way_back_has_the_names_of_2x_and_computes_the_same(tmp_path, tiny):
    model = model_of(STATIC, tiny)
    model.eval()
    save_weights(model, tmp_path / "back.pdparams", generation=DYGRAPH)
    successor = model_of(DYGRAPH, tiny)
    successor.eval()
    report = load_weights(successor, tmp_path / "back.pdparams")
    assert report.generation == DYGRAPH and report.loaded == report.total
    x = paddle.randn([1, 3, 64, 64])
    for ours, theirs in zip(model(x).kernels, successor(x).kernels, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    # Paddle's own reader, on a file that we wrote ourselves, sees what ours sees.
    loaded = paddle.load(str(tmp_path / "back.pdparams"), return_numpy=True)
    assert loaded.keys() == read_checkpoint(tmp_path / "back.pdparams").keys()
    assert loaded.keys() == arrays_of(successor, DYGRAPH).keys()


def test_2x_has_no_place_for_mobilenetv3(tmp_path):
    model = build_model(load_config("solov2_mobilenetv3_fpn_448_3x", {"model.backbone.scale": 0.25}))
    with pytest.raises(CheckpointError, match=r"no array for the model's backbone\.stem\.conv\.weight"):
        save_weights(model, tmp_path / "back.pdparams", generation=DYGRAPH)
    assert not (tmp_path / "back.pdparams").exists()


@pytest.mark.parametrize("name", ZOO)
def test_every_published_manifest_loads_whole(tmp_path, reference, seeded_weights, name):
    """Filled by the reference's generator, written in the published container: N of N."""
    entry = ZOO[name]
    manifest = json.loads((reference / "manifests" / f"{name}.manifest.json").read_text())
    weights = seeded_weights.fill(manifest, 3, entry.generation)
    path = written(tmp_path, weights, protocol=2 if entry.generation == STATIC else 4)
    model = build_model(load_config(entry.config))
    report = load_weights(model, path)
    assert (report.loaded, report.total, report.generation) == (len(manifest), len(manifest), entry.generation)
    names = published_names(model.state_dict(), entry.generation)
    for ours, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), weights[names[ours]])


def test_a_published_name_is_not_hidden_by_a_folder(tmp_path, monkeypatch, tiny):
    """Training leaves folders named like systems; the name still means the published file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PPSOLO_WEIGHTS", str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    (tmp_path / "solov2_r50_fpn_1x").mkdir()
    (tmp_path / "weights" / "solov2_r50_fpn_1x.pdparams").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"solov2_r50_fpn_1x\.pdparams"):
        load_pretrained(model_of(STATIC, tiny), "solov2_r50_fpn_1x")
    with pytest.raises(CheckpointError, match="no such file"):
        load_pretrained(model_of(STATIC, tiny), "x" * 5000 + ".pdparams")


def test_the_report_of_a_pdema_says_which_weights_it_holds():
    report = str(LoadReport("model_final.pdema", "dygraph-2.x", 3, 3))
    assert report.endswith(".pdema holds the raw ones and .pdparams the averaged ones")
    assert "raw" not in str(LoadReport("model_final.pdparams", "dygraph-2.x", 3, 3))
