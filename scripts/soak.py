"""Predicts on thousands of pictures of many sizes, or trains for thousands of steps: memory and handles must not grow.

    python scripts/soak.py --engine onnxruntime
    python scripts/soak.py --service
    python scripts/soak.py --training

Without -c or --model_dir it uses a system of `small_system.py` with random weights.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from small_system import CONFIG, SYSTEM, overrides, write_weights

MOST_GROWTH = 0.02  # largest growth of memory after the first tenth
SIDES = (32, 640)  # sides of the pictures, drawn at random
ROOT = Path(__file__).parents[1]


class Footprint(NamedTuple):
    """The resources of processes: memory without mapped files, its shared part, both in MB, and open handles."""

    memory: float
    shared: float
    handles: int


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="ppsolo-soak-") as folder:
        if options.training:
            report = soak_training(Path(folder), steps=options.steps)
        else:
            if options.config is None and options.model_dir is None:
                _, options.config, _, *options.override = write_weights(Path(folder, "small.pdparams"))
                if options.engine == "paddle":
                    options.config, options.model_dir = None, _exported(options, Path(folder, "export"))
            predict = _service(options) if options.service else _predictor(options)
            report = soak(predict, pictures=options.pictures, seed=options.seed)
    report = {"what": _name(options), **report}
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    if options.record:
        from reliability import record

        record(f"soak.py {_name(options)}", [f"- {key.replace('_', ' ')}: {value}" for key, value in report.items()])
    return 0 if report["stood"] else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", metavar="FILE")
    parser.add_argument("-o", "--override", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--model_dir", metavar="DIR", help="an export, instead of a configuration")
    parser.add_argument(
        "--engine", default=None, help="the runtime: dygraph, onnxruntime, openvino, or paddle for Paddle Inference"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--service", action="store_true", help="predict through the service, over HTTP")
    what.add_argument("--training", action="store_true", help="train the small system, with two workers")
    parser.add_argument("--pictures", type=int, default=5000, metavar="N", help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=5000, metavar="N", help="training steps, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the pictures, default: %(default)s")
    parser.add_argument("--record", action="store_true", help="write the figures to tests/RELIABILITY.md")
    options = parser.parse_args()
    if options.config is not None and options.model_dir is not None:
        parser.error("give a configuration (-c) or an export (--model_dir)")
    return options


def _name(options: argparse.Namespace) -> str:
    if options.training:
        return "training"
    return f"{options.engine or 'default'} {'service' if options.service else 'predictor'}"


def _exported(options: argparse.Namespace, folder: Path) -> str:
    """Export the model, because Paddle Inference needs an export."""
    command = [sys.executable, "-m", "ppsolo", "export", "-c", options.config, "-o", *options.override]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, "--output_dir", str(folder)], env=environment, check=True, stdout=subprocess.DEVNULL)
    return str(folder)


def _predictor(options: argparse.Namespace) -> Callable[[np.ndarray], Any]:
    if options.model_dir:
        from ppsolo.deploy import load

        return load(options.model_dir, engine=options.engine, keep_memory=False)
    from ppsolo.config import load_config
    from ppsolo.predictor import Predictor

    config = load_config(options.config, options.override)
    return Predictor(config, engine=options.engine or "auto", keep_memory=False)


def _service(options: argparse.Namespace) -> Callable[[np.ndarray], Any]:
    """Start the service on a thread of this process; return a function that asks it over HTTP."""
    from ppsolo.serve.application import create_app
    from ppsolo.serve.server import Server, listen
    from ppsolo.serve.service import Limits

    predictor: Any = _predictor(options)
    listener = listen("127.0.0.1", 0)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = Server(create_app(predictor, model="soak", limits=Limits()))
    threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()

    def ask(image: np.ndarray) -> Any:
        data = cv2.imencode(".png", image)[1].tobytes()
        request = urllib.request.Request(f"{address}/predict", data, {"Content-Type": "image/png"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())

    return ask


def soak(predict: Callable[[np.ndarray], Any], *, pictures: int, seed: int = 0) -> dict[str, Any]:
    """Predict on so many pictures; return the growth, see `compare`."""
    chance = np.random.default_rng(seed)
    seen = []
    started = time.monotonic()
    for _ in range(pictures):
        height, width = chance.integers(*SIDES, 2)
        small = chance.integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8)
        predict(cv2.resize(small, (int(width), int(height))))
        seen.append(footprint([os.getpid()]))
    return {"pictures": pictures, "seconds": round(time.monotonic() - started, 1), **compare(seen)}


def soak_training(folder: Path, *, steps: int) -> dict[str, Any]:
    """Train for so many steps, in epochs of 50, with an evaluation every tenth; return the growth of all processes."""
    from ppsolo.data.synthetic import draw_dataset

    draw_dataset(folder / "data", train=100, val=4, size=(48, 64))
    values = {
        **SYSTEM,
        "name": "run",
        "data.root": str(folder / "data"),
        "data.train_annotations": "instances_train.json",
        "data.train_images": "train",
        "data.val_annotations": "instances_val.json",
        "data.val_images": "val",
        "data.num_workers": 2,
        "train.output_dir": str(folder),
        "train.batch_size": 2,
        "train.epochs": -(-steps // 50),
        "train.evaluate_every": 10,
        "train.log_every": 50,
        "train.augment": {"short_sides": [48], "long_side": 96},
    }
    command = [sys.executable, "-m", "ppsolo", "train", "-c", CONFIG, "-o", *overrides(values)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    log, said, seen = folder / "run" / "log.jsonl", folder / "said", []
    started = time.monotonic()
    with said.open("w") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)
    while process.poll() is None:
        if log.exists() and log.stat().st_size:
            seen.append(footprint(_family(process.pid)))
        time.sleep(0.2)
    if process.returncode != 0 or len(seen) < 10:
        raise SystemExit(f"training ended with {process.returncode} after {len(seen)} looks: {said.read_text()[-500:]}")
    # Between epochs and at the end there are no workers: compare only footprints during training.
    most = int(np.median([each.handles for each in seen]))
    return {"steps": steps, "seconds": round(time.monotonic() - started, 1), **compare(seen, usual_handles=most)}


def compare(seen: Sequence[Footprint], *, usual_handles: int | None = None) -> dict[str, Any]:
    """Return the growth from the second tenth to the last one.

    usual_handles: footprints with fewer handles do not count. `stood`: the median memory grew by less than 2 %, the
    most handles and the most shared memory not at all.
    """
    if usual_handles is not None:
        seen = [each for each in seen if each.handles >= usual_handles]
    tenth = max(1, len(seen) // 10)
    early, late = seen[tenth : 2 * tenth] or seen[:1], seen[-tenth:]
    memory = [float(np.median([each.memory for each in part])) for part in (early, late)]
    handles = [max(each.handles for each in part) for part in (early, late)]
    shared = [round(max(each.shared for each in part), 1) for part in (early, late)]
    growth = memory[1] / memory[0] - 1
    return {
        "stood": growth < MOST_GROWTH and handles[1] <= handles[0] and shared[1] <= shared[0],
        "memory_after_a_tenth_mb": round(memory[0], 1),
        "memory_at_the_end_mb": round(memory[1], 1),
        "growth_percent": round(100 * growth, 2),
        "handles": handles,
        "shared_memory_mb": shared,
    }


def footprint(processes: Sequence[int]) -> Footprint:
    """Return the resources of these processes together; ended processes have none."""
    memory = shared = 0.0
    handles = 0
    for process in processes:
        try:
            status = Path(f"/proc/{process}/status").read_text()
            open_files = len(os.listdir(f"/proc/{process}/fd"))
            private, common = (int(status.partition(f"{key}:")[2].split()[0]) for key in ("RssAnon", "RssShmem"))
        except (OSError, IndexError):
            continue
        memory, shared, handles = memory + private / 1024, shared + common / 1024, handles + open_files
    return Footprint(memory + shared, shared, handles)


def _family(process: int) -> list[int]:
    """Return a process and its children."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        children = []
    return [process, *map(int, children)]


if __name__ == "__main__":
    sys.exit(main())
