"""A forked process that uses its parent's predictor gets an error at once, with the remedy."""

import os
import signal

import numpy as np
import pytest

from ppsolo.deploy import load
from ppsolo.deploy.export import export_model
from ppsolo.errors import PredictionError
from ppsolo.predictor import Predictor

SECONDS = 20  # a child that hangs is killed


def answer_of_fork(predictor, image: np.ndarray) -> str:
    """What a forked child says of a prediction."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        try:
            predictor(image)
            said = b"answered"
        except PredictionError as error:
            said = str(error).encode()
        os.write(writing, said)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        said = stream.read().decode()
    os.waitpid(child, 0)
    return said


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 warns of forking with threads: that is the case
@pytest.mark.parametrize("runtime", ["dygraph", "paddle", "onnxruntime", "openvino"])
def test_a_forked_process_is_told_what_to_do(exported, tmp_path, runtime):
    image = np.zeros((64, 64, 3), np.uint8)
    if runtime == "dygraph":
        predictor = Predictor(exported.config, model=exported.model)
    elif runtime == "paddle":
        predictor = load(exported.export.directory)
    else:
        pytest.importorskip(runtime)
        export_model(
            exported.model, exported.config, tmp_path / "x", format="onnx", graph="network", verify_export=False
        )
        predictor = load(tmp_path / "x", engine=runtime)
    before = predictor(image)
    assert "spawn" in answer_of_fork(predictor, image)
    assert predictor(image).rle() == before.rle()
