"""Run a predictor, or the service, for thousands of pictures of many sizes: memory and handles must not grow."""

import argparse
import json
import os
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

MOST_GROWTH = 0.02  # of the memory, from after the first tenth to the end
SIDES = (32, 640)  # of the pictures, drawn at random


def main() -> int:
    options = _options()
    predict = _service(options) if options.service else _predictor(options)
    report = soak(predict, pictures=options.pictures, seed=options.seed)
    report = {"what": _name(options), **report}
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    if options.record:
        from reliability import record

        record(f"soak.py {_name(options)}", [f"- {key.replace('_', ' ')}: {value}" for key, value in report.items()])
    return 0 if report["stood"] else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-c", "--config", metavar="FILE")
    parser.add_argument("-o", "--override", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--model_dir", metavar="DIR", help="an export, in place of a configuration")
    parser.add_argument("--engine", default=None, help="the runtime, default: that of the predictor")
    parser.add_argument("--service", action="store_true", help="through the service, over HTTP")
    parser.add_argument("--pictures", type=int, default=5000, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the pictures, default: %(default)s")
    parser.add_argument("--record", action="store_true", help="write the figures to tests/RELIABILITY.md")
    options = parser.parse_args()
    if (options.config is None) == (options.model_dir is None):
        parser.error("give a configuration (-c) or an export (--model_dir)")
    return options


def _name(options: argparse.Namespace) -> str:
    return f"{options.engine or 'default'} {'service' if options.service else 'predictor'}"


def _predictor(options: argparse.Namespace) -> Callable[[np.ndarray], Any]:
    if options.model_dir:
        from ppsolo.deploy import load

        return load(options.model_dir, engine=options.engine, keep_memory=False)
    from ppsolo.config import load_config
    from ppsolo.predictor import Predictor

    config = load_config(options.config, options.override)
    return Predictor(config, engine=options.engine or "auto", keep_memory=False)


def _service(options: argparse.Namespace) -> Callable[[np.ndarray], Any]:
    """The service on a thread of this process, and a function that asks it over HTTP."""
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
    """Predict on so many pictures -> what grew. `stood`: memory within 2 % since the first tenth, handles the same."""
    chance = np.random.default_rng(seed)
    memory, handles = [], []
    started = time.monotonic()
    for _ in range(pictures):
        height, width = chance.integers(*SIDES, 2)
        small = chance.integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8)
        predict(cv2.resize(small, (int(width), int(height))))
        memory.append(_resident())
        handles.append(len(os.listdir("/proc/self/fd")))
    tenth = max(1, pictures // 10)
    early, late = max(memory[:tenth]), float(np.median(memory[-tenth:]))
    early_handles, late_handles = max(handles[:tenth]), max(handles[-tenth:])
    growth = late / early - 1
    return {
        "stood": growth < MOST_GROWTH and late_handles <= early_handles,
        "pictures": pictures,
        "seconds": round(time.monotonic() - started, 1),
        "memory_after_a_tenth_mb": round(early),
        "memory_at_the_end_mb": round(late),
        "growth_percent": round(100 * growth, 2),
        "handles": [early_handles, late_handles],
    }


def _resident() -> float:
    """The resident memory of this process, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


if __name__ == "__main__":
    sys.exit(main())
