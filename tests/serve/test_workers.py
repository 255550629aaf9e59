"""Several worker processes: they answer on one socket, count together, are replaced, and end in order."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from servers import SOON, picture, png, wait_until

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds until processes have imported what they need


@pytest.fixture(scope="module")
def export(tmp_path_factory, tiny) -> Path:
    """A tiny network as ONNX."""
    pytest.importorskip("onnxruntime")
    from exports import lively_model

    from ppsolo import load_config
    from ppsolo.deploy.export import export_model

    config = load_config("solov2_r50_fpn_1x", tiny)
    folder = tmp_path_factory.mktemp("workers") / "onnx"
    export_model(lively_model(config), config, folder, format="onnx", graph="network", verify_export=False)
    return folder


def start(export: Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "ppsolo", "serve", "--model_dir", str(export), "--port", "0", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children(process: subprocess.Popen) -> list[int]:
    """Process ids of the workers, the tracker of multiprocessing's resources left out."""
    tasks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in tasks if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def total(client: httpx.Client, name: str) -> float:
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", client.get("/metrics").text, re.M))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found in /proc, which Linux has")
def test_workers_answer_count_together_are_replaced_and_end(export):
    process = start(export, "--workers", "2")
    try:
        lines = iter(process.stdout.readline, "")
        address = next(found[1] for line in lines if (found := re.search(r"answers on (http\S+) by 2 workers", line)))
        wait_until(lambda: len(children(process)) == 2, PATIENCE)
        with httpx.Client(base_url=address, timeout=PATIENCE) as client:
            wait_until(lambda: client.get("/health").status_code == 200, PATIENCE)
        body, answered = png(picture(1)), 0
        for _ in range(12):  # each on a connection of its own, so that both workers get some
            found = httpx.post(
                f"{address}predict", content=body, headers={"Content-Type": "image/png"}, timeout=PATIENCE
            )
            answered += found.status_code == 200
        assert answered == 12
        with httpx.Client(base_url=address, timeout=PATIENCE) as client:
            assert {total(client, "ppsolo_requests_total") for _ in range(4)} == {12.0}
            assert total(client, "ppsolo_queue_length") == 0.0
        before = children(process)
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: len(set(children(process)) - set(before)) == 1, PATIENCE)
        with httpx.Client(base_url=address, timeout=PATIENCE) as client:
            assert client.get("/health/live").status_code == 200
            assert total(client, "ppsolo_requests_total") == 12.0
        workers = children(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), SOON)
        assert "starting another one" in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("workers", [1, 2])
def test_lines_of_decoders_are_told_as_the_services_own(export, workers):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = cv2.imencode(".jpg", cv2.GaussianBlur(noise, (0, 0), 3))[1].tobytes()
    process = start(export, "--workers", str(workers))
    try:
        lines = iter(process.stdout.readline, "")
        address = next(found[1] for line in lines if (found := re.search(r"answers on (http\S+)", line)))
        body, kind = data[: len(data) // 2] + b"\xff\xd9", {"Content-Type": "image/jpeg"}
        for _ in range(6):
            found = httpx.post(f"{address}predict", content=body, headers=kind, timeout=PATIENCE)
            assert found.status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        said = process.stderr.read()
        told = said.count("the JPEG is damaged, what can be decoded is taken")  # once in each process
        assert 1 <= told <= workers, said
        assert not any(line.startswith("Corrupt JPEG data") for line in said.splitlines()), said
    finally:
        process.kill()
        process.communicate()


def test_a_worker_that_cannot_load_its_model_ends_the_service(tmp_path, export, capsys):
    from ppsolo.cli import main

    assert main(["serve", "--model_dir", str(export), "--workers", "0"]) == 2
    assert "--workers" in capsys.readouterr().err
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in export.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.onnx").write_bytes(np.zeros(100, np.uint8).tobytes())
    process = start(broken, "--workers", "2")
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2 and "model.onnx" in err and "answers" not in out
