"""Draw annotation files of COCO's size; measure opening, checking and evaluating, and memory of ranks and workers."""

import argparse
import sys
from pathlib import Path

from ppsolo.benchmark.annotations import IMAGES, POLYGONS, benchmark_annotations
from ppsolo.errors import PpsoloError
from ppsolo.evaluation.report import write_report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="folder for the file (633 MB), an empty file per image and the cache; is kept")
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N", help="default: %(default)s")
    parser.add_argument("--polygons", type=int, default=POLYGONS, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--processes", type=int, default=4, metavar="N", help="number of ranks, and of workers; default: %(default)s"
    )
    parser.add_argument("--output", default="annotations_benchmark.json", metavar="FILE", help="default: %(default)s")
    options = parser.parse_args()
    if min(options.images, options.polygons, options.processes) < 1:
        parser.exit(2, "benchmark_annotations: error: --images, --polygons and --processes must be at least 1\n")
    try:
        result = benchmark_annotations(
            Path(options.folder), images=options.images, polygons=options.polygons, processes=options.processes
        )
        write_report(result, options.output)
    except (PpsoloError, OSError) as error:
        parser.exit(2, f"benchmark_annotations: error: {error}\n")
    sys.stdout.write(f"{result['bytes'] / 1e6:.0f} MB; load {result['machine']['load']:.1f}\n")
    titles = {"first": "first opening", "second": "second opening", "check": "check-data, no picture decoded"}
    titles |= {
        "evaluation_first": "evaluation of {records:,} images, first opening",
        "evaluation_second": "second opening",
        "evaluation": "opening and drawing {instances:,} masks",
        "results": "{detections:,} results (CPU: adding {add_cpu_seconds:.1f} s, summary {summary_cpu_seconds:.1f} s)",
    }
    for name, title in titles.items():
        part = result[name]
        sys.stdout.write(
            f"{title.format(**part)}: {part['seconds']:.2f} s ({part['cpu_seconds']:.2f} s of CPU), "
            f"at most {part['peak_mb']:.0f} MB ({part['peak_before_mb']:.0f} MB before)\n"
        )
    for name, parts in (
        *((f"{n} ranks", parts) for n, parts in result["ranks"].items()),
        ("workers", result["workers"]),
    ):
        for part in parts:
            sys.stdout.write(
                f"{name}: PSS {part['pss_mb']:.0f} MB, of it mapped files {part['pss_files_mb']:.0f} MB; "
                f"its own {part['own_mb']:.0f} MB, {part['own_before_mb']:.0f} MB before the epoch\n"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
