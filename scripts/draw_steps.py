"""Draws the steps of one prediction into docs/images, with the network of `ppsolo demo`."""

import argparse
import logging
from pathlib import Path

import numpy as np
import paddle
from matplotlib.figure import Figure

import ppsolo
from ppsolo.data.synthetic import draw_scene
from ppsolo.models.solov2 import SOLOv2
from ppsolo.predictor import files_of_run
from ppsolo.results.postprocess import points_nms

DOCS = Path(__file__).resolve().parent.parent / "docs"
SIZE = (128, 160)
SHOWN = 6  # number of masks


def draw(pictures: list[tuple[str, np.ndarray]], file: Path) -> None:
    """Draw one row of pictures, [H, W] or [H, W, 3], with a title above each."""
    figure = Figure(figsize=(2.2 * len(pictures), 2.4), layout="constrained")
    for axes, (title, picture) in zip(figure.subplots(1, len(pictures), squeeze=False)[0], pictures, strict=True):
        axes.imshow(picture, cmap="viridis", interpolation="nearest")
        axes.set_title(title, fontsize=8)
        axes.axis("off")
    figure.savefig(file, dpi=100)


def draw_scores(before: np.ndarray, kept: np.ndarray, file: Path) -> None:
    """Draw the scores of the best cells, and which ones Matrix NMS and the thresholds keep."""
    figure = Figure(figsize=(6, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.bar(np.arange(len(before)), before, color="lightgray", label="score of the cell, after points NMS")
    axes.bar(np.arange(len(kept)), kept, width=0.4, label="score of the instance, in its own order")
    axes.set_xlabel("the best first")
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=100)


def draw_steps(run: Path, seed: int, folder: Path) -> None:
    """Draw every step of one prediction. run: a run of `ppsolo demo`. seed: for the scene."""
    image = draw_scene(np.random.default_rng(seed), SIZE).image
    config, weights = files_of_run(run)
    predictor = ppsolo.Predictor(config, weights=weights, engine="dygraph")
    model: SOLOv2 = predictor.model
    model.eval()
    prepared = predictor.prepare(image)
    with paddle.no_grad():
        batch = paddle.to_tensor(prepared.image[None])
        pyramid = model.neck(model.backbone(batch))
        raw = model(batch)
    draw([(f"{image.shape[0]} x {image.shape[1]}", image)], folder / "step-1-picture.png")

    levels = [level[0].abs().mean(axis=0).numpy() for level in pyramid]
    shapes = [" x ".join(map(str, level.shape[1:])) for level in pyramid]
    draw(
        [(f"P{i + 2}: {shape}", level) for i, (shape, level) in enumerate(zip(shapes, levels, strict=True))],
        folder / "step-2-pyramid.png",
    )

    scores = [paddle.nn.functional.sigmoid(level[0]).numpy() for level in raw.category_logits]
    draw(
        [(f"{level.shape[1]} x {level.shape[2]} cells", level.max(axis=0)) for level in scores],
        folder / "step-3-scores.png",
    )

    features = raw.mask_features[0].numpy()
    strongest = np.argsort(-features.std(axis=(1, 2)))[:4]
    draw([(f"channel {i} of {len(features)}", features[i]) for i in strongest], folder / "step-4-features.png")

    peaks = [points_nms(level).max(axis=0).ravel() for level in scores]
    best = np.argsort(-np.concatenate(peaks), kind="stable")
    kernels = np.concatenate([level[0].flatten(start_axis=1).numpy() for level in raw.kernels], axis=1)
    masks = 1 / (1 + np.exp(-np.einsum("ek,ehw->khw", kernels[:, best[:SHOWN]], features)))
    ranked = np.concatenate(peaks)[best]
    draw(
        [(f"score {score:.2f}", mask) for score, mask in zip(ranked, masks, strict=False)], folder / "step-5-masks.png"
    )

    instances = predictor(image)
    draw_scores(ranked[:30], instances.scores[:30], folder / "step-6-nms.png")
    draw(
        [("the picture", image), ("instances above 0.3", instances.above(0.3).draw(image))],
        folder / "step-7-instances.png",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("output/demo/training/run"), help="a run of `ppsolo demo`")
    parser.add_argument("--seed", type=int, default=2, help="seed of the scene, default: 2")
    parser.add_argument("--output_dir", type=Path, default=DOCS / "images", help="default: docs/images")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    draw_steps(options.run, options.seed, options.output_dir)


if __name__ == "__main__":
    main()
