"""Injects faults into commands at random moments and counts them: no finished file is lost, and a new start succeeds.

    python scripts/faults.py --times 10 --seconds 120 --record

Every command first runs once without faults; its result is the expected one. Then a fault hits it: a signal, a full
disk, a read-only disk, a second process in the same directory, or a jumping clock. Every file must then be whole under
its name, and a command that ended early must have said so in one line. The command is then started again. It must give
the expected result and nothing else. `faults_training.py` does the same with training.

As root, the full and the read-only disk are file systems in memory. Other users get a file-size limit instead of a full
disk, and no read-only disk.
"""

import argparse
import contextlib
import functools
import hashlib
import http.server
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from injection.counts import Outcome, add_options, before_the_start, inject_all, record_outcomes
from injection.disks import READ_ONLY, environment, file_system, jumping_clock, limited_disk, read_only_disk
from small_system import write_weights

PPSOLO = ["-m", "ppsolo"]
TIMEOUT = 600.0
PICTURES = 40
SCRATCH = re.compile(r"(^|/)\.ppsolo-|\.part$|\.part\.json$|\.lock$|\.sha256\.\d+$")
DOWNLOAD = """
import sys
from ppsolo.checkpoint.download import download
from ppsolo.cli import main, zoo
zoo.run = lambda options: print(download(sys.argv[1], sys.argv[2])) or 0
sys.exit(main(["zoo", "list"]))
"""


class Inputs:
    """The inputs of the commands, made once: pictures with annotations, weights, an export, and a file server."""

    def __init__(self, folder: Path, server: "WeightsServer"):
        self.folder, self.server = folder, server
        self.pictures = folder / "list.txt"
        self._draw()

    @functools.cached_property
    def system(self) -> list[str]:
        """Arguments that choose a configuration with weights."""
        return write_weights(self.folder / "small.pdparams")

    @functools.cached_property
    def export(self) -> Path:
        """An export that answers without Paddle."""
        folder = self.folder / "export"
        command = ["export", *self.system, "--output_dir", str(folder), "--format", "onnx", "--graph", "network"]
        subprocess.run([sys.executable, *PPSOLO, *command], env=environment(), check=True, capture_output=True)
        return folder

    def _draw(self) -> None:
        """Draw pictures of noise in blocks, with a labelme file of one square for each, and the same as COCO."""
        chance, images, annotations = np.random.default_rng(0), [], []
        labelled = self.folder / "labelme"
        labelled.mkdir()
        for number in range(PICTURES):
            blocks = chance.integers(0, 256, (8, 12, 3), np.uint8)
            picture = cv2.resize(blocks, (96, 64), interpolation=cv2.INTER_NEAREST)
            cv2.imwrite(str(labelled / f"{number}.png"), picture)
            square = [[8, 8], [40, 8], [40, 40], [8, 40]]
            shape = {"label": "block", "points": square, "shape_type": "polygon", "group_id": None, "flags": {}}
            content = {"imagePath": f"{number}.png", "imageHeight": 64, "imageWidth": 96, "shapes": [shape]}
            (labelled / f"{number}.json").write_text(json.dumps({"version": "5.0", "flags": {}, **content}))
            images.append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 96})
            own = {"id": number + 1, "image_id": number, "category_id": 1, "iscrowd": 0, "area": 1024}
            polygon = [float(value) for point in square for value in point]
            annotations.append({**own, "bbox": [8, 8, 32, 32], "segmentation": [polygon]})
        categories = [{"id": number, "name": f"class {number}"} for number in (1, 2, 3)]
        coco = {"images": images, "annotations": annotations, "categories": categories}
        (self.folder / "coco.json").write_text(json.dumps(coco))
        lines = [str(labelled / f"{number}.png") for number in range(PICTURES)]
        self.pictures.write_text("\n".join(lines * 2) + "\n")


@dataclass(frozen=True)
class Command:
    """A command to hit with faults.

    Attributes:
        arguments: of Python, for the command's own folder.
        to_go_on: more arguments for the second start.
        outcome: file name -> digest of the files in the folder.
        replaces: whether it replaces an earlier result.
    """

    arguments: Callable[[Inputs, Path], list[str]]
    to_go_on: tuple[str, ...] = ()
    outcome: Callable[[Path], dict[str, str]] = lambda folder: digests(folder)
    replaces: bool = True


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of each file in a folder except TMPDIR; the folder's path does not matter."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name, here = path.relative_to(folder).as_posix(), str(folder.resolve()).encode()
        if path.is_file() and not name.startswith("tmp/"):
            found[name] = hashlib.sha256(path.read_bytes().replace(here, b"")).hexdigest()
    return found


def bulk_outcome(folder: Path) -> dict[str, str]:
    """Return the lines of the finished parts; the division into parts does not matter."""
    from ppsolo.bulk.manifest import Shard, manifest_path, read_manifest
    from ppsolo.bulk.parts import read_part

    path = manifest_path(folder / "out", Shard())
    if not path.exists():
        return {}
    manifest = read_manifest(path)
    lines = [entry for part in manifest.parts for entry in read_part(folder / "out" / part.file, manifest.format)]
    ends = {f"picture {entry['image_id']}": "" for entry in lines}
    for entry in lines:
        ends[f"picture {entry['image_id']}"] += hashlib.sha256(json.dumps(entry).encode()).hexdigest()
    return ends


def export_outcome(folder: Path) -> dict[str, str]:
    """Return the names of the files; each must have the checksum that the export states."""
    from ppsolo.deploy.directory import check_files, read_info

    if (folder / "out").exists():
        check_files(folder / "out", read_info(folder / "out"))
    return dict.fromkeys(digests(folder), "")


def _download(inputs: Inputs, folder: Path) -> list[str]:
    """Commands fetch from known addresses alone: this one asks the downloader for another."""
    return ["-c", DOWNLOAD, inputs.server.url, str(folder / "weights" / "small.pdparams")]


def _evaluation(inputs: Inputs, folder: Path) -> list[str]:
    data = [f"data.root={inputs.folder}", "data.val_annotations=coco.json", "data.val_images=labelme"]
    output = ["--output_dir", str(folder / "out"), "--save_results", "--report", str(folder / "report.json")]
    return [*PPSOLO, "eval", "--model_dir", str(inputs.export), "-o", *data, *output]


def _export(inputs: Inputs, folder: Path) -> list[str]:
    return [*PPSOLO, "export", *inputs.system, "--output_dir", str(folder / "out")]


def _import(inputs: Inputs, folder: Path) -> list[str]:
    return [
        *PPSOLO,
        "import-data",
        str(inputs.folder / "labelme"),
        "--output",
        str(folder / "out"),
        "--pictures",
        "copy",
    ]


def _bulk(inputs: Inputs, folder: Path) -> list[str]:
    output = ["--output_dir", str(folder / "out"), "--results", "jsonl", "--part_size", "10"]
    return [*PPSOLO, "infer", "--model_dir", str(inputs.export), "--infer_list", str(inputs.pictures), *output]


def _infer(inputs: Inputs, folder: Path) -> list[str]:
    output = ["--output_dir", str(folder / "out"), "--save", "coco", "labelme", "csv"]
    return [*PPSOLO, "infer", "--model_dir", str(inputs.export), "--infer_dir", str(inputs.folder / "labelme"), *output]


COMMANDS: dict[str, Command] = {
    "download": Command(_download),
    "evaluation": Command(_evaluation),
    "export": Command(_export, outcome=export_outcome),
    "import-data": Command(_import, replaces=False),
    "bulk run": Command(_bulk, to_go_on=("--resume",), outcome=bulk_outcome, replaces=False),
    "infer": Command(_infer),
}


class Struck:
    """One command in its own folder."""

    def __init__(
        self,
        command: Command,
        inputs: Inputs,
        folder: Path,
        alone: "Struck | None" = None,
        chance: random.Random | None = None,
    ):
        self.command, self.folder = command, folder
        self.chance = chance or random.Random(0)
        self.arguments = command.arguments(inputs, folder)
        self.variables: dict[str, str] = {}
        self.prefix: list[str] = []
        self.alone = alone
        self.expected: dict[str, str] = {}
        self.seconds = 0.0
        self.before = False
        folder.mkdir()
        if alone is not None:
            self.expected, self.seconds = alone.expected, alone.seconds

    def run_alone(self) -> None:
        """Run without faults, to learn the result and the time."""
        started = time.monotonic()
        code = self.start().wait(timeout=TIMEOUT)
        assert code == 0, self.said()
        self.seconds = time.monotonic() - started
        self.expected = self.command.outcome(self.folder)

    def copy_whole(self) -> None:
        """Start with a complete result, so that it could be lost."""
        assert self.alone is not None
        shutil.copytree(self.alone.folder, self.folder, dirs_exist_ok=True)
        self.before = True

    def start(self, *, again: bool = False, said: str = "said") -> "subprocess.Popen[str]":
        """Start it; its output goes to a file next to the folder."""
        with contextlib.suppress(OSError):  # a read-only disk
            (self.folder / "tmp").mkdir(exist_ok=True)
        own = {"PPSOLO_WEIGHTS": str(self.folder / "weights"), "TMPDIR": str(self.folder / "tmp")}
        own["PPSOLO_ANNOTATIONS"] = str(self.folder / "tmp")
        command = [*self.prefix, sys.executable, *self.arguments]
        command += self.command.to_go_on if again else ()
        own = {**environment(), **own, **self.variables}
        with self.said_file(said).open("w") as stream:
            return subprocess.Popen(command, env=own, stdout=stream, stderr=subprocess.STDOUT, text=True)

    def said_file(self, name: str = "said") -> Path:
        return self.folder.with_name(f"{self.folder.name}.{name}")

    def said(self, name: str = "said") -> str:
        return self.said_file(name).read_text(errors="replace")

    def check(self, code: int, codes: tuple[int, ...], *, said: str = "said") -> None:
        """After a fault: the command must have ended properly, with a line, and every file must be whole."""
        text = self.said(said)
        assert code in codes, f"exit code {code}: {text[-1000:]}"
        if code in (-signal.SIGINT, 1) and before_the_start(text):
            return
        assert "Traceback" not in text and "a file: " not in text, text[-2000:]
        assert code <= 0 or "ppsolo: " in text, f"exit code {code} without a word: {text[-300:]}"
        outcome = self.command.outcome(self.folder)
        for name, digest in outcome.items():
            assert SCRATCH.search(name) or self.expected.get(name) == digest, f"{name} is not whole; {text[-300:]}"
        if self.before or code == 0:
            lost = sorted(self.expected.keys() - outcome.keys())
            assert not lost, f"lost, with exit code {code}: {lost[:5]}"
        if code != -signal.SIGKILL and said == "said":
            files = [path.name for path in (self.folder / "tmp").rglob("*") if path.is_file()]
            left = [name for name in files if name != ".ses"]  # onnxruntime's own
            assert not left, f"left in TMPDIR after exit code {code}: {left}"

    def finish(self) -> None:
        """Start the command again: it must succeed and give the expected result."""
        if self.command.replaces or self.command.to_go_on or self.command.outcome(self.folder) != self.expected:
            code = self.start(again=True).wait(timeout=TIMEOUT)
            assert code == 0, f"given again: exit code {code}: {self.said()[-1000:]}"
        outcome = self.command.outcome(self.folder)
        keys = outcome.keys() | self.expected.keys()
        differing = sorted(name for name in keys if outcome.get(name) != self.expected.get(name))
        assert not differing, f"given again, these differ: {differing[:5]}"
        scratch = [name for name in digests(self.folder) if SCRATCH.search(name)]
        assert not scratch, f"given again, these are left: {scratch[:5]}"


def end_by(number: int, struck: Struck) -> None:
    """Send a signal at a random moment."""
    process = struck.start()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=struck.chance.uniform(0, 1.1 * struck.seconds))
    process.send_signal(number)
    code = process.wait(timeout=TIMEOUT)
    # While Python starts, a signal has its default effect, and no work has begun.
    starting = before_the_start(struck.said()) and (code < 0 or (code, number) == (1, signal.SIGINT))
    expected = -number if number == signal.SIGKILL else 128 + number
    struck.check(code, (0, code if starting else expected))


def fill_disk(struck: Struck) -> None:
    """Limit the disk to a random size, then remove the limit."""
    assert struck.alone is not None
    needed = 8192 + sum(path.stat().st_size + 4096 for path in struck.alone.folder.rglob("*") if path.is_file())
    with limited_disk(struck.folder, struck.chance.randrange(8192, needed)) as struck.prefix:
        struck.check(struck.start().wait(timeout=TIMEOUT), (0, 2))
    struck.prefix = []


def forbid_writing(struck: Struck) -> None:
    """Make the disk read-only when the command starts, then writable."""
    with read_only_disk(struck.folder):
        code = struck.start().wait(timeout=TIMEOUT)
    struck.check(code, (0, 2) if struck.before else (2,))  # a file that has been fetched is only read


def start_twice(struck: Struck) -> None:
    """Start two processes in one directory: each succeeds or is refused, and at least one succeeds."""
    one = struck.start()
    time.sleep(struck.chance.uniform(0, 0.5 * struck.seconds))
    other = struck.start(said="other")
    codes = one.wait(timeout=TIMEOUT), other.wait(timeout=TIMEOUT)
    assert 0 in codes, (codes, struck.said(), struck.said("other"))
    struck.check(codes[0], (0, 2))
    struck.check(codes[1], (0, 2), said="other")


def move_clock(struck: Struck) -> None:
    """Let every reading of the clock give another month; it must have no effect."""
    struck.variables = jumping_clock(struck.folder.with_name(f"{struck.folder.name}.clock"))
    struck.check(struck.start().wait(timeout=TIMEOUT), (0,))


def _with(number: int) -> Callable[[Struck], None]:
    return lambda struck: end_by(number, struck)


FAULTS: dict[str, Callable[[Struck], None]] = {
    "SIGKILL": _with(signal.SIGKILL),
    "SIGTERM": _with(signal.SIGTERM),
    "SIGINT": _with(signal.SIGINT),
    "disk full": fill_disk,
    READ_ONLY: forbid_writing,
    "two processes": start_twice,
    "clock that jumps": move_clock,
}


class WeightsServer(http.server.ThreadingHTTPServer):
    """Serves one file slowly, and resumes where a client stopped."""

    content = bytes(range(256)) * 1000
    seconds = 1.0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _WeightsHandler)
        self.url = f"http://127.0.0.1:{self.server_port}/small.pdparams"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore vanished clients: they are the purpose of the test."""


class _WeightsHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, WeightsServer)
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start, whole = int(wanted[1]) if wanted else 0, len(server.content)
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", '"small"')
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        self.send_header("Content-Length", str(whole - start))
        self.end_headers()
        step = max(1, whole // 50)
        for at in range(start, whole, step):
            self.wfile.write(server.content[at : at + step])
            time.sleep(server.seconds / 50)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def strike(command: str, fault: str, inputs: Inputs, folder: Path, alone: Struck, chance: random.Random) -> None:
    """Inject one fault into a command, check the effect, and start the command again. Raises AssertionError."""
    struck = Struck(COMMANDS[command], inputs, folder, alone, chance)
    with file_system(folder):
        if COMMANDS[command].replaces and chance.random() < 0.5:
            struck.copy_whole()
        FAULTS[fault](struck)
        struck.variables = {}
        struck.finish()
    shutil.rmtree(folder)


def strike_all(command: str, inputs: Inputs, place: Path, options: argparse.Namespace) -> Outcome:
    """Strike a command by each fault as often as asked."""
    chance = random.Random(f"{options.seed} {command}")
    alone = Struck(COMMANDS[command], inputs, place / command.replace(" ", "_"))
    alone.run_alone()

    def inject(fault: str, number: int) -> None:
        folder = place / f"{alone.folder.name}-{fault.replace(' ', '_')}-{number}"
        strike(command, fault, inputs, folder, alone, chance)

    return inject_all(command, options.faults, inject, times=options.times, seconds=options.seconds)


def main() -> int:
    """Inject each fault into each command as often as asked; return 1 if one did harm."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="ppsolo-faults-") as name, WeightsServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (place := Path(name, "inputs")).mkdir()
        inputs = Inputs(place, server)
        if {"evaluation", "export", "bulk run", "infer"} & set(options.commands):
            sys.stdout.write(f"{inputs.export} is written\n")
        with ThreadPoolExecutor(options.jobs) as jobs:
            found = jobs.map(lambda command: strike_all(command, inputs, Path(name), options), options.commands)
            results = dict(zip(options.commands, found, strict=True))
        server.shutdown()
    if options.record:
        record_outcomes("faults.py", results)
    return int(any(outcome.harm for outcome in results.values()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS), help="these commands")
    add_options(parser, list(FAULTS))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
