"""Run the first commands of docs/your-data.md on a folder of sixteen labelme files, and time each."""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ppsolo.data.coco import CocoDataset
from ppsolo.data.synthetic import draw_dataset
from ppsolo.results.instances import Instances
from ppsolo.results.rle import draw_polygons

ROOT = Path(__file__).parent.parent
PICTURES = 16


def commands() -> list[str]:
    """Return the commands of the page's first section."""
    page = (ROOT / "docs" / "your-data.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- command: sixteen -->\n```sh\n(.*?)```", page, re.DOTALL)
    assert block is not None, "docs/your-data.md has no block of commands called sixteen"
    return block[1].splitlines()


def write_labelme(annotations: Path, pictures: Path, folder: Path) -> int:
    """Write the first pictures of a COCO data set with labelme files; return the number of objects."""
    dataset = CocoDataset(annotations, pictures)
    folder.mkdir(parents=True)
    objects = 0
    for index in range(PICTURES):
        record = dataset[index]
        target = folder / record.path.name
        shutil.copyfile(record.path, target)
        rles = [draw_polygons(o, record.size) if isinstance(o, tuple) else o for o in record.outlines]
        instances = Instances(
            rles=rles,
            scores=np.ones(len(rles)),
            labels=record.labels,
            size=record.size,
            class_names=dataset.class_names,
            category_ids=range(1, len(dataset.class_names) + 1),
        )
        instances.to_labelme(target.with_suffix(".json"), target, tolerance=0)
        objects += len(instances)
    return objects


def main() -> int:
    """Time every command; return the exit code of the first one that failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotations", type=Path, help="a COCO file to take the pictures from; default: drawn shapes")
    parser.add_argument("--images", type=Path, help="its pictures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        annotations, images = options.annotations, options.images
        if annotations is None:
            draw_dataset(folder / "drawn", train=PICTURES, val=1, size=(128, 160))
            annotations, images = folder / "drawn" / "instances_train.json", folder / "drawn" / "train"
        objects = write_labelme(annotations, images, folder / "photos")
        sys.stdout.write(f"{PICTURES} labelme files with {objects} objects\n")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        total = 0.0
        for command in commands():
            arguments = [sys.executable, "-m", *shlex.split(command)]
            started = time.perf_counter()
            done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True)
            seconds = time.perf_counter() - started
            total += seconds
            last = [line for line in (done.stdout or done.stderr).splitlines() if line.strip()][-4:]
            sys.stdout.write(f"\n{seconds:7.1f} s  {command}\n" + "".join(f"           {line}\n" for line in last))
            sys.stdout.flush()
            # import-data returns 1 if its report has problems of the data.
            if done.returncode not in ((0, 1) if "import-data" in command else (0,)):
                sys.stdout.write(done.stderr)
                return done.returncode
        sys.stdout.write(f"\n{total:7.1f} s  in all\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
