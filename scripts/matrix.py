"""Install ppsolo with old and new versions of what it needs, run its quick tests on each, and say which passed."""

import argparse
import itertools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.10", "3.11", "3.12")
# Of each Paddle: its newest numpy and OpenCV, and the oldest that are tried.
PADDLES = {
    "3.3.1": ({"numpy": "<2.4", "opencv": ">=5"}, {"numpy": "==1.26.4", "opencv": "==4.11.0.86"}),
    "2.6.2": ({"numpy": "<2", "opencv": "<4.12"}, {"numpy": "==1.26.4", "opencv": "==4.9.0.80"}),
}
VERSIONS = """
from importlib.metadata import distributions
names = ("numpy", "opencv-python", "opencv-python-headless")
found = {one.metadata["Name"]: one.version for one in distributions()}
print(", ".join(f"{name} {found[name]}" for name in names if name in found))
"""
OPENCV_PACKAGES = ("opencv-python", "opencv-python-headless")
QUICK_TESTS = ("tests/test_config.py", "tests/models", "tests/results", "tests/data/test_images.py")
PACKAGES = ("setuptools<81", "pytest", "hypothesis", "pillow")


class Cell(NamedTuple):
    """One combination to install and test."""

    python: str
    paddle: str
    numpy: str
    opencv: str

    def __str__(self) -> str:
        return f"Python {self.python}, Paddle {self.paddle}, numpy{self.numpy}, {self.opencv}"


def cells() -> list[Cell]:
    """All combinations: every Python and Paddle, old and new numpy and OpenCV, with a screen or without."""
    return [
        Cell(python, paddle, versions["numpy"], f"{package}{versions['opencv']}")
        for python, (paddle, pair) in itertools.product(PYTHONS, PADDLES.items())
        for versions, package in itertools.product(pair, OPENCV_PACKAGES)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="the combinations whose line has this text")
    parser.add_argument("--list", action="store_true", help="say what would be tested")
    parser.add_argument("--record", action="store_true", help="write the results to tests/RELIABILITY.md")
    options = parser.parse_args()
    chosen = [cell for cell in cells() if options.only in str(cell)]
    if options.list:
        sys.stdout.write("".join(f"{cell}\n" for cell in chosen))
        return 0
    results = {}
    for cell in chosen:
        results[cell] = test_cell(cell)
        sys.stdout.write(f"{cell}: {results[cell]}\n")
        sys.stdout.flush()
    if options.record:
        from reliability import record

        tests = " ".join(f"`{name}`" for name in QUICK_TESTS)
        lines = [f"{tests}, in an environment of its own for each combination.", ""]
        lines += ["| Python | Paddle | asked for | result |", "|---|---|---|---|"]
        for cell, result in results.items():
            lines.append(f"| {cell.python} | {cell.paddle} | numpy{cell.numpy}, {cell.opencv} | {result} |")
        record("matrix.py", lines)
    return 0 if all(result.startswith("passed") for result in results.values()) else 1


def find_python(version: str) -> str | None:
    """A Python of this version: on the path, of pyenv, or of uv; None where this machine has none."""
    candidates = [shutil.which(f"python{version}")]
    candidates += sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))
    if uv := shutil.which("uv"):
        candidates.append(
            subprocess.run([uv, "python", "find", version], capture_output=True, text=True).stdout.strip()
        )
    test = f"import sys, venv; assert '%d.%d' % sys.version_info[:2] == '{version}'"
    for python in candidates:
        if python and subprocess.run([python, "-c", test], capture_output=True).returncode == 0:
            return python
    return None


def test_cell(cell: Cell) -> str:
    """What was installed and how many tests passed; "not tried" without such a Python; or what went wrong."""
    python = find_python(cell.python)
    if python is None:
        return f"not tried: there is no python{cell.python} on this machine"
    with tempfile.TemporaryDirectory(prefix="ppsolo-matrix-") as folder:
        own = str(Path(folder, "bin", "python"))
        wanted = [f"{ROOT}[cpu,onnx]", f"paddlepaddle=={cell.paddle}", f"numpy{cell.numpy}", cell.opencv, *PACKAGES]
        steps = [[python, "-m", "venv", folder], [*pip(own, "install"), *wanted]]
        if cell.opencv.startswith("opencv-python-headless"):  # both bring the module cv2: only one may be there
            steps += [pip(own, "remove"), [*pip(own, "replace"), cell.opencv]]
        steps.append([own, "-m", "pytest", "-q", "-x", "-m", "not full_size", *QUICK_TESTS])
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True, cwd=ROOT)
            if done.returncode != 0:
                lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
                return f"failed: {lines[-1][:200] if lines else done.returncode}"
        versions = subprocess.run([own, "-c", VERSIONS], capture_output=True, text=True, check=True).stdout.strip()
        return f"passed: {done.stdout.splitlines()[-1].split(',')[0]}; {versions}"


def pip(python: str, what: Literal["install", "remove", "replace"]) -> list[str]:
    """The command that installs packages, removes opencv-python, or installs one anew: uv's where it is there."""
    if uv := shutil.which("uv"):
        own, yes, anew = [uv, "pip"], [], "--reinstall"
        where = ["--python", python]
    else:
        own, yes, anew, where = [python, "-m", "pip"], ["-y"], "--force-reinstall", []
    if what == "remove":
        return [*own, "uninstall", *where, "-q", *yes, "opencv-python"]
    return [*own, "install", *where, "-q", *([anew, "--no-deps"] if what == "replace" else [])]


if __name__ == "__main__":
    sys.exit(main())
