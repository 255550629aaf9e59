"""Benchmark of prediction: several runtimes in turn, compared with the time that the arithmetic needs at least."""

import contextlib
import multiprocessing
import resource
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import cv2
import numpy as np

from ppsolo.benchmark.machine import in_new_process, machine, matrix_product
from ppsolo.benchmark.peers import OnnxRunner, PaddleDetectionRunner
from ppsolo.benchmark.sides import BF16, ENGINES, TOTAL, Side, SideKind, picture, side_kind, timed
from ppsolo.data.decoder_lines import claim_standard_error
from ppsolo.data.images import write_image
from ppsolo.errors import PpsoloError
from ppsolo.evaluation.report import write_report
from ppsolo.processes import end_with_starter, uninterrupted
from ppsolo.progress import Progress
from ppsolo.text import named

_CHART_WIDTH = 960  # pixels
_Worker: TypeAlias = tuple[SpawnProcess, Connection]


class _Runner(Protocol):
    description: str
    facts: Mapping[str, Any]

    def run(self) -> dict[str, float]:
        """Run once and return the seconds of each stage."""
        ...


def benchmark(sides: Sequence[Side], *, repeats: int, warm_up: int, progress: Progress | None = None) -> dict[str, Any]:
    """Measure the sides in turn, `repeats` times, after `warm_up` rounds that do not count.

    Returns the content of the JSON file: machine and versions; "gigaflops" of a large matrix product on the CPU with
    the first side's threads (median over the rounds, see `matrix_product`); "multiply_adds" of the network's
    convolutions; "floor_seconds", the time that these need at the higher of the two speeds. Each side has its
    description, peak memory, images per second (by the median), and the median, p90, p99, least and most seconds of
    each stage and of the total.
    Raises PpsoloError if a side cannot be loaded; if it is no side at all, then before any work.
    """
    for side in sides:
        side_kind(side)
    shape, multiply_adds = in_new_process(_count, sides[0].threads, sides[0])
    context = multiprocessing.get_context("spawn")
    workers: list[_Worker] = []
    results: list[dict[str, Any]] = []
    try:
        for side in sides:
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(side, there), daemon=True)
            with uninterrupted():
                process.start()
            there.close()
            workers.append((process, here))
            results.append({"side": side.name, **_said(workers[-1], side)})
        rounds: list[list[dict[str, float]]] = [[] for _ in sides]
        speeds = []  # one per round: the speed of a shared machine changes
        for number in range(warm_up + repeats):
            for side, worker, taken in zip(sides, workers, rounds, strict=True):
                worker[1].send("run")
                seconds = _said(worker, side)
                if number >= warm_up:
                    taken.append(seconds)
            if number >= warm_up:
                speeds.append(in_new_process(matrix_product, sides[0].threads))
            if progress is not None:
                progress(number + 1, warm_up + repeats)
        for side, worker, taken, result in zip(sides, workers, rounds, results, strict=True):
            worker[1].send("memory")
            result.update(_said(worker, side))
            result.update(batch=side.batch, threads=side.threads)
            result["seconds"] = {stage: summary([row[stage] for row in taken]) for stage in taken[0]}
            result["images_per_second"] = side.batch / result["seconds"][TOTAL]["median"]
        _end(workers, patience=5)
    finally:
        _end(workers, patience=0)  # after an error they may be at work for long
    gigaflops = {name: float(np.median([speed[name] for speed in speeds])) for name in speeds[0]}
    return {
        "machine": machine(),
        "input": shape,
        "multiply_adds": multiply_adds,
        "gigaflops": gigaflops,
        "floor_seconds": 2 * multiply_adds / (max(gigaflops.values()) * 1e9),
        "repeats": repeats,
        "warm_up": warm_up,
        "sides": results,
    }


def benchmark_curve(
    points: Sequence[Sequence[Side]], *, repeats: int, warm_up: int, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Run `benchmark` at several points: batch sizes, threads or picture sizes. progress: counts the points."""
    reports = []
    for sides in points:
        reports.append({"height": sides[0].height, **benchmark(sides, repeats=repeats, warm_up=warm_up)})
        if progress is not None:
            progress(len(reports), len(points))
    return reports


def write_benchmark(reports: Sequence[Mapping[str, Any]], file: Path) -> list[str]:
    """Write the JSON, and next to it the last point's chart as PNG; return a line for each side of each point."""
    write_report(reports, file)
    write_image(file.with_suffix(".png"), chart(reports[-1]))
    return [_line(side, report["floor_seconds"]) for report in reports for side in report["sides"]]


def _line(side: Mapping[str, Any], floor: float) -> str:
    total = side["seconds"][TOTAL]
    spread = f"{total['median']:.3f} s ({total['least']:.3f} .. {total['most']:.3f})"
    cost = f"{total['median'] / floor:.2f} floors, {side['peak_memory_mb']:.0f} MB"
    return f"{spread}, {cost}, batch {side['batch']}: {side['description']}"


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median, p90, p99, least and most of the measurements."""
    values = np.asarray(seconds)
    points = {"median": 50, "p90": 90, "p99": 99}
    return {
        **{name: float(np.percentile(values, at)) for name, at in points.items()},
        "least": float(values.min()),
        "most": float(values.max()),
    }


def count_multiply_adds(model: Any, images: Any) -> int:
    """Run a model on one batch and count the multiply-adds of its convolutions."""
    from paddle import nn

    from ppsolo.models.layers import DeformableConv

    counts: list[int] = []

    def count(layer: Any, inputs: Any, output: Any) -> Any:
        weight = (layer.conv if isinstance(layer, DeformableConv) else layer).weight
        counts.append(int(np.prod(output.shape)) * int(np.prod(weight.shape[1:])))

    layers = [layer for layer in model.sublayers() if isinstance(layer, nn.Conv2D | DeformableConv)]
    hooks = [layer.register_forward_post_hook(count) for layer in layers]
    model(images)
    for hook in hooks:
        hook.remove()
    return sum(counts)


def chart(report: Mapping[str, Any]) -> np.ndarray:
    """Draw a bar for each side: median total, spread and floor; uint8 RGB [H, W, 3]."""
    sides = report["sides"]
    longest = max(report["floor_seconds"], *(side["seconds"][TOTAL]["most"] for side in sides))
    image = np.full((60 + 64 * len(sides), _CHART_WIDTH, 3), 255, np.uint8)
    write = partial(cv2.putText, image, fontFace=cv2.FONT_HERSHEY_SIMPLEX, color=(30, 30, 30), lineType=cv2.LINE_AA)
    write(f"seconds a batch, median; {report['machine']['processor']}", org=(16, 28), fontScale=0.55, thickness=1)
    for index, side in enumerate(sides):
        top = 56 + 64 * index
        seconds = side["seconds"][TOTAL]

        def at(value: float) -> int:
            return 16 + round((_CHART_WIDTH - 120) * value / longest)

        write(side["description"][:110], org=(16, top), fontScale=0.45, thickness=1)
        cv2.rectangle(image, (16, top + 8), (at(seconds["median"]), top + 30), (70, 120, 190), -1)
        cv2.line(image, (at(seconds["least"]), top + 19), (at(seconds["most"]), top + 19), (30, 30, 30), 2)
        floor = at(report["floor_seconds"])
        cv2.line(image, (floor, top + 4), (floor, top + 34), (200, 60, 40), 2)
        write(f"{seconds['median']:.3f}", org=(_CHART_WIDTH - 88, top + 25), fontScale=0.5, thickness=1)
    return image


class _PredictorRunner:
    """Times a `Pipeline`: reading, preprocessing, detecting (in dygraph: network, postprocessing), masks."""

    def __init__(self, side: Side):
        self._side, self._apart = side, side.name == "dygraph"
        self._pipeline = open_side(side)
        self.description = self._pipeline.description
        self.facts: Mapping[str, Any] = {}

    def run(self) -> dict[str, float]:
        seconds = {}
        seconds["reading"], images = timed(lambda: [picture(self._side) for _ in range(self._side.batch)])
        seconds["preprocessing"], prepared = timed(lambda: [self._pipeline.prepare(image) for image in images])
        batch = np.stack([image for image, _ in prepared])
        if self._apart:
            seconds["network"], raw = timed(lambda: self._pipeline.dygraph.predict(batch))
            seconds["postprocessing"], found = timed(lambda: self._pipeline.dygraph.postprocess(raw))
        else:
            seconds["network and postprocessing"], found = timed(lambda: self._pipeline.detect(batch))
        seconds["masks at the original size, as run lengths"], instances = timed(
            lambda: [self._pipeline.finish(one, size) for one, (_, size) in zip(found.images(), prepared, strict=True)]
        )
        self.facts = {"instances": [len(one) for one in instances]}
        seconds[TOTAL] = sum(seconds.values())
        return seconds


def _count(side: Side) -> tuple[list[int], int]:
    """Return the shape of a batch, and how many multiply-adds the network needs for it."""
    import paddle

    from ppsolo.build.network import build_model
    from ppsolo.build.pipeline import build_preprocess

    prepared, _ = build_preprocess(side.config)(picture(side))
    model = build_model(side.config)
    model.eval()
    with paddle.no_grad():
        images = paddle.to_tensor(np.stack([prepared] * side.batch))
        return list(images.shape), count_multiply_adds(model, images)


def open_side(side: Side) -> Any:
    """Return the predictor of a side. Exports take the class thresholds of `side.config`."""
    if side.name in ENGINES:
        from ppsolo.predictor import Predictor

        if side.name == BF16:
            return Predictor(side.config, engine="openvino", precision="bf16", threads=side.threads)
        return Predictor(side.config, engine=side.name, threads=side.threads)
    from ppsolo.deploy.directory import read_directory
    from ppsolo.model_source import ModelSource, export_config

    export, thresholds = read_directory(side.name), side.config.postprocess.class_thresholds
    own = export_config(export, {"postprocess.class_thresholds": list(thresholds)} if thresholds else ())
    source = ModelSource(own, export, engine=side.engine, device=side.device, precision=side.precision)
    return source.open(threads=side.threads)


def _runner(side: Side) -> _Runner:
    runners: dict[SideKind, Callable[[Side], _Runner]] = {
        "ppsolo": _PredictorRunner,
        "onnx": OnnxRunner,
        "paddledetection": PaddleDetectionRunner,
    }
    return runners[side_kind(side)](side)


def _work(side: Side, connection: Connection) -> None:
    """Runs in a side's process: send its description, then answer "run" and "memory" until the pipe is closed."""
    claim_standard_error()
    end_with_starter()
    try:
        runner = _runner(side)
        connection.send({"description": runner.description})
        while True:
            if connection.recv() == "run":
                connection.send(runner.run())
            else:
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                connection.send({**runner.facts, "peak_memory_mb": peak})
    except (EOFError, BrokenPipeError):
        return
    except (PpsoloError, OSError, RuntimeError, ImportError) as error:
        with contextlib.suppress(OSError):
            connection.send(str(error))


def _end(workers: Sequence[_Worker], *, patience: float) -> None:
    """End the processes, with so many seconds for each to end by itself."""
    for process, connection in workers:
        connection.close()
        process.join(timeout=patience)
        if process.is_alive():
            process.terminate()


def _said(worker: _Worker, side: Side) -> dict[str, Any]:
    """Return a worker's answer. Raises PpsoloError that names the side if it failed or is gone."""
    process, connection = worker
    try:
        answer = connection.recv()
    except EOFError:
        process.join(timeout=5)
        code = process.exitcode or 0
        reason = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise PpsoloError(f"{side.name}: its process died ({reason}): is the model whole?") from None
    if isinstance(answer, str):
        raise PpsoloError(named(side.name, answer))
    return answer
