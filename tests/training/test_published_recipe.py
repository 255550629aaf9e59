"""The published recipe under Paddle's launcher, at small images: backbones of both containers are fetched."""

import functools
import http.server
import json
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import paddle
import pytest
from backbone_files import write_published

from ppsolo import build_model, load_config
from ppsolo.checkpoint.load import save_weights
from ppsolo.legacy.names import DYGRAPH, STATIC, published_names

pytestmark = pytest.mark.full_size  # the published network, in two processes, twice for each container

ROOT = Path(__file__).parents[2]
BACKBONE = "ResNet50_cos_pretrained"
# The command is scripts/train.py; before it, the addresses of the published files become those of the test's server.
SCRIPT = """
import runpy, sys
from ppsolo.checkpoint import backbones
address, script, *arguments = sys.argv[1:]
for generation in backbones._STORES:
    backbones._STORES[generation] = address
sys.argv = [script, *arguments]
runpy.run_path(script, run_name="__main__")
"""


class _Store(http.server.SimpleHTTPRequestHandler):
    """Shows a folder and notes what is asked for."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()


@pytest.fixture
def store(tmp_path):
    """A folder and the address on 127.0.0.1 that shows it."""
    folder = tmp_path / "store"
    folder.mkdir()
    _Store.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Store, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def small(drawn, output, **changes) -> dict[str, object]:
    """What the test changes of a published configuration: data, size of images and grids, two steps, how it reports.

    Small grids change no weight: a step takes a tenth of the time.
    """
    return {
        "data.root": str(drawn),
        "data.train_annotations": "instances_train.json",
        "data.train_images": "train",
        "data.val_annotations": "",
        "data.num_workers": 0,
        "num_classes": 3,
        "model.head.num_grids": [8, 6, 4, 3, 2],
        "train.output_dir": str(output),
        "train.epochs": 1,
        "train.log_every": 1,
        "train.schedule.milestones": [],
        "train.augment.short_sides": [64],
        "train.augment.long_side": 96,
        **changes,
    }


def losses(folder) -> list[dict[str, float]]:
    """The losses of each step of a run."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in record.items() if key.startswith("train/loss")}
        for record in records
        if "train/loss" in record
    ]


@pytest.mark.parametrize(("system", "generation"), [("solov2_r50_fpn_1x", STATIC), ("solov2_r50_fpn_1x_coco", DYGRAPH)])
def test_the_backbone_is_fetched_once_and_the_first_losses_are_those_of_loading_by_hand(
    store, drawn, launch, tmp_path, monkeypatch, system, generation
):
    folder, address = store
    monkeypatch.setenv("PPSOLO_WEIGHTS", str(tmp_path / "weights"))
    arrays = write_published(folder, BACKBONE, generation)
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)

    def train(output: str, **changes) -> list[dict[str, float]]:
        values = small(drawn, tmp_path / output, **changes)
        overrides = [f"{key}={json.dumps(value)}" for key, value in values.items()]
        command = [address, "scripts/train.py", "-c", f"configs/{system}.yml", "-o", *overrides]
        monkeypatch.chdir(ROOT)
        done = launch(script, *command, log=tmp_path / f"{output}_log")
        log = (tmp_path / f"{output}_log" / "workerlog.0").read_text()
        assert done.returncode == 0, log
        if not changes:
            assert f"{len(arrays)} of {len(arrays)} arrays of" in log
        return losses(tmp_path / output / system)

    fetched = train("fetched")
    assert len([path for path in _Store.asked if BACKBONE in path]) == 1

    config = load_config(system, small(drawn, tmp_path))
    paddle.seed(config.train.seed)
    model = build_model(config)
    state = model.state_dict()
    for ours, theirs in published_names(state, generation).items():
        if ours.startswith("backbone."):
            state[ours].set_value(arrays[theirs.removeprefix("backbone.")])
    save_weights(model, tmp_path / "by_hand.pdparams")
    by_hand = train("by_hand", pretrained_backbone=None, weights=str(tmp_path / "by_hand.pdparams"))
    assert len(fetched) == 2 and np.isfinite([step["train/loss"] for step in fetched]).all()
    assert fetched == by_hand
