"""Install ppsolo with old and new versions of what it needs, run its quick tests on each, and say which passed."""

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.10", "3.11", "3.12")
# Of each Paddle: its newest numpy and OpenCV, and the oldest that are tried.
PADDLES = {
    "3.3.1": ({"numpy": "<2.4", "opencv": ">=5"}, {"numpy": "==1.26.4", "opencv": "==4.11.0.86"}),
    "2.6.2": ({"numpy": "<2", "opencv": "<4.12"}, {"numpy": "==1.26.4", "opencv": "==4.9.0.80"}),
}
OPENCV_PACKAGES = ("opencv-python", "opencv-python-headless")
QUICK_TESTS = (
    "tests/test_api.py",
    "tests/test_config.py",
    "tests/models",
    "tests/results",
    "tests/data/test_images.py",
)


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
    results = {str(cell): test_cell(cell) for cell in chosen}
    sys.stdout.write(json.dumps(results, indent=1) + "\n")
    if options.record:
        from reliability import record

        record("matrix.py", ["| versions | result |", "|---|---|", *(f"| {k} | {v} |" for k, v in results.items())])
    return 0 if all(result == "passed" for result in results.values()) else 1


def test_cell(cell: Cell) -> str:
    """ "passed", "not tried" where this machine has no such Python, or the last line of what went wrong."""
    python = shutil.which(f"python{cell.python}")
    if python is None:
        return f"not tried: there is no python{cell.python} on this machine"
    with tempfile.TemporaryDirectory(prefix="ppsolo-matrix-") as folder:
        own = str(Path(folder, "bin", "python"))
        packages = [
            f"{ROOT}[cpu,test]",
            f"paddlepaddle=={cell.paddle}",
            f"numpy{cell.numpy}",
            cell.opencv,
            "setuptools<81",
        ]
        steps = [[python, "-m", "venv", folder], [own, "-m", "pip", "install", "-q", *packages]]
        if cell.opencv.startswith("opencv-python-headless"):  # both bring the module cv2: only one may be there
            steps.append([own, "-m", "pip", "uninstall", "-q", "-y", "opencv-python"])
            steps.append([own, "-m", "pip", "install", "-q", "--force-reinstall", "--no-deps", cell.opencv])
        steps.append([own, "-m", "pytest", "-q", "-x", *QUICK_TESTS])
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True, cwd=ROOT)
            if done.returncode != 0:
                lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
                return f"failed: {lines[-1][:200] if lines else done.returncode}"
    return "passed"


if __name__ == "__main__":
    sys.exit(main())
