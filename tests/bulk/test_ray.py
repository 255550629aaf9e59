"""Ray Data's `map_batches` predicts with one predictor for each actor."""

import json

import numpy as np
import pytest
from busy import busy_model

from ppsolo import Predictor, load_config, save_weights
from ppsolo.bulk import BatchPredictor
from ppsolo.config import config_to_dict
from ppsolo.data.images import write_image
from ppsolo.errors import ConfigError


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny):
    """The directory of a run whose weights find something, with pictures in it."""
    import yaml

    folder = tmp_path_factory.mktemp("run")
    config = load_config("solov2_r50_fpn_1x", {**tiny, "postprocess.max_instances": 5})
    model = busy_model(config)
    save_weights(model, folder / "last.pdparams")
    (folder / "config.yml").write_text(yaml.safe_dump(config_to_dict(config)))
    for number in range(6):
        image = np.random.default_rng(number).integers(0, 256, (60, 90, 3), np.uint8)
        write_image(folder / f"{number}.png", image)
    return folder


def test_columns(run):
    predict = BatchPredictor(run)
    expected = Predictor(run / "config.yml", weights=run / "last.pdparams")(run / "0.png")
    paths = np.array([str(run / "0.png"), str(run / "gone.png")], dtype=object)
    found = predict({"path": paths, "number": np.array([7, 8])})
    assert found["number"].tolist() == [7, 8] and found["error"][0] == "" and "gone.png" in found["error"][1]
    assert len(json.loads(found["instances"][0])) == len(expected) and found["instances"][1] == "[]"
    with pytest.raises(ConfigError, match="path or image"):
        predict({"file": paths})


def test_two_actors(run):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        rows = ray.data.from_items([{"path": str(run / f"{number}.png")} for number in range(6)])
        found = rows.map_batches(
            BatchPredictor, fn_constructor_args=[str(run)], batch_size=2, concurrency=2, num_cpus=1
        ).take_all()
    finally:
        ray.shutdown()
    assert len(found) == 6 and all(row["error"] == "" for row in found)
    alone = BatchPredictor(run)
    for row in found:
        again = alone({"path": np.array([row["path"]], dtype=object)})
        scores = [[entry["score"] for entry in json.loads(text)] for text in (row["instances"], again["instances"][0])]
        np.testing.assert_allclose(*scores, atol=1e-5)  # another batch may take other kernels
