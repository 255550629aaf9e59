"""Time evaluation without the network, on drawn detections, and compare it with the usual way."""

import argparse
import sys

from ppsolo.benchmark.evaluation import benchmark_evaluation
from ppsolo.errors import PpsoloError
from ppsolo.evaluation.report import write_report
from ppsolo.progress import ProgressBar


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--images", type=int, default=5000, metavar="N", help="number of images; default: %(default)s, as in COCO's val"
    )
    parser.add_argument(
        "--instances", type=int, default=100, metavar="N", help="instances per image; default: %(default)s"
    )
    parser.add_argument("--output", default="evaluation_benchmark.json", metavar="FILE", help="default: %(default)s")
    options = parser.parse_args()
    if options.images < 1 or options.instances < 1:
        parser.exit(2, "benchmark_evaluation: error: --images and --instances must be at least 1\n")
    with ProgressBar("evaluation", unit="images") as progress:
        result = benchmark_evaluation(images=options.images, instances=options.instances, progress=progress.update)
    try:
        write_report(result, options.output)
    except PpsoloError as error:
        parser.exit(2, f"benchmark_evaluation: error: {error}\n")
    sys.stdout.write(
        f"{result['images']} images with {result['instances']} instances: {result['seconds']:.1f} s, the usual way "
        f"{result['usual_seconds']:.1f} s, ratio {result['of_usual']:.3f}; mask AP {100 * result['AP']:.1f} and "
        f"{100 * result['usual_AP']:.1f}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
