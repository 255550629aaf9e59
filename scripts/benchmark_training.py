"""Time reading, targets and training steps, and write JSON with a comparison to a baseline."""

import argparse
import sys
from pathlib import Path

from ppsolo.benchmark.training import benchmark, read_baseline
from ppsolo.errors import PpsoloError
from ppsolo.evaluation.report import write_report

FIGURES = ("reader", "targets", "step")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotations", required=True, metavar="FILE", help="COCO's JSON file of photographs")
    parser.add_argument("--images", required=True, metavar="DIR", help="the folder that its file names are relative to")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="figures to compare with")
    parser.add_argument("--figures", nargs="+", choices=FIGURES, default=FIGURES, help="default: all")
    parser.add_argument("--output", default="training_benchmark.json", metavar="FILE", help="default: %(default)s")
    options = parser.parse_args()
    data = {"data.root": ".", "data.train_annotations": options.annotations, "data.train_images": options.images}
    try:
        baseline = None if options.baseline is None else read_baseline(options.baseline)
        result = benchmark(data, figures=tuple(options.figures), baseline=baseline, progress=say)
        write_report(result, options.output)
    except PpsoloError as error:
        parser.exit(2, f"benchmark_training: error: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
