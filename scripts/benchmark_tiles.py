"""Measures prediction in tiles on a mosaic of pictures: AP, time and peak memory.

The tiles of the first line lie exactly on the pictures of the mosaic, which is as good as the pictures one by one; the
others have their seams across objects. AP counts all instances, not only COCO's best 100 of a picture and class.

examples:
  python scripts/benchmark_tiles.py --run output/demo/training/run --seed 100
  python scripts/benchmark_tiles.py --run output/nuclei --annotations val.json --images val --grid 11 11 --tile 360
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import ppsolo
from ppsolo.benchmark.mosaic import Mosaic, make_mosaic
from ppsolo.data.synthetic import draw_dataset
from ppsolo.data.tiles import largest_overlap

SCENE = 128  # pixels


def mosaic_of(options: argparse.Namespace) -> Mosaic:
    """The pictures that are given, or scenes that are drawn."""
    rows, columns = options.grid
    if options.annotations is not None:
        return make_mosaic(
            options.annotations, options.images, rows=rows, columns=columns, ignore_cut=options.ignore_cut
        )
    with tempfile.TemporaryDirectory() as folder:
        draw_dataset(folder, train=0, val=rows * columns, size=(SCENE, SCENE), seed=options.seed)
        pictures = Path(folder)
        return make_mosaic(pictures / "instances_val.json", pictures / "val", rows=rows, columns=columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, metavar="DIR", help="a training run, or an export")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--seed", type=int, metavar="N", help="draw scenes of 128 pixels from this seed")
    source.add_argument("--annotations", type=Path, metavar="FILE", help="COCO's JSON file")
    parser.add_argument("--images", type=Path, metavar="DIR", help="the folder of its pictures")
    parser.add_argument(
        "--ignore_cut", action="store_true", help="do not count objects that the edges of their own pictures cut"
    )
    parser.add_argument("--grid", type=int, nargs=2, default=(6, 10), metavar=("ROWS", "COLUMNS"))
    parser.add_argument("--tile", type=int, nargs="+", default=[SCENE], metavar="N", help="sizes of tiles to try")
    parser.add_argument("--overlap", type=int, nargs="+", default=[16, 32, 48, 64], metavar="N", help="overlaps to try")
    options = parser.parse_args()
    predictor = ppsolo.load(options.run)
    mosaic = mosaic_of(options)
    height, width = mosaic.image.shape[:2]
    sys.stdout.write(f"{height} x {width} pixels, {len(mosaic.content['annotations'])} annotations; {predictor!r}\n")
    tried = [(mosaic.cell[0], 0)] if mosaic.cell[0] == mosaic.cell[1] else []
    tried += [
        (tile, overlap) for tile in options.tile for overlap in options.overlap if overlap <= largest_overlap(tile)
    ]
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
