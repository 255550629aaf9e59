"""Time a network that computes kernels and mask features only if a cell passes the threshold.

The usual network runs beside it, for a picture with something in it and for an empty one: in Paddle, as `Predictor`
does it, and as ONNX graphs with an `If`. Weights are made from a seed.

python scripts/benchmark_empty.py --image street.jpg --system solov2_mobilenetv3_fpn_448_3x
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import paddle
from onnx import helper, numpy_helper

from ppsolo import build_model, load_config
from ppsolo.build.pipeline import build_preprocess
from ppsolo.cpu import default_threads, keep_freed_memory, use_threads
from ppsolo.data.images import read_image
from ppsolo.deploy.onnx.graph import build_onnx
from ppsolo.deploy.openvino_runtime import OpenVinoSession
from ppsolo.interface import LEVELS, RAW_OUTPUTS
from ppsolo.models.solov2 import SOLOv2

Run = Callable[[np.ndarray], object]
RUNTIMES = ("dygraph", "openvino", "onnxruntime")
LOGITS, REST = list(RAW_OUTPUTS[:LEVELS]), list(RAW_OUTPUTS[LEVELS:])


def conditional(model: onnx.ModelProto, threshold: float) -> onnx.ModelProto:
    """Return the graph with an `If` around everything that the category logits do not need. threshold: of a logit."""
    graph = model.graph
    producer = {name: place for place, node in enumerate(graph.node) for name in node.output}
    needed: set[int] = set()
    open_places = [producer[name] for name in LOGITS]
    while open_places:
        place = open_places.pop()
        if place not in needed:
            needed.add(place)
            open_places += [producer[name] for name in graph.node[place].input if name in producer]
    first = [node for place, node in enumerate(graph.node) if place in needed]
    later = [node for place, node in enumerate(graph.node) if place not in needed]
    for node in later:  # names inside a branch must differ from the outputs of the `If`
        for names in (node.input, node.output):
            names[:] = [f"{name}_computed" if name in REST else name for name in names]
    nothing = numpy_helper.from_array(np.zeros((1, 1, 1, 1), np.float32))
    empty = [helper.make_node("Constant", [], [f"{name}_empty"], value=nothing) for name in REST]
    branches: dict[str, Any] = {
        f"{word}_branch": helper.make_graph(nodes, word, [], [_output(f"{name}_{ending}") for name in REST])
        for word, nodes, ending in (("then", later, "computed"), ("else", empty, "empty"))
    }
    highest = [f"highest{level}" for level in range(LEVELS)]
    asked = [helper.make_node("ReduceMax", [x], [y], keepdims=0) for x, y in zip(LOGITS, highest, strict=True)]
    asked += [helper.make_node("Max", highest, ["best"]), helper.make_node("Greater", ["best", "least"], ["some"])]
    least = numpy_helper.from_array(np.array(threshold, np.float32), "least")
    outputs = [*graph.output[:LEVELS], *map(_output, REST)]
    nodes = [*first, *asked, helper.make_node("If", ["some"], REST, **branches)]
    whole = helper.make_graph(nodes, "solov2_if", list(graph.input), outputs, [*graph.initializer, least])
    return helper.make_model(whole, opset_imports=model.opset_import, ir_version=model.ir_version)


def _output(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * 4)


def onnxruntime_session(content: bytes, threads: int) -> Run:
    """Return a function that runs the graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: [np.asarray(one) for one in session.run(list(RAW_OUTPUTS), {"image": images})]


def graph_runs(model: SOLOv2, runtime: str, threads: int) -> dict[str, Run]:
    """Return the usual graph, and those with an `If`."""
    graphs = {
        "usual": build_onnx(model),
        "with an If, something found": conditional(build_onnx(model), -1e9),
        "with an If, empty": conditional(build_onnx(model), 1e9),
    }
    runs: dict[str, Run] = {}
    for name, graph in graphs.items():
        content = graph.SerializeToString()
        if runtime == "openvino":
            runs[name] = OpenVinoSession(content, RAW_OUTPUTS, threads=threads)
        else:
            runs[name] = onnxruntime_session(content, threads)
    return runs


def dygraph_runs(model: SOLOv2, threads: int) -> dict[str, Run]:
    """Return the usual network and the one that may end early, without postprocessing."""
    use_threads(threads)
    keep_freed_memory()

    def run(image: np.ndarray, least_logit: float | None) -> object:
        with paddle.no_grad():
            return model(paddle.to_tensor(image), least_logit)

    return {
        "usual": lambda image: run(image, None),
        "with an early end, something found": lambda image: run(image, -1e9),
        "with an early end, empty": lambda image: run(image, 1e9),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", required=True, metavar="FILE")
    parser.add_argument("--system", default="solov2_mobilenetv3_fpn_448_3x", metavar="NAME")
    parser.add_argument("--repeats", type=int, default=15, metavar="N", help="rounds that count, default: %(default)s")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES, help="default: all")
    options = parser.parse_args()
    config = load_config(options.system, {})
    paddle.seed(0)
    model = build_model(config)
    model.eval()
    image = np.asarray(build_preprocess(config)(read_image(options.image))[0])[None]
    threads = default_threads()
    for runtime in options.runtimes:
        runs = dygraph_runs(model, threads) if runtime == "dygraph" else graph_runs(model, runtime, threads)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(options.repeats + 1):
            for name, run in runs.items():
                start = time.process_time()
                run(image)
                if number:
                    seconds[name].append(time.process_time() - start)
        usual = statistics.median(seconds["usual"])
        for name, values in seconds.items():
            median = statistics.median(values)
            sys.stdout.write(f"{runtime}, {name}: {median:.3f} s of CPU, {median / usual:.3f} of the usual network\n")


if __name__ == "__main__":
    main()
