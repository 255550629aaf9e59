"""`ppsolo benchmark`: compare the speed of runtimes."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ppsolo.cli.shared import OK, Commands, add_command, add_model, check_number, import_paddle, model_source, say
from ppsolo.config import override_config

if TYPE_CHECKING:
    from ppsolo.model_source import ModelSource
from ppsolo.outputs import check_output_file, check_output_folder

OUTPUT = "output/benchmark.json"
EXAMPLES = "ppsolo benchmark -c solov2_r50_fpn_3x -o weights=FILE --image street.jpg --sides dygraph openvino"


def add(commands: Commands) -> None:
    """Add the command and its flags to the parser."""
    command = add_command(commands, "benchmark", run, EXAMPLES)
    add_model(command)
    command.add_argument("--image", required=True, metavar="FILE", help="the picture")
    command.add_argument(
        "--sides",
        nargs="+",
        metavar="SIDE",
        help="what to compare: runtimes of -c (dygraph, onnxruntime, openvino, openvino-bf16) or exported directories; "
        "default: the model of --model_dir, --engine and --precision",
    )
    command.add_argument(
        "--peer", nargs="+", default=[], metavar="PATH", help="ONNX files, directories that PaddleDetection exported"
    )
    command.add_argument(
        "--batch", nargs="+", type=int, default=[1], metavar="N", help="images per batch; several values draw a curve"
    )
    command.add_argument(
        "--threads",
        nargs="+",
        type=int,
        metavar="N",
        help="CPU threads, default: all cores; several values draw a curve",
    )
    command.add_argument(
        "--height",
        nargs="+",
        type=int,
        metavar="N",
        help="scale the picture to this height first; several values draw a curve",
    )
    command.add_argument(
        "--instances",
        nargs="+",
        type=int,
        metavar="N",
        help="keep at most N instances (exports ignore it); several values draw a curve",
    )
    command.add_argument("--repeats", type=int, default=7, metavar="N", help="rounds to measure, default: %(default)s")
    command.add_argument(
        "--warm_up", type=int, default=1, metavar="N", help="rounds before the measurement, default: %(default)s"
    )
    command.add_argument(
        "--output",
        default=OUTPUT,
        metavar="FILE",
        help="JSON file of the results, default: %(default)s",
    )


def run(options: argparse.Namespace) -> int:
    """Time predictors, exported directories and peers in turn on one picture."""
    for name in ("batch", "threads", "height", "instances", "repeats"):
        check_number(options, name, least=1)
    check_number(options, "warm_up", least=0)
    if options.output == OUTPUT:
        check_output_folder(Path(OUTPUT).parent, "--output")
    else:
        check_output_file(options.output, "--output")
    source = model_source(options)
    configs = [
        source.config if most is None else override_config(source.config, {"postprocess.max_instances": most})
        for most in options.instances or [None]
    ]
    import_paddle()  # it counts the multiply-adds
    from ppsolo.benchmark.prediction import benchmark_curve, write_benchmark
    from ppsolo.benchmark.sides import Side
    from ppsolo.cpu import default_threads
    from ppsolo.progress import ProgressBar

    points = [
        [
            Side(
                name,
                config,
                options.image,
                batch=batch,
                threads=threads,
                height=height,
                device=options.device,
                precision=options.precision,
                engine=options.engine,
            )
            for name in [*(options.sides or [_own_side(source)]), *options.peer]
        ]
        for config in configs
        for batch in options.batch
        for threads in options.threads or [default_threads()]
        for height in options.height or [None]
    ]
    with ProgressBar("benchmark", unit="points") as progress:
        reports = benchmark_curve(points, repeats=options.repeats, warm_up=options.warm_up, progress=progress.update)
    for line in write_benchmark(reports, Path(options.output)):
        say(line)
    return OK


def _own_side(source: "ModelSource") -> str:
    """Write --model_dir, --engine and --precision in the form of --sides."""
    if source.export is not None:
        return str(source.export.path)
    if source.precision == "bf16":
        return "openvino-bf16"
    return "dygraph" if source.engine == "auto" else source.engine
