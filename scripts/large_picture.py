"""Measures memory and time for one very large picture with many objects, predicted in tiles from a TIFF.

It draws scenes on a picture of SIDE x SIDE pixels and writes it as a tiled TIFF. It predicts on the whole and on a
quarter of it, in separate processes, to show how time grows with the number of tiles.

example:
  python scripts/large_picture.py --run output/demo/training/run --side 10000 --scenes 1250
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import ppsolo
from ppsolo.data.synthetic import draw_scene
from ppsolo.data.tiles import Tiling

SCENE = 128  # pixels


def write_picture(path: Path, side: int, scenes: int) -> int:
    """Write the picture; return the number of its objects."""
    import tifffile

    rng = np.random.default_rng(0)
    image = np.full((side, side, 3), 96, np.uint8)
    cells = side // SCENE
    objects = 0
    for place in rng.choice(cells * cells, min(scenes, cells * cells), replace=False):
        scene = draw_scene(rng, (SCENE, SCENE))
        top, left = (int(place) // cells) * SCENE, (int(place) % cells) * SCENE
        image[top : top + SCENE, left : left + SCENE] = scene.image
        objects += len(scene.masks)
    tifffile.imwrite(path, image, photometric="rgb", tile=(256, 256), compression="zlib")
    return objects


def predict(run: str, path: Path, tile: int, overlap: int, short_side: int) -> None:
    """Predict in this process, and print the figures as JSON."""
    config = ppsolo.load_config(Path(run) / "config.yml", [f"preprocess.short_side={short_side}"])
    weights = next(Path(run) / name for name in ("best.pdparams", "last.pdparams") if (Path(run) / name).is_file())
    predictor = ppsolo.Predictor(config, weights=weights, keep_memory=False)
    start = time.perf_counter()
    found = predictor(path, tile=tile, overlap=overlap, batch_size=1)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    tiles = len(Tiling(tile, overlap).places(found.size))
    figures = {"instances": len(found), "tiles": tiles, "seconds": time.perf_counter() - start, "memory_gb": memory}
    sys.stdout.write(json.dumps(figures) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, metavar="DIR", help="a run of `ppsolo demo`")
    parser.add_argument("--side", type=int, default=10000, metavar="N", help="pixels, default: %(default)s")
    parser.add_argument("--scenes", type=int, default=1250, metavar="N", help="drawn scenes, default: %(default)s")
    parser.add_argument("--tile", type=int, default=1024, metavar="N", help="default: %(default)s")
    parser.add_argument("--overlap", type=int, default=128, metavar="N", help="default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path("output/large"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--predict", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.predict is not None:
        # Tiles are not scaled, so the drawn scenes look as large as in training.
        predict(options.run, options.predict, options.tile, options.overlap, short_side=options.tile)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    for side, scenes in ((options.side // 2, options.scenes // 4), (options.side, options.scenes)):
        path = options.folder / f"{side}.tif"
        objects = write_picture(path, side, scenes)
        command = [sys.executable, __file__, "--run", options.run, "--tile", str(options.tile)]
        command += ["--overlap", str(options.overlap), "--predict", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        figures = json.loads(done.stdout.splitlines()[-1])
        sys.stdout.write(
            f"{side} x {side} pixels, {objects} objects drawn: {figures['instances']} found, {figures['tiles']} tiles, "
            f"{figures['seconds']:.0f} s ({figures['seconds'] / figures['tiles']:.2f} s a tile), "
            f"peak memory {figures['memory_gb']:.2f} GB\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
