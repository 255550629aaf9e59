"""The measurement of the update after a step, on a tiny network."""

import json
import re
import sys

from script_files import load_script


def test_buffers_need_few_kernels(tiny, monkeypatch, capsys):
    script = load_script("benchmark_update")
    changes = [f"{key}={json.dumps(value)}" for key, value in tiny.items()]
    monkeypatch.setattr(sys, "argv", ["benchmark_update.py", "--repeats", "2", "-o", *changes])
    assert script.main() == 0
    first, *lines = capsys.readouterr().out.splitlines()
    (entries,) = map(int, re.findall(r"(\d+) entries", first))
    found = {line.partition(":")[0]: int(re.findall(r"(\d+) kernels", line)[0]) for line in lines}
    assert found["average, per entry"] == 3 * entries
    assert found["average, in buffers"] == 4  # of one buffer: join, subtract, scale, add
    assert found["optimizer, use_multi_tensor"] < found["optimizer, as it is"]
