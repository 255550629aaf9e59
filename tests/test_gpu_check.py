"""The latencies of scripts/gpu_check.py, on a CPU and with a tiny network; on a GPU the script runs the same lines."""

import json
import re

import pytest
from script_files import load_script


@pytest.fixture(scope="module")
def script():
    return load_script("gpu_check")


def test_both_runtimes_are_timed_and_a_precision_without_hardware_is_named(script, tiny, capsys):
    changes = [f"{key}={json.dumps(value)}" for key, value in tiny.items()]
    script.latency("solov2_r50_fpn_3x", None, device="cpu", pictures=3, changes=changes)
    *lines, published = capsys.readouterr().out.splitlines()
    timed = [line for line in lines if re.search(r"median \d+\.\d ms", line)]
    left_out = [line for line in lines if "not measured" in line]
    assert len(lines) == len(timed) + len(left_out) == 4
    assert "Paddle" in timed[0] and "onnxruntime" in timed[1]
    assert [line.partition(":")[0] for line in left_out] == ["paddle, fp16", "onnx, fp16"]
    assert published.startswith("published on a V100")
