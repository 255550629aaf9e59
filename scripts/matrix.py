"""Installs ppsolo with old and new versions of its dependencies, runs quick tests on each, and reports the results."""

import argparse
import itertools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.10", "3.11", "3.12")
# For each Paddle: its newest numpy and OpenCV, and the oldest tested ones.
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
    package: str
    opencv: str

    @property
    def key(self) -> tuple[str, str, str]:
        """The first cells of its row on the page."""
        return self.python, self.paddle, f"numpy{self.numpy}, {self.package}{self.opencv}"

    def __str__(self) -> str:
        return "Python {}, Paddle {}, {}".format(*self.key)


def cells() -> list[Cell]:
    """Return all combinations: every Python and Paddle, old and new numpy and OpenCV, with GUI or headless."""
    return [
        Cell(python, paddle, versions["numpy"], package, versions["opencv"])
        for python, (paddle, pair) in itertools.product(PYTHONS, PADDLES.items())
        for versions, package in itertools.product(pair, OPENCV_PACKAGES)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="TEXT", help="the combinations that have all these texts"
    )
    parser.add_argument("--list", action="store_true", help="say what would be tested")
    parser.add_argument("--record", action="store_true", help="write the results to tests/RELIABILITY.md")
    options = parser.parse_args()
    chosen = [cell for cell in cells() if all(text in str(cell) for text in options.only)]
    if options.list:
        sys.stdout.write("".join(f"{cell}\n" for cell in chosen))
        return 0
    passed = True
    for (python, paddle), own in itertools.groupby(chosen, key=lambda cell: (cell.python, cell.paddle)):
        for cell, result in test_cells(python, paddle, own):
            sys.stdout.write(f"{cell}: {result}\n")
            sys.stdout.flush()
            passed = passed and result.startswith("passed")
            if options.record:
                record_cell(cell, result)
    return 0 if passed else 1


def record_cell(cell: Cell, result: str) -> None:
    """Write the result of a combination to the page; those of other combinations stay."""
    from reliability import record, recorded_rows

    rows = recorded_rows("matrix.py", 3)
    rows[cell.key] = f"| {' | '.join(cell.key)} | {result} |"
    tests = " ".join(f"`{name}`" for name in QUICK_TESTS)
    head = [f"{tests}, in one environment for each Python and Paddle.", ""]
    head += ["| Python | Paddle | asked for | result |", "|---|---|---|---|"]
    record("matrix.py", [*head, *(rows[one.key] for one in cells() if one.key in rows)])


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


def test_cells(python: str, paddle: str, wanted: Iterable[Cell]) -> Iterator[tuple[Cell, str]]:
    """Each combination with what was installed and how many tests passed; or with what went wrong."""
    found = find_python(python)
    with tempfile.TemporaryDirectory(prefix="ppsolo-matrix-") as folder:
        own = str(Path(folder, "bin", "python"))
        uv = shutil.which("uv")
        install = [uv, "pip", "install", "-q", "--python", own] if uv else [own, "-m", "pip", "install", "-q"]
        remove = [uv, "pip", "uninstall", "-q", "--python", own] if uv else [own, "-m", "pip", "uninstall", "-q", "-y"]
        make = [uv, "venv", "-q", "--python", str(found), folder] if uv else [str(found), "-m", "venv", folder]
        for cell in wanted:
            if found is None:
                yield cell, f"not tried: there is no python{python} on this machine"
                continue
            # One resolution for all, so that what other packages bring suits this numpy.
            all_of_it = [f"{ROOT}[cpu,onnx]", f"paddlepaddle=={paddle}", f"numpy{cell.numpy}", *PACKAGES]
            steps = [] if Path(own).exists() else [make]
            # Both packages of OpenCV bring the module cv2: only one may be there.
            steps += [[*remove, *OPENCV_PACKAGES], [*install, *all_of_it, f"opencv-python{cell.opencv}"]]
            if cell.package != "opencv-python":
                steps += [[*remove, "opencv-python"], [*install, f"numpy{cell.numpy}", f"{cell.package}{cell.opencv}"]]
            steps.append([own, "-m", "pytest", "-q", "-x", "-m", "not full_size", *QUICK_TESTS])
            yield cell, _run(steps) or f"passed: {_installed(own)}"


def _run(steps: Sequence[Sequence[str]]) -> str:
    """What went wrong, in one line; empty where nothing did."""
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, cwd=ROOT)
        if done.returncode != 0:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))] or lines[-1:]
            return f"failed: {'; '.join(failures)[:300] or done.returncode}"
    return ""


def _installed(python: str) -> str:
    """What is installed."""
    return subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
