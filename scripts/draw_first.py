"""Draws docs/images/first.jpg, the README's picture, with the network of `ppsolo demo`."""

import argparse
import logging
from pathlib import Path

import numpy as np

import ppsolo
from ppsolo.data.images import write_image
from ppsolo.data.synthetic import draw_scene
from ppsolo.demo import DRAWN_FROM

DOCS = Path(__file__).resolve().parent.parent / "docs"
SIZE = (240, 320)
SCENES = 2
GAP = 8  # white columns between two pictures


def first_picture(run: Path, seed: int) -> np.ndarray:
    """Return scenes in one row, each followed by the network's result: uint8 RGB [240, 1304, 3].

    run: a run of `ppsolo demo`. seed: for the scenes.
    """
    predictor = ppsolo.Predictor.from_pretrained(run)
    gap = np.full((SIZE[0], GAP, 3), 255, np.uint8)
    row: list[np.ndarray] = []
    for number in range(SCENES):
        scene = draw_scene(np.random.default_rng((seed, number)), SIZE).image
        found = predictor(scene).draw(scene, score_threshold=DRAWN_FROM, color_by="class")
        row += [gap, scene, gap, found]
    return np.concatenate(row[1:], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("output/demo/training/run"), help="a run of `ppsolo demo`")
    parser.add_argument("--seed", type=int, default=2, help="seed of the scenes, default: 2")
    parser.add_argument("--output", type=Path, default=DOCS / "images" / "first.jpg", help="default: %(default)s")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    write_image(options.output, first_picture(options.run, options.seed))


if __name__ == "__main__":
    main()
