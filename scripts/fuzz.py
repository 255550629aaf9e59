"""Fuzz the readers of ppsolo: random changes of good inputs must end in an answer or in one line of ppsolo's own."""

import argparse
import base64
import io
import json
import mmap
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ppsolo.errors import PpsoloError

SLOWEST = 2.0  # seconds of the processor for one input: a busy machine makes nothing slow; who waits 60 s is ended
MOST_MEMORY = 2 << 30  # bytes that one process may allocate beyond what it starts with
LONGEST_INPUT = 1 << 20  # bytes
SEEDS = Path(__file__).parents[1] / "tests" / "fuzz"
WORDS = (
    b"-1",
    b"0",
    b"1e999",
    b"NaN",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b"\xed\xa0\x80",
    b"\\ud800",
    b"\x00",
    b"!!set",
)
WORDS += (
    b"9" * 30,
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\r\n--b",
    b"\r\n\r\n",
    b"../",
    b"[" * 200,
    b"&a *a",
    b".",
)


class Target(NamedTuple):
    """One reader. run: takes an input; PpsoloError is an answer too. seeds: good inputs to change."""

    run: Callable[[bytes, Path], None]
    seeds: Callable[[], Sequence[bytes]]


def main() -> int:
    options = _options()
    if options.child:
        return _fuzz_here(options)
    names = options.targets or list(TARGETS)
    results = {name: _fuzz_in_child(name, options) for name in names}
    sys.stdout.write(json.dumps(results, indent=1) + "\n")
    if options.record:
        from reliability import record

        head = ["| target | executions | seconds | slowest, s | findings |", "|---|---|---|---|---|"]
        keys = ("executions", "seconds", "slowest")
        rows = [
            f"| {name} | {' | '.join(f'{r[key]:,}' for key in keys)} | {len(r['findings'])} |"
            for name, r in results.items()
        ]
        record("fuzz.py", [*head, *rows])
    return 1 if any(result["findings"] for result in results.values()) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=float, default=900.0, metavar="S", help="per target, default: %(default)s")
    parser.add_argument("--executions", type=int, default=1_000_000, metavar="N", help="at most, default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the random changes, default: %(default)s")
    parser.add_argument("--coverage", action="store_true", help="let atheris guide the changes (pip install atheris)")
    parser.add_argument("--record", action="store_true", help="write the figures to tests/RELIABILITY.md")
    parser.add_argument("--child", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := [name for name in options.targets if name not in TARGETS]:
        parser.error(f"unknown target {unknown[0]}; there are {', '.join(TARGETS)}")
    return options


def _fuzz_in_child(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one target in a process of its own; a crash or a hang of it is a finding."""
    with tempfile.TemporaryDirectory(prefix="ppsolo-fuzz-") as folder:
        current = Path(folder, "input")
        current.write_bytes(bytes(LONGEST_INPUT + 8))
        command = [sys.executable, __file__, name, "--child", str(current), "--seed", str(options.seed)]
        command += ["--seconds", str(options.seconds), "--executions", str(options.executions)]
        command += ["--coverage"] if options.coverage else []
        child = subprocess.run(command, capture_output=True, text=True, timeout=options.seconds + 120)
        result_file = current.with_suffix(".json")
        empty = {"executions": 0, "seconds": 0.0, "slowest": 0.0, "findings": []}
        result = json.loads(result_file.read_text()) if result_file.exists() else empty
        if child.returncode != 0:
            content = current.read_bytes()
            data = content[8 : 8 + int.from_bytes(content[:8], "little")]
            reason = f"the process ended with {child.returncode}: {child.stderr[-500:]}"
            result["findings"].append({"error": reason, "input": base64.b64encode(data[:5000]).decode()})
    return result


def _fuzz_here(options: argparse.Namespace) -> int:
    (name,) = options.targets
    warnings.simplefilter("ignore")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    used = resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY, resource.RLIM_INFINITY))
    with Path(options.child).open("r+b") as file, mmap.mmap(file.fileno(), 0) as current:
        run = Run(TARGETS[name], current, Path(options.child))
        if options.coverage:
            run.with_atheris(options)
        else:
            run.with_random_changes(options)
    return 0


class Run:
    """Executions of one target, and what they found."""

    def __init__(self, target: Target, current: mmap.mmap, place: Path):
        self._target = target
        self._current = current
        self._place = place
        self._folder = Path(tempfile.mkdtemp(dir=place.parent))
        self._started = time.monotonic()
        self._executions, self._slowest = 0, 0.0
        self._findings: dict[str, dict[str, str]] = {}

    def execute(self, data: bytes) -> None:
        """Try one input: whatever is not an answer or a PpsoloError within `SLOWEST` is a finding."""
        data = data[:LONGEST_INPUT]
        self._current[: 8 + len(data)] = len(data).to_bytes(8, "little") + data
        signal.alarm(60)  # a hang ends the process, and the parent has the input
        started = time.process_time()
        try:
            self._target.run(data, self._folder)
        except PpsoloError as error:
            if not str(error).isprintable():
                self._find("an error of several lines", data)
        except Exception:
            self._find("".join(traceback.format_exc().splitlines(keepends=True)[-3:]), data)
        seconds = time.process_time() - started
        self._slowest = max(self._slowest, seconds)
        if seconds > SLOWEST:
            self._find(f"took more than {SLOWEST} s", data)
        self._executions += 1
        if self._executions % 200 == 0:
            self.write()

    def with_random_changes(self, options: argparse.Namespace) -> None:
        """Changes of the seeds, and of inputs that were changed before, until the time is over."""
        chance = random.Random(options.seed)
        pool = [*self._target.seeds(), *stored_seeds(options.targets[0])]
        for seed in pool:
            self.execute(seed)
        while self._executions < options.executions and time.monotonic() - self._started < options.seconds:
            data = changed(chance.choice(pool), chance, pool)
            self.execute(data)
            if chance.random() < 0.01:
                pool.append(data)
                del pool[200:-50]
        self.write()

    def with_atheris(self, options: argparse.Namespace) -> None:
        """Changes that lead to code not yet run."""
        import atheris

        corpus = self._folder / "corpus"
        corpus.mkdir()
        for number, seed in enumerate([*self._target.seeds(), *stored_seeds(options.targets[0])]):
            (corpus / str(number)).write_bytes(seed)
        atheris.instrument_all()  # type: ignore[attr-defined]  # its stubs lack it
        arguments = [sys.argv[0], str(corpus), f"-max_total_time={int(options.seconds)}", f"-runs={options.executions}"]
        arguments += ["-rss_limit_mb=0", f"-max_len={LONGEST_INPUT}", f"-seed={options.seed + 1}", "-verbosity=0"]
        atheris.Setup(arguments, self.execute)
        atheris.Fuzz()

    def write(self) -> None:
        """Write the figures so far, for the parent."""
        result = {
            "executions": self._executions,
            "seconds": round(time.monotonic() - self._started, 1),
            "slowest": round(self._slowest, 3),
            "findings": list(self._findings.values())[:20],
        }
        self._place.with_suffix(".json").write_text(json.dumps(result))

    def _find(self, error: str, data: bytes) -> None:
        if error not in self._findings:
            self._findings[error] = {"error": error, "input": base64.b64encode(data[:5000]).decode()}
            self.write()


def stored_seeds(name: str) -> list[bytes]:
    """Inputs that failed once, in tests/fuzz/NAME."""
    return [file.read_bytes() for file in sorted((SEEDS / name).glob("*"))]


def changed(seed: bytes, chance: random.Random, pool: Sequence[bytes]) -> bytes:
    """The input after one to eight changes: bytes, words, pieces removed, repeated or taken from another input."""
    data = bytearray(seed)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice((1, 4, 16, 100, 1000)))
        kind = chance.randrange(7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        elif kind == 2:
            data[at:at] = chance.choice(WORDS)
        elif kind == 3:
            data[at : at + chance.choice((1, 2, 4, 8))] = chance.choice(WORDS)
        elif kind == 4:
            del data[at:end]
        elif kind == 5:
            data[at:at] = data[at:end] * chance.choice((1, 2, 20))
        else:
            other = chance.choice(pool)
            start = chance.randrange(len(other) + 1)
            data[at:end] = other[start : start + chance.choice((4, 16, 200))]
    return bytes(data[:LONGEST_INPUT])


def _checkpoint(data: bytes, folder: Path) -> None:
    from ppsolo.checkpoint.reader import read_checkpoint

    (folder / "x").write_bytes(data)
    read_checkpoint(folder / "x")


def _checkpoint_seeds() -> list[bytes]:
    import pickle

    arrays = {"conv.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "bias": np.ones(3, np.float32)}
    pickles = [pickle.dumps(arrays, protocol=protocol) for protocol in (2, 3, 4, 5)]
    header = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
    text = json.dumps(header).encode()
    return [
        *pickles,
        struct.pack("<Q", len(text)) + text + bytes(16),
        _tar("a"),
        _tar("./folder/a"),
        _tar("."),
        _tar("./"),
    ]


def _tar(name: str) -> bytes:
    import tarfile

    description = b"\x08\x05\x10\x02"  # float32 [2]
    variable = struct.pack("<IQI", 0, 0, 0) + struct.pack("<i", len(description)) + description + bytes(8)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo(name)
        member.size = len(variable)
        archive.addfile(member, io.BytesIO(variable))
    return stream.getvalue()


def _yaml(data: bytes, folder: Path) -> None:
    from ppsolo.config import load_config

    (folder / "x.yml").write_bytes(data)
    try:
        load_config(folder / "x.yml")
    except PpsoloError:
        load_config("solov2_r50_fpn_1x", [data.decode("utf-8", "surrogateescape")[:2000]])


def _yaml_seeds() -> list[bytes]:
    configs = Path(__file__).parents[1] / "configs"
    texts = [file.read_bytes() for file in sorted(configs.glob("*.yml"))[:6]]
    return [
        *texts,
        b"train.epochs=3",
        b"name: {a: 1}",
        b"!!set {a}",
        b"a: 2020-01-01",
        b"class_names: [a, 'b', \"\\u00e9\"]",
    ]


def _coco(data: bytes, folder: Path) -> None:
    from ppsolo.data.coco import CocoDataset, decode_mask

    (folder / "1.png").write_bytes(_IMAGE)
    (folder / "x.json").write_bytes(data)
    dataset = CocoDataset(folder / "x.json", folder)
    for index in range(len(dataset)):
        for outline in dataset[index].outlines[:4]:
            decode_mask(outline, dataset[index].size)


def _coco_seeds() -> list[bytes]:
    seeds = []
    for segmentation in (
        [[1, 1, 6, 1, 6, 6, 1, 6]],
        {"counts": [9, 3, 52], "size": [8, 8]},
        {"counts": "93d1", "size": [8, 8]},
    ):
        square = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": segmentation, "iscrowd": 0, "area": 25}
        content = {
            "images": [{"id": 1, "file_name": "1.png", "height": 8, "width": 8}],
            "annotations": [{**square, "bbox": [1, 1, 5, 5]}],
            "categories": [{"id": 1, "name": "a"}],
        }
        seeds.append(json.dumps(content).encode())
    return seeds


def _image(data: bytes, folder: Path) -> None:
    from ppsolo.data.decode import decode_image

    decode_image(data, max_pixels=10**6)


def _image_seeds() -> list[bytes]:
    import cv2

    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    suffixes = (".jpg", ".png", ".tif", ".webp", ".bmp", ".ppm", ".pgm")
    encoded = [cv2.imencode(suffix, smooth[..., 0] if suffix == ".pgm" else smooth)[1].tobytes() for suffix in suffixes]
    return [*encoded, b"P5 0000000008 8 255\n" + bytes(64)]


def _state(data: bytes, folder: Path) -> None:
    from ppsolo.training.state import TrainingState, read_state, write_state

    (folder / "raw.safetensors").write_bytes(data)
    try:
        read_state(folder / "raw.safetensors")
    except PpsoloError:
        try:
            values = json.loads(data)
        except (ValueError, RecursionError):
            raise PpsoloError("no record") from None
        write_state(TrainingState({"model": {"a": np.ones(2, np.float32)}}, values), folder / "x.safetensors")
        read_state(folder / "x.safetensors")  # a record with the checksum that fits


def _state_seeds() -> list[bytes]:
    record = {"step": 7, "epoch": 1, "best_ap": 0.5, "recent_losses": [[1.0, 2.0]], "precision": {}, "config": {}}
    average = {"steps": 3, "zero_share": 0.5, "correction": "exact"}
    return [json.dumps({**record, "ema": ema, "world_size": 1}).encode() for ema in (None, average)]


def _export(data: bytes, folder: Path) -> None:
    import hashlib

    import yaml

    from ppsolo.config import parse_yaml
    from ppsolo.deploy.directory import check_files, read_info

    text = data.decode("utf-8", "replace")
    (folder / "infer_cfg.yml").write_text(text)
    try:
        check_files(folder, read_info(folder))
    except PpsoloError:
        block = parse_yaml(text, "x")
        if isinstance(block, dict):
            block.pop("sha256", None)
            try:
                digest = hashlib.sha256(json.dumps(block, sort_keys=True).encode()).hexdigest()
            except TypeError:  # keys of several types
                digest = "0" * 64
            content = yaml.safe_dump({"ppsolo": {**block, "sha256": digest}})
            (folder / "infer_cfg.yml").write_text(content)
            check_files(folder, read_info(folder))  # a block with the checksum that fits


def _export_seeds() -> list[bytes]:
    tensor = {"name": "image", "dtype": "float32", "shape": ["N", 3, "H", "W"], "meaning": "x"}
    block = {
        "layout": 1,
        "format": "onnx",
        "graph": "network",
        "config": {"name": "x", "num_classes": 2, "model": {}, "preprocess": {}, "postprocess": {}},
        "input_shape": [-1, 3, -1, -1],
        "inputs": [tensor],
        "outputs": [tensor],
        "checkpoint": {},
        "ppsolo": "1",
        "paddle": "3",
        "verified": None,
        "files": {"model.onnx": "0" * 64},
        "device": None,
    }
    return [json.dumps(block).encode(), json.dumps({"ppsolo": block}).encode()]


def _form(data: bytes, folder: Path) -> None:
    from ppsolo.serve.forms import FormError, boundary_of, file_of_form

    head, _, body = data.partition(b"\n")
    try:
        boundary = boundary_of(head.decode("latin-1"))
    except FormError:
        boundary = b"b"
    try:
        file_of_form(body, boundary)
    except FormError as error:
        raise PpsoloError(str(error)) from None


def _form_seeds() -> list[bytes]:
    file = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\ncontent\r\n'
    field = b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\ntext\r\n'
    return [
        b"multipart/form-data; boundary=b\n" + field + file + b"--b--\r\n",
        b'multipart/form-data; boundary="b"\n' + file,
    ]


def _import(data: bytes, folder: Path) -> None:
    """The first byte chooses the reader, the second the suffix of the file."""
    from ppsolo.formats.recognition import READERS, read_folder

    names = sorted(READERS)
    kind = names[data[0] % len(names)] if data else names[0]
    place = Path(tempfile.mkdtemp(dir=folder))
    try:
        (place / "a.png").write_bytes(_IMAGE)
        (place / ("a" + (".json", ".txt", ".xml", ".yaml")[(data[1] if len(data) > 1 else 0) % 4])).write_bytes(
            data[2:]
        )
        read_folder(place, kind)
    finally:
        for file in place.iterdir():
            file.unlink()
        place.rmdir()


def _import_seeds() -> list[bytes]:
    labelme = {
        "imagePath": "a.png",
        "shapes": [{"label": "a", "points": [[1, 1], [6, 1], [6, 6]], "shape_type": "polygon"}],
    }
    voc = b"<annotation><filename>a.png</filename><size><width>16</width><height>12</height></size></annotation>"
    bodies = [
        (0, json.dumps({**labelme, "imageHeight": 12, "imageWidth": 16}).encode()),
        (1, b"0 0.1 0.1 0.5 0.1 0.5 0.5\n"),
    ]
    bodies += [(2, voc), (2, b"<annotations><image name='a.png' width='16' height='12'></image></annotations>")]
    bodies += [(0, seed) for seed in _coco_seeds()] + [(3, b"names: {0: a}\ntrain: .\n")]
    return [bytes([reader, suffix]) + body for reader in range(9) for suffix, body in bodies]


def _results(data: bytes, folder: Path) -> None:
    from ppsolo.evaluation.coco_evaluator import evaluate_results

    (folder / "truth.json").write_bytes(_coco_seeds()[0])
    (folder / "x.json").write_bytes(data)
    evaluate_results(folder / "truth.json", folder / "x.json")


def _results_seeds() -> list[bytes]:
    result = {"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": {"counts": "93d1", "size": [8, 8]}}
    return [json.dumps([result, {**result, "bbox": [1, 1, 4, 4]}]).encode(), b"[]"]


def _text(data: bytes, folder: Path) -> None:
    from ppsolo.text import one_line, printable

    text = data.decode("utf-8", "surrogateescape")
    if not (printable(text).isprintable() and one_line(text).isprintable()):
        raise ValueError("a character that is not printable is left")
    one_line(text).encode()


def _seed_image() -> bytes:
    import cv2

    return cv2.imencode(".png", np.full((12, 16, 3), 90, np.uint8))[1].tobytes()


_IMAGE = _seed_image()
TARGETS = {
    "checkpoint": Target(_checkpoint, _checkpoint_seeds),
    "yaml": Target(_yaml, _yaml_seeds),
    "coco": Target(_coco, _coco_seeds),
    "image": Target(_image, _image_seeds),
    "state": Target(_state, _state_seeds),
    "export": Target(_export, _export_seeds),
    "form": Target(_form, _form_seeds),
    "import": Target(_import, _import_seeds),
    "results": Target(_results, _results_seeds),
    "text": Target(_text, lambda: [b"name", "caf\u00e9".encode(), b"\xff\x1b[2J"]),
}

if __name__ == "__main__":
    sys.exit(main())
