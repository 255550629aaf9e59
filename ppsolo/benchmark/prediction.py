"""Benchmark of prediction: several runtimes in turn, compared with the time that the arithmetic needs at least."""

import multiprocessing
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np

from ppsolo.benchmark.machine import in_new_process, machine, matrix_product
from ppsolo.cpu import threads_in_words
from ppsolo.data.images import read_image, write_image
from ppsolo.errors import ConfigError, PpsoloError
from ppsolo.evaluation.report import write_report
from ppsolo.progress import Progress
from ppsolo.schema import Config

BF16 = "openvino-bf16"
ENGINES = ("dygraph", "onnxruntime", "openvino", BF16)
TOTAL = "total"


@dataclass(frozen=True)
class Side:
    """One thing to measure, in its own process.

    name: one of ENGINES (a `Predictor` with this engine; the last one computes in bfloat16), an exported directory of
    ppsolo, or a peer. A peer is an ONNX file or a directory that PaddleDetection exported; only its run is timed.
    """

    name: str
    config: Config
    image: str
    batch: int = 1
    threads: int = 1
    height: int | None = None  # scale the picture to this height first
    device: Literal["cpu", "gpu"] = "cpu"  # for exported directories only, like `precision`
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    engine: str = "auto"  # for exported directories only: the runtime


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
    Raises PpsoloError if a side cannot be loaded.
    """
    shape, multiply_adds = in_new_process(_count, sides[0].threads, sides[0])
    context = multiprocessing.get_context("spawn")
    workers, results = [], []
    try:
        for side in sides:
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(side, there), daemon=True)
            process.start()
            there.close()
            workers.append((process, here))
            results.append({"side": side.name, **_said(here, side)})
        rounds: list[list[dict[str, float]]] = [[] for _ in sides]
        speeds = []  # one per round: the speed of a shared machine changes
        for number in range(warm_up + repeats):
            for side, (_, connection), taken in zip(sides, workers, rounds, strict=True):
                connection.send("run")
                seconds = _said(connection, side)
                if number >= warm_up:
                    taken.append(seconds)
            if number >= warm_up:
                speeds.append(in_new_process(matrix_product, sides[0].threads))
            if progress is not None:
                progress(number + 1, warm_up + repeats)
        for side, (_, connection), taken, result in zip(sides, workers, rounds, results, strict=True):
            connection.send("memory")
            result.update(_said(connection, side))
            result.update(batch=side.batch, threads=side.threads)
            result["seconds"] = {stage: summary([row[stage] for row in taken]) for stage in taken[0]}
            result["images_per_second"] = side.batch / result["seconds"][TOTAL]["median"]
    finally:
        for process, connection in workers:
            connection.close()
            process.join(timeout=5)
            if process.is_alive():
                process.terminate()
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

    from ppsolo.models.convolution import DeformableConv

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


def chart(report: Mapping[str, Any], *, width: int = 960) -> np.ndarray:
    """Draw a bar for each side: median total, spread and floor; uint8 RGB [H, W, 3]."""
    sides = report["sides"]
    longest = max(report["floor_seconds"], *(side["seconds"][TOTAL]["most"] for side in sides))
    image = np.full((60 + 64 * len(sides), width, 3), 255, np.uint8)
    write = partial(cv2.putText, image, fontFace=cv2.FONT_HERSHEY_SIMPLEX, color=(30, 30, 30), lineType=cv2.LINE_AA)
    write(f"seconds a batch, median; {report['machine']['processor']}", org=(16, 28), fontScale=0.55, thickness=1)
    for index, side in enumerate(sides):
        top = 56 + 64 * index
        seconds = side["seconds"][TOTAL]

        def at(value: float) -> int:
            return 16 + round((width - 120) * value / longest)

        write(side["description"][:110], org=(16, top), fontScale=0.45, thickness=1)
        cv2.rectangle(image, (16, top + 8), (at(seconds["median"]), top + 30), (70, 120, 190), -1)
        cv2.line(image, (at(seconds["least"]), top + 19), (at(seconds["most"]), top + 19), (30, 30, 30), 2)
        floor = at(report["floor_seconds"])
        cv2.line(image, (floor, top + 4), (floor, top + 34), (200, 60, 40), 2)
        write(f"{seconds['median']:.3f}", org=(width - 88, top + 25), fontScale=0.5, thickness=1)
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
        seconds["reading"], images = _timed(lambda: [_picture(self._side) for _ in range(self._side.batch)])
        seconds["preprocessing"], prepared = _timed(lambda: [self._pipeline.prepare(image) for image in images])
        batch = np.stack([image for image, _ in prepared])
        if self._apart:
            seconds["network"], raw = _timed(lambda: self._pipeline.dygraph.predict(batch))
            seconds["postprocessing"], found = _timed(lambda: self._pipeline.dygraph.postprocess(raw))
        else:
            seconds["network and postprocessing"], found = _timed(lambda: self._pipeline.detect(batch))
        seconds["masks at the original size, as run lengths"], instances = _timed(
            lambda: [self._pipeline.finish(one, size) for one, (_, size) in zip(found.images(), prepared, strict=True)]
        )
        self.facts = {"instances": [len(one) for one in instances]}
        seconds[TOTAL] = sum(seconds.values())
        return seconds


def _picture(side: Side) -> np.ndarray:
    image = read_image(side.image)
    if side.height is None:
        return image
    scale = side.height / image.shape[0]
    return cv2.resize(image, (max(1, round(scale * image.shape[1])), side.height))


def _count(side: Side) -> tuple[list[int], int]:
    """Return the shape of a batch, and how many multiply-adds the network needs for it."""
    import paddle

    from ppsolo.build.network import build_model
    from ppsolo.build.pipeline import build_preprocess

    prepared, _ = build_preprocess(side.config)(_picture(side))
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
    from ppsolo.model_source import ModelSource, export_config

    thresholds = side.config.postprocess.class_thresholds
    own = export_config(side.name, {"postprocess.class_thresholds": list(thresholds)} if thresholds else ())
    source = ModelSource(own, Path(side.name), engine=side.engine, device=side.device, precision=side.precision)
    return source.open(threads=side.threads)


class _OnnxRunner:
    """Times an ONNX model that takes the prepared picture; only its run counts."""

    facts: Mapping[str, Any] = {}

    def __init__(self, side: Side):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = side.threads
        self._session = onnxruntime.InferenceSession(side.name, options, providers=["CPUExecutionProvider"])
        inputs = self._session.get_inputs()
        kinds = {value.name: "image" if len(value.shape) == 4 else value.name for value in inputs}
        self._feeds = _peer_inputs(side, kinds)
        self.description = (
            f"{Path(side.name).name} in onnxruntime {onnxruntime.__version__}, {threads_in_words(side.threads)}"
        )

    def run(self) -> dict[str, float]:
        return {TOTAL: _timed(lambda: self._session.run(None, self._feeds))[0]}


class _PaddlePeerRunner:
    """Times an export of PaddleDetection in Paddle Inference, set up as in its deploy script; only its run counts."""

    facts: Mapping[str, Any] = {}

    def __init__(self, side: Side):
        from paddle import inference
        from paddle.version import full_version

        directory = Path(side.name)
        program = next(path for path in (directory / "model.json", directory / "model.pdmodel") if path.is_file())
        config = inference.Config(str(program), str(directory / "model.pdiparams"))
        config.disable_gpu()
        config.disable_mkldnn()
        config.disable_glog_info()
        if full_version.startswith("2."):  # with Paddle 3 its graph fails
            config.enable_memory_optim()
        config.set_cpu_math_library_num_threads(side.threads)
        self._predictor = inference.create_predictor(config)
        kinds = {name: name for name in self._predictor.get_input_names()}
        for name, values in _peer_inputs(side, kinds).items():
            self._predictor.get_input_handle(name).copy_from_cpu(values)
        self.description = f"{directory.name} in Paddle Inference {full_version}, {threads_in_words(side.threads)}"

    def run(self) -> dict[str, float]:
        return {TOTAL: _timed(self._predictor.run)[0]}


def _peer_inputs(side: Side, kinds: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Inputs of a peer for the prepared picture. They must be real: the number of instances decides the work.

    kinds: input name of the peer -> input name of PaddleDetection. Raises ConfigError for an unknown input.
    """
    from ppsolo.build.pipeline import build_preprocess

    image, size = build_preprocess(side.config)(_picture(side))
    scale = np.divide(size.resized, size.original)
    rows = {"image": image, "im_shape": np.array(size.resized), "scale_factor": scale}
    unknown = [name for name, kind in kinds.items() if kind not in rows]
    if unknown:
        raise ConfigError(f"unknown inputs {', '.join(unknown)}: known are an image, im_shape and scale_factor")
    return {name: np.stack([rows[kind]] * side.batch).astype(np.float32) for name, kind in kinds.items()}


def _runner(side: Side) -> _Runner:
    if side.name in ENGINES or ((Path(side.name) / "infer_cfg.yml").is_file() and _is_ours(Path(side.name))):
        return _PredictorRunner(side)
    if side.name.endswith(".onnx") and Path(side.name).is_file():
        return _OnnxRunner(side)
    if any((Path(side.name) / name).is_file() for name in ("model.json", "model.pdmodel")):
        return _PaddlePeerRunner(side)
    raise ConfigError(f"{side.name}: give one of {', '.join(ENGINES)}, an exported directory, or an ONNX file")


def _is_ours(directory: Path) -> bool:
    from ppsolo.deploy.directory import read_info

    try:
        read_info(directory)
    except PpsoloError:
        return False
    return True


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def _work(side: Side, connection: Connection) -> None:
    """Runs in a side's process: send its description, then answer "run" and "memory" until the pipe is closed."""
    try:
        runner = _runner(side)
        connection.send({"description": runner.description})
        while True:
            if connection.recv() == "run":
                connection.send(runner.run())
            else:
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                connection.send({**runner.facts, "peak_memory_mb": peak})
    except EOFError:
        return
    except (PpsoloError, OSError, RuntimeError, ImportError) as error:
        connection.send(str(error))


def _said(connection: Connection, side: Side) -> dict[str, Any]:
    try:
        answer = connection.recv()
    except EOFError:
        raise PpsoloError(f"{side.name}: its process died") from None
    if isinstance(answer, str):
        raise PpsoloError(f"{side.name}: {answer}")
    return answer
