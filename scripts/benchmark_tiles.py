"""Measures prediction in tiles on a mosaic of pictures: AP, time and peak memory.

In the first line, the tiles are exactly the pictures of the mosaic; in the others, seams cut objects.

example:
  python scripts/benchmark_tiles.py --run output/demo/training/demo --annotations val.json --images val --grid 6 10
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import ppsolo
from ppsolo.benchmark.mosaic import make_mosaic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, metavar="DIR", help="a training run, or an export")
    parser.add_argument("--annotations", required=True, type=Path, metavar="FILE", help="COCO's JSON file")
    parser.add_argument("--images", required=True, type=Path, metavar="DIR", help="the folder of its pictures")
    parser.add_argument("--grid", type=int, nargs=2, default=(6, 10), metavar=("ROWS", "COLUMNS"))
    parser.add_argument("--tile", type=int, nargs="+", default=[128, 192], metavar="N", help="sizes of tiles to try")
    parser.add_argument("--overlap", type=int, nargs="+", default=[32, 64], metavar="N", help="overlaps to try")
    options = parser.parse_args()
    predictor = ppsolo.load(options.run)
    mosaic = make_mosaic(options.annotations, options.images, rows=options.grid[0], columns=options.grid[1])
    height, width = mosaic.image.shape[:2]
    cell = height // options.grid[0]
    sys.stdout.write(f"{height} x {width} pixels, {len(mosaic.content['annotations'])} annotations; {predictor!r}\n")
    tried = [(cell, 0)] if cell == width // options.grid[1] else []
    tried += [(tile, overlap) for tile in options.tile for overlap in options.overlap if 2 * overlap <= tile]
    for tile, overlap in tried:
        start = time.perf_counter()
        found = predictor(mosaic.image, tile=tile, overlap=overlap)
        seconds = time.perf_counter() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        sys.stdout.write(
            f"tile {tile}, overlap {overlap}: AP {100 * mosaic.average_precision(found):.1f}, "
            f"{len(found)} instances, {seconds:.1f} s, peak memory {memory:.2f} GB\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
