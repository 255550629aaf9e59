"""Time the evaluation of a result file, reading included, and compare it with hotcoco and pycocotools."""

import argparse
import sys
import tempfile
from pathlib import Path

from ppsolo.benchmark.results import benchmark_results, draw_results
from ppsolo.errors import PpsoloError
from ppsolo.evaluation.report import write_report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--annotations", metavar="FILE", help="your own file, together with --results; default: drawn files"
    )
    parser.add_argument("--results", metavar="FILE", help="COCO results")
    parser.add_argument("--images", type=int, default=460, metavar="N", help="images to draw; default: %(default)s")
    parser.add_argument(
        "--detections", type=int, default=10_800, metavar="N", help="number of all detections; default: %(default)s"
    )
    parser.add_argument("--output", default="results_benchmark.json", metavar="FILE", help="default: %(default)s")
    options = parser.parse_args()
    if min(options.images, options.detections) < 1 or (options.annotations is None) != (options.results is None):
        parser.exit(2, "benchmark_results: error: numbers must be at least 1; give both --annotations and --results\n")
    try:
        with tempfile.TemporaryDirectory() as folder:
            if options.results is None:
                files = draw_results(Path(folder), images=options.images, detections=options.detections)
            else:
                files = Path(options.annotations), Path(options.results)
            result = benchmark_results(*files)
        write_report(result, options.output)
    except PpsoloError as error:
        parser.exit(2, f"benchmark_results: error: {error}\n")
    for name, seconds in result["seconds"].items():
        sys.stdout.write(f"{name}: {seconds:.3f} s ({result['cpu_seconds'][name]:.3f} s of CPU)\n")
    sys.stdout.write(
        f"ratio to hotcoco {result['of_hotcoco']:.2f} (CPU {result['cpu_of_hotcoco']:.2f}), "
        f"largest difference {result['largest_difference']:.1e}, load {result['machine']['load']:.1f}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
