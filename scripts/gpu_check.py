"""Checks ppsolo on this machine's GPUs and writes a report; without a GPU, it runs the checks that need none."""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from ppsolo.cli.shared import say

ROOT = Path(__file__).resolve().parents[1]
# Published latencies on a V100, in ms.
PUBLISHED = {
    "solov2_mobilenetv3_fpn_448_3x": 20.0,
    "solov2_r50_fpn_3x": 45.7,
    "solov2_r101_vd_fpn_3x": 82.6,
    "solov2_light_r50_vd_fpn_dcn_512_3x": 25.9,
    "solov2_r50_enhance_coco": 25.9,
}
LONGEST_TAIL = 40  # lines of a check's output in the report
OFF, ON = {"NVIDIA_TF32_OVERRIDE": "0"}, {}


class Check(NamedTuple):
    """One command. gpus: the number that it needs. environment: added to this process's environment."""

    title: str
    gpus: int
    command: Sequence[str]
    environment: Mapping[str, str] = {}


class Outcome(NamedTuple):
    """The result of a check: "passed", "failed" or "left out", its seconds, and the end of its output."""

    check: Check
    result: str
    seconds: float
    output: str


def main() -> int:
    """Run the checks that this machine allows; return 1 if one failed."""
    options = _parser().parse_args()
    gpus = count_gpus()
    outcomes = []
    for check in checks(options.image, options.coco):
        if options.only and not any(word in check.title for word in options.only):
            continue
        outcomes.append(run_check(check, gpus, options.timeout))
        say(f"{check.title}: {outcomes[-1].result} ({outcomes[-1].seconds:.0f} s)")
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(report(outcomes, gpus), encoding="utf-8")  # even if the next check ends this process
    say(f"report: {options.report}")
    return int(any(outcome.result == "failed" for outcome in outcomes))


def checks(image: Path | None, coco: Path | None) -> list[Check]:
    """All checks in order. image: a picture to time the published systems on. coco: a folder with COCO's val2017."""

    def tests(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]

    found = [
        Check("wheels, architectures, TF32", 0, [sys.executable, __file__, "--describe"]),
        Check("float16 pass over an export (2.6 GPU wheel)", 0, tests("tests/deploy/test_paddle_inference.py")),
        Check("CUDA kernels for the ONNX graph", 0, tests("tests/deploy/onnx/test_graph.py", "-k", "cuda")),
        Check("onnxruntime refuses a silent CPU", 0, tests("tests/deploy/test_onnx_runtime.py")),
        Check("all tests, TF32 off", 1, tests("tests"), OFF),
        Check("all tests, TF32 as installed", 1, tests("tests"), ON),
        Check("deformable kernel, DropBlock under O1 and O2", 1, tests("tests/gpu/test_kernels.py"), OFF),
        Check("a step and a short run: fp32, O1, O2", 1, tests("tests/gpu/test_training.py"), OFF),
        Check("recorded steps", 1, tests("tests/training/test_recorded_steps.py"), OFF),
        Check("exports: Paddle and ONNX, fp32 and fp16, TensorRT, nothing", 1, tests("tests/gpu/test_exports.py")),
        Check("two GPUs: norms and gradients", 2, tests("tests/gpu/test_two_gpus.py")),
        Check("two GPUs: as one, and a killed process", 2, tests("tests/test_processes.py")),
        Check("stalls of a step", 1, [sys.executable, __file__, "--profile"]),
        Check("optimizer and average after a step", 1, [sys.executable, "scripts/benchmark_update.py"]),
    ]
    if coco is not None:
        data = ["--annotations", str(coco / "annotations/instances_val2017.json"), "--images", str(coco / "val2017")]
        rates = [sys.executable, "scripts/benchmark_training.py", *data, "--output", "output/gpu_training.json"]
        found.append(Check("rate of the reader and of the step", 1, rates))
    for name, published in PUBLISHED.items():
        title = f"latency of {name} (published on a V100: {published} ms)"
        picture = ["--image", str(image)] if image else []
        found.append(Check(title, 1, [sys.executable, __file__, "--latency", name, *picture]))
    return found


def run_check(check: Check, gpus: int, timeout: float) -> Outcome:
    """Run one check, unless it needs more GPUs than this machine has."""
    if check.gpus > gpus:
        return Outcome(check, "left out", 0.0, f"needs {check.gpus} GPU(s), there are {gpus}: not measured")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **check.environment}
    start = time.monotonic()
    try:
        done = subprocess.run(
            check.command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace", timeout=timeout
        )
        result, output = "passed" if done.returncode == 0 else "failed", done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        result, output = "failed", f"not done after {timeout:.0f} s"
    tail = "\n".join(output.splitlines()[-LONGEST_TAIL:])
    return Outcome(check, result, time.monotonic() - start, tail)


def report(outcomes: Sequence[Outcome], gpus: int) -> str:
    """The report as Markdown: a table, then the output of each check."""
    lines = [f"# ppsolo on {platform.node()}, {gpus} GPU(s)", "", "| check | result | seconds |", "|---|---|---|"]
    lines += [f"| {one.check.title} | {one.result} | {one.seconds:.0f} |" for one in outcomes]
    for one in outcomes:
        lines += ["", f"## {one.check.title}: {one.result}", "", "```", one.output, "```"]
    return "\n".join(lines) + "\n"


def count_gpus() -> int:
    """Count the GPUs that Paddle can use, in another process, so that they stay free for the checks."""
    code = "import paddle; print(paddle.device.cuda.device_count() if paddle.device.is_compiled_with_cuda() else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return int(done.stdout.split()[-1]) if done.returncode == 0 and done.stdout.split() else 0


def describe() -> None:
    """Print what is installed, and for which GPUs."""
    import paddle
    from paddle.version import cuda as cuda_version
    from paddle.version import full_version

    from ppsolo.models.tf32 import tf32_allowed

    cuda = paddle.device.is_compiled_with_cuda()
    say(f"Paddle {full_version}, CUDA {cuda_version() if cuda else 'none'}")
    for number in range(paddle.device.cuda.device_count() if cuda else 0):
        properties = paddle.device.cuda.get_device_properties(number)
        say(f"gpu:{number} {properties.name}, sm_{properties.major}{properties.minor}, {properties.total_memory} bytes")
    say("TF32 in matrix products {}, in convolutions {}".format(*tf32_allowed()))
    try:
        import onnxruntime
    except ImportError:
        say("onnxruntime is not installed")
        return
    say(f"onnxruntime {onnxruntime.__version__}: {', '.join(onnxruntime.get_available_providers())}")


def profile() -> None:
    """Print the copies and the longest operations of five forward and backward passes, without the criterion."""
    import numpy as np
    import paddle
    from paddle import profiler

    from ppsolo.build.network import build_model
    from ppsolo.config import load_config

    model = build_model(load_config("solov2_r50_fpn_3x"))
    images = np.random.default_rng(0).standard_normal((2, 3, 800, 1216), np.float32)
    targets = [profiler.ProfilerTarget.CPU, profiler.ProfilerTarget.GPU]
    with profiler.Profiler(targets=targets) as recorder:
        for _ in range(5):
            raw = model(paddle.to_tensor(images))
            heads = (*raw.category_logits, *raw.kernels, raw.mask_features)
            paddle.stack([head.square().mean() for head in heads]).sum().backward()
            model.clear_gradients()
            recorder.step()
    recorder.summary(sorted_by=profiler.SortedKeys.GPUTotal, op_detail=True, thread_sep=False)


def latency(
    name: str,
    image: Path | None,
    *,
    device: Literal["cpu", "gpu"] = "gpu",
    pictures: int = 60,
    changes: Sequence[str] = (),
) -> None:
    """Print the milliseconds per picture of a published system in Paddle and onnxruntime, in fp32 and fp16.

    pictures: how often it predicts; the first sixth does not count. changes: of the configuration, "key=value".
    """
    import tempfile

    import numpy as np
    import paddle

    from ppsolo.build.network import build_model
    from ppsolo.config import load_config
    from ppsolo.data.images import read_image
    from ppsolo.deploy import load
    from ppsolo.deploy.export import export_model
    from ppsolo.errors import ExportError

    paddle.seed(0)
    config = load_config(name, changes)
    picture = read_image(image) if image else np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        for format in ("paddle", "onnx"):
            export = Path(folder) / format
            export_model(build_model(config), config, export, format=format, device=device, verify_export=False)
            for precision in ("fp32", "fp16"):
                try:
                    predictor = load(export, device=device, precision=precision)
                except ExportError as error:
                    say(f"{format}, {precision}: not measured ({error})")
                    continue
                seconds = []
                for _ in range(pictures):
                    start = time.perf_counter()
                    predictor(picture)
                    seconds.append(time.perf_counter() - start)
                median = 1000 * float(np.median(seconds[pictures // 6 :]))
                say(f"{predictor.description}: median {median:.1f} ms with reading back, random weights")
    say(f"published on a V100: {PUBLISHED[name]} ms")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path, default=Path("output/gpu_report.md"), help="default: %(default)s")
    parser.add_argument("--image", type=Path, help="a picture for the latencies; default: noise of 480 x 640")
    parser.add_argument("--coco", type=Path, help="COCO's folder, to measure the rates of the reader and of the step")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="only checks whose title has one of the words")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for one check, default: %(default)s")
    parser.add_argument("--describe", action="store_true", help="only print what is installed")
    parser.add_argument("--profile", action="store_true", help="only profile five training steps")
    parser.add_argument("--latency", metavar="SYSTEM", choices=PUBLISHED, help="only time one system")
    parser.add_argument(
        "--device", choices=("cpu", "gpu"), default="gpu", help="cpu: try --latency without a GPU; default: %(default)s"
    )
    parser.add_argument("--pictures", type=int, default=60, metavar="N", help="of --latency, default: %(default)s")
    parser.add_argument(
        "-o", "--override", nargs="+", default=[], metavar="KEY=VALUE", help="change the system of --latency"
    )
    return parser


if __name__ == "__main__":
    chosen = _parser().parse_args()
    if chosen.describe:
        describe()
    elif chosen.profile:
        profile()
    elif chosen.latency:
        latency(
            chosen.latency,
            chosen.image,
            device=chosen.device,
            pictures=max(chosen.pictures, 1),
            changes=chosen.override,
        )
    else:
        sys.exit(main())
