"""Examines an installation: versions, devices, runtimes, whether they work, and the command that fixes a fault."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import ppsolo
from ppsolo.atomic import temporary_folder
from ppsolo.cpu import available_cores, cpu_facts, has_bfloat16
from ppsolo.deploy.engines import best_engine, installed
from ppsolo.progress import Progress
from ppsolo.version import __version__

Status = Literal["ok", "missing", "broken"]

PACKAGES = {
    "paddlepaddle": "paddle",
    "paddlepaddle-gpu": "paddle",
    "numpy": "numpy",
    "opencv-python": "cv2",
    "pycocotools": "pycocotools",
    "visualdl": "visualdl",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxruntime-gpu": "onnxruntime",
    "openvino": "openvino",
    "matplotlib": "matplotlib",
    "fastapi": "fastapi",
    "av": "av",
    "tifffile": "tifffile",
}
LEAST_SHARED_MEMORY = 1 << 30  # bytes; Docker gives 64 MB
SECONDS = 120  # time limit of a probe in its own process
NO_PADDLE = "pip install 'ppsolo[cpu]', or see docs/gpu.md for GPUs"

_ONEDNN = """import os
os.environ["FLAGS_use_mkldnn"] = "1"
import zlib, numpy, paddle
paddle.disable_signal_handler()
layer = paddle.nn.Conv2D(3, 4, 3)
found = layer(paddle.ones([1, 3, 8, 8])).numpy()
assert numpy.isfinite(found).all()
assert paddle.base.core.is_compiled_with_mkldnn() if hasattr(paddle.base.core, "is_compiled_with_mkldnn") else True
print("probe passed")
"""
_PROCESSES = """import sys
sys.path.insert(0, {path!r})
import zlib, paddle
from ppsolo.processes import start_processes
processes = start_processes()
assert processes.gather(processes.rank) == [0, 1]
if processes.is_main: print("probe passed: gloo", flush=True)
from paddle import nn
from ppsolo.training.sync_norms import check_sync_norms
check_sync_norms(nn.SyncBatchNorm(1), processes)
if processes.is_main: print("probe passed: norms", flush=True)
"""


class Finding(NamedTuple):
    """One finding. status: "ok", "missing" (not everybody needs it) or "broken".

    remedy: the command or change that fixes it, "" if nothing is to be done.
    """

    name: str
    status: Status
    text: str
    remedy: str = ""


def examine(*, probes: bool = True, progress: Progress | None = None) -> list[Finding]:
    """Examine everything. probes: also compute with Paddle, in separate processes; takes up to a minute."""
    steps: list[Callable[[], list[Finding]]] = [
        _versions,
        _devices,
        _runtimes,
        _cpu,
        _shared_memory,
        _videos,
        _fonts,
        *([_onednn, _processes] if probes and installed("paddle") else []),
    ]
    findings: list[Finding] = []
    for done, step in enumerate(steps, 1):
        findings += step()
        if progress is not None:
            progress(done, len(steps))
    return findings


def format_findings(findings: Sequence[Finding]) -> str:
    """Return a line for each finding, with its remedy below it."""
    lines = []
    for one in findings:
        lines.append(f"{one.status:<8}{one.name:<16}{one.text}")
        if one.remedy:
            lines.append(f"{'':<24}-> {one.remedy}")
    return "\n".join(lines)


def _versions() -> list[Finding]:
    text = f"ppsolo {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    findings = [Finding("versions", "ok", text), Finding("packages", "ok", ", ".join(found))]
    names = {line.split()[0] for line in found}
    for pair in (("paddlepaddle", "paddlepaddle-gpu"), ("onnxruntime", "onnxruntime-gpu")):
        if names.issuperset(pair):
            remedy = f"pip uninstall {pair[0]} {pair[1]}, then install the one that you need (docs/gpu.md)"
            findings.append(
                Finding(pair[0], "broken", f"{pair[1]} is installed too: both contain the same module", remedy)
            )
    return findings


def _devices() -> list[Finding]:
    if not installed("paddle"):
        return [Finding("Paddle", "missing", "not installed: exports can predict, training is impossible", NO_PADDLE)]
    code = "import zlib, paddle; c = paddle.device.is_compiled_with_cuda(); "
    code += "print('probe passed', int(c), paddle.device.cuda.device_count() if c else 0)"
    code += "\nfor i in range(paddle.device.cuda.device_count() if c else 0):\n"
    code += " print(paddle.device.cuda.get_device_name(i), paddle.device.cuda.get_device_capability(i))"
    passed, output = _probe([sys.executable, "-c", code])
    if not passed:
        return [Finding("Paddle", "broken", f"cannot be imported: {_last_line(output)}", NO_PADDLE)]
    lines = output[output.index("probe passed") :].splitlines()
    cuda, count = lines[0].split()[-2:]
    if cuda == "0":
        return [
            Finding("devices", "ok", "the CPU; this Paddle has no code for GPUs (docs/gpu.md says which wheel does)")
        ]
    if count == "0":
        remedy = "check `nvidia-smi` and CUDA_VISIBLE_DEVICES; docs/gpu.md says which wheel holds which GPU"
        return [Finding("devices", "broken", "this Paddle is for GPUs, but finds none", remedy)]
    return [Finding("devices", "ok", "; ".join(lines[1:]))]


def _runtimes() -> list[Finding]:
    findings = []
    for engine, packages, extra in (
        ("onnxruntime", ("onnx", "onnxruntime"), "onnx"),
        ("openvino", ("onnx", "openvino"), "openvino"),
    ):
        lacking = [package for package in packages if not installed(package)]
        text = f"{' and '.join(lacking)} not installed" if lacking else "installed"
        remedy = f"pip install 'ppsolo[{extra}]'" if lacking else ""
        findings.append(Finding(engine, "missing" if lacking else "ok", text, remedy))
    chosen = best_engine()
    reasons = {
        "openvino": "OpenVINO and onnx are installed; it is the fastest on a CPU and exact to rounding",
        "onnxruntime": "onnxruntime and onnx are installed, OpenVINO is not; faster than Paddle on a CPU",
        "dygraph": "no other runtime is installed with onnx",
    }
    text = f"{chosen} on a CPU: {reasons[chosen]}. On a GPU, dygraph"
    findings.append(
        Finding("Predictor takes", "ok", text, "" if chosen == "openvino" else "pip install 'ppsolo[openvino]'")
    )
    return findings


def _cpu() -> list[Finding]:
    facts = cpu_facts()
    flags = set(facts.get("flags", "").split())
    model = facts.get("model name", platform.processor() or "unknown")
    findings = [Finding("CPU", "ok", f"{model}, {available_cores()} cores for this process")]
    if not flags:
        return [*findings, Finding("bf16, VNNI", "missing", "this system does not describe its CPU")]
    bf16 = "yes: --precision bf16 is faster" if has_bfloat16() else "this CPU has none: use --precision fp32"
    vnni = not {"avx512_vnni", "avx_vnni", "amx_int8"}.isdisjoint(flags)
    return [
        *findings,
        Finding("bf16", "ok" if has_bfloat16() else "missing", bf16),
        Finding("VNNI", "ok" if vnni else "missing", "yes: int8 is faster" if vnni else "none: int8 gains little"),
    ]


def _shared_memory() -> list[Finding]:
    place = Path("/dev/shm")
    if not place.is_dir():
        return [Finding("shared memory", "ok", "managed by this system")]
    state = os.statvfs(place)
    free = state.f_bavail * state.f_frsize
    text = f"{free / 2**30:.1f} GiB free in {place}"
    if free >= LEAST_SHARED_MEMORY:
        return [Finding("shared memory", "ok", text)]
    return [
        Finding("shared memory", "broken", f"{text}: loaders may die", "docker run --shm-size=8g, or data.workers=0")
    ]


def _videos() -> list[Finding]:
    import cv2

    ffmpeg = any("FFMPEG" in line and "YES" in line for line in cv2.getBuildInformation().splitlines())
    text = "OpenCV reads videos with FFmpeg" if ffmpeg else "this OpenCV has no FFmpeg: most videos cannot be read"
    remedy = "" if ffmpeg else "pip install --force-reinstall opencv-python, or pip install 'ppsolo[video]'"
    findings = [Finding("FFmpeg", "ok" if ffmpeg else "broken", text, remedy)]
    if not installed("av"):
        findings.append(
            Finding("PyAV", "missing", "codecs that OpenCV lacks cannot be read", "pip install 'ppsolo[video]'")
        )
    return findings


def _fonts() -> list[Finding]:
    if not installed("PIL"):
        text = "Pillow is not installed: names beyond ASCII are drawn as their number"
        return [Finding("fonts", "missing", text, "pip install pillow")]
    from ppsolo.results.fonts import font_of, remedy

    lacking = [name for name in ("Würstchen", "犬", "собака", "강아지") if None in map(font_of, name)]
    if not lacking:
        return [Finding("fonts", "ok", "names in Latin, Cyrillic, Chinese and Korean letters are drawn")]
    text = f"no font for {', '.join(lacking)}: such classes are drawn as their number"
    return [Finding("fonts", "missing", text, remedy(lacking[0]))]


def _onednn() -> list[Finding]:
    passed, output = _probe([sys.executable, "-c", _ONEDNN])
    if passed:
        return [
            Finding(
                "oneDNN",
                "ok",
                "a convolution in Paddle runs with oneDNN switched on (whether oneDNN computed it is not visible)",
            )
        ]
    return [Finding("oneDNN", "broken", _last_line(output), "python -m pip install --force-reinstall paddlepaddle")]


def _processes() -> list[Finding]:
    with temporary_folder() as folder:
        script = folder / "probe.py"
        script.write_text(_PROCESSES.format(path=str(Path(ppsolo.__file__).parents[1])), encoding="utf-8")
        launcher = [
            sys.executable,
            "-m",
            "paddle.distributed.launch",
            "--nproc_per_node",
            "2",
            "--log_dir",
            str(folder),
        ]
        _, output = _probe([*launcher, str(script)])
    findings = []
    for name, word, remedy in (
        ("gloo", "probe passed: gloo", "train in one process: ppsolo train"),
        ("SyncBN", "probe passed: norms", "set model.backbone.norm=bn or gn where several processes train"),
    ):
        works = word in output
        text = "two processes work together" if works else f"two processes do not work together: {_last_line(output)}"
        findings.append(Finding(name, "ok" if works else "broken", text, "" if works else remedy))
    return findings


def _probe(command: Sequence[str]) -> tuple[bool, str]:
    """Whether a process reported success, and its output; if it crashes, this process does not."""
    environment = {**os.environ, "GLOG_minloglevel": "2"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SECONDS, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer within {SECONDS} seconds"
    output = done.stdout + done.stderr
    return "probe passed" in output, output


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it printed nothing"
