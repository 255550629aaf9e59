"""The demonstration: predict on a drawn scene or a photograph, and leave a picture to look at."""

import os
from pathlib import Path

import numpy as np
import paddle

from ppsolo.build import build_model
from ppsolo.checkpoint.download import Progress
from ppsolo.config import load_config
from ppsolo.data.images import read_image, write_image
from ppsolo.data.synthetic import draw_scene
from ppsolo.engine.infer import make_output_dir
from ppsolo.errors import DownloadError
from ppsolo.models.solov2 import SOLOv2
from ppsolo.predictor import Predictor

SYSTEM = "solov2_mobilenetv3_fpn_448_3x"


def run_demo(
    *, output_dir: Path, image: str | os.PathLike[str] | None = None, progress: Progress | None = None
) -> list[str]:
    """Predict with the smallest published system and write `scene.png` and `prediction.png`.

    image: a photograph; a scene is drawn if None. Where the published weights cannot be had, weights made
    from a seed take their place. Returns what was done and what it shows, a line each.
    """
    pixels = draw_scene(np.random.default_rng(0), (480, 640)).image if image is None else read_image(image)
    make_output_dir(output_dir)
    try:
        predictor = Predictor.from_pretrained(SYSTEM, progress=progress)
        lines, threshold = [str(predictor.load_report)], 0.5
    except DownloadError as error:
        predictor, threshold = Predictor(SYSTEM, model=seeded_model(seed=0)), 0.0
        lines = [
            f"the published weights cannot be had: {error}",
            "weights made from a seed take their place: the masks below show that network, postprocessing and "
            "drawing run, not what a trained SOLOv2 sees",
        ]
    instances = predictor(pixels)
    write_image(output_dir / "scene.png", pixels)
    write_image(output_dir / "prediction.png", instances.draw(pixels, score_threshold=threshold))
    return [*lines, f"{instances} -> {output_dir / 'prediction.png'}"]


def seeded_model(seed: int) -> SOLOv2:
    """The demonstration's network with weights that depend on the seed alone, and that find something."""
    paddle.seed(seed)
    model = build_model(load_config(SYSTEM))
    # Initial class scores are all 0.01; wider weights spread them, so that some cells pass the threshold.
    paddle.nn.initializer.Normal(0.0, 0.05)(model.head.category.weight)
    paddle.nn.initializer.Normal(0.0, 0.05)(model.head.kernel.weight)
    return model
