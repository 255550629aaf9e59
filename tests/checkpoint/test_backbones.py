"""ImageNet backbones: both containers, made from the manifests, served on 127.0.0.1, fetched, checked and loaded."""

import functools
import http.server
import threading

import numpy as np
import pytest
from backbone_files import arrays_of, write_archive, write_published

from ppsolo import build_model, load_config
from ppsolo.checkpoint import backbones
from ppsolo.checkpoint.backbones import BACKBONES, check_backbone, read_backbone
from ppsolo.checkpoint.load_backbone import load_backbone
from ppsolo.errors import CheckpointError, UnavailableError
from ppsolo.legacy.names import DYGRAPH, STATIC, published_names

EVERY_FILE = [(entry.name, generation) for entry in BACKBONES.values() for generation in entry.systems]
ARRAYS = {
    "ResNet50_cos_pretrained": 265,
    "ResNet101_vd_pretrained": 530,
    "ResNet50_vd_ssld_pretrained": 275,
    "ResNet50_vd_ssld_v2_pretrained": 275,
    "MobileNetV3_large_x1_0_ssld_pretrained": 267,
}


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A folder that a server on 127.0.0.1 shows under both published addresses; weights land in another folder."""
    folder = tmp_path / "store"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(backbones, "_STORES", {STATIC: address, DYGRAPH: address})
    monkeypatch.setenv("PPSOLO_WEIGHTS", str(tmp_path / "weights"))
    yield folder
    server.shutdown()
    server.server_close()


def test_the_addresses_are_the_published_ones():
    urls = {name: {entry.url(generation) for generation in entry.systems} for name, entry in BACKBONES.items()}
    old, new = "https://paddle-imagenet-models-name.bj.bcebos.com", "https://paddledet.bj.bcebos.com/models/pretrained"
    assert urls == {
        "ResNet50_cos_pretrained": {f"{old}/ResNet50_cos_pretrained.tar", f"{new}/ResNet50_cos_pretrained.pdparams"},
        "ResNet101_vd_pretrained": {f"{old}/ResNet101_vd_pretrained.tar", f"{new}/ResNet101_vd_pretrained.pdparams"},
        "ResNet50_vd_ssld_pretrained": {f"{old}/ResNet50_vd_ssld_pretrained.tar"},
        "ResNet50_vd_ssld_v2_pretrained": {f"{new}/ResNet50_vd_ssld_v2_pretrained.pdparams"},
        "MobileNetV3_large_x1_0_ssld_pretrained": {f"{old}/MobileNetV3_large_x1_0_ssld_pretrained.tar"},
    }


@pytest.mark.parametrize(("name", "generation"), EVERY_FILE)
def test_a_manifest_is_the_backbone_of_its_system(model_shapes, name, generation):
    system = BACKBONES[name].systems[generation]
    ours = model_shapes(system)
    names = published_names(ours, generation)
    expected = {
        names[key].removeprefix("backbone."): shape
        for key, shape in ours.items()
        if key.startswith("backbone.") and ".offset." not in key
    }
    assert BACKBONES[name].shapes(generation) == expected
    assert len(expected) == ARRAYS[name]
    assert load_config(system).pretrained_backbone == name


@pytest.mark.parametrize(
    ("name", "generation"),
    [("ResNet50_cos_pretrained", STATIC), ("ResNet50_cos_pretrained", DYGRAPH), EVERY_FILE[-1]],
)
def test_a_published_file_is_fetched_checked_and_loaded(store, name, generation):
    expected = write_published(store, name, generation, prefix="backbone." if generation == DYGRAPH else "")
    model = build_model(load_config(BACKBONES[name].systems[generation]))
    done = []
    report = load_backbone(model, name, preferred=generation, progress=lambda *bytes_: done.append(bytes_))
    assert (report.loaded, report.total, len(report.ignored)) == (ARRAYS[name], ARRAYS[name], 1)
    assert f"{ARRAYS[name]} of {ARRAYS[name]} arrays of {name}" in str(report)
    assert done
    state = model.state_dict()
    for ours, theirs in published_names(state, generation).items():
        if ours.startswith("backbone."):
            np.testing.assert_array_equal(state[ours].numpy(), expected[theirs.removeprefix("backbone.")])


def test_a_file_that_is_here_is_taken_whichever_generation_wrote_it(store, tmp_path):
    (tmp_path / "weights").mkdir()
    write_published(tmp_path / "weights", "ResNet50_cos_pretrained", DYGRAPH)
    path, arrays = read_backbone("ResNet50_cos_pretrained", preferred=STATIC)
    assert path.name == "ResNet50_cos_pretrained.pdparams" and "conv1.conv1.conv.weight" in arrays


def test_without_a_connection_the_error_says_what_to_do(store, tmp_path):
    with pytest.raises(UnavailableError) as caught:
        read_backbone("ResNet101_vd_pretrained", preferred=STATIC)
    message = str(caught.value)
    assert f"put the file by hand at {tmp_path / 'weights' / 'ResNet101_vd_pretrained.tar'}" in message
    assert "-o pretrained_backbone=null model.backbone.freeze_norm=false" in message


def test_another_file_is_refused_and_its_checksum_forgotten(store, tmp_path):
    write_archive(store / "ResNet101_vd_pretrained.tar", "x", arrays_of("ResNet50_cos_pretrained", STATIC))
    with pytest.raises(CheckpointError, match=r"is not ResNet101_vd_pretrained: .* missing .* unexpected"):
        read_backbone("ResNet101_vd_pretrained", preferred=STATIC)
    assert not (tmp_path / "weights" / "ResNet101_vd_pretrained.tar.sha256").exists()


def test_a_wrong_shape_is_named():
    entry = BACKBONES["ResNet50_cos_pretrained"]
    arrays = {key: np.broadcast_to(np.float32(0), shape) for key, shape in entry.shapes(STATIC).items()}
    check_backbone(arrays, entry, STATIC, "some.tar")
    with pytest.raises(CheckpointError, match=r"1 of a wrong shape \(conv1_weights \[3\] instead of \[64, 3, 7, 7\]\)"):
        check_backbone({**arrays, "conv1_weights": np.zeros(3, np.float32)}, entry, STATIC, "some.tar")
