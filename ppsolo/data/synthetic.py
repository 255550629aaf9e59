"""Draws a data set in COCO's format: overlapping textured shapes, some crowds and tiny objects, exact masks."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from ppsolo.atomic import atomic_writer
from ppsolo.data.images import write_image
from ppsolo.errors import DatasetError
from ppsolo.results.polygons import mask_polygons
from ppsolo.results.rle import encode_mask, mask_areas, mask_boxes, run_lengths

CLASS_NAMES = ("circle", "rectangle", "triangle")
CATEGORY_IDS = (1, 2, 3)
HUES = (15, 75, 135)  # middle hue of each class, out of 180: orange, green, blue
HUE_SPREAD = 28  # to either side

SHAPES = (2, 6)  # per scene, limits included
RADII = (0.16, 0.28)  # radii of shapes, as shares of the image's shorter side
TINY_RADIUS = 0.03
TINY_SHARE = 0.05  # share of the shapes
CROWD_SHARE = 0.1  # share of the scenes
LEAST_VISIBLE = 0.6  # visible share of a shape, under shapes painted later
PLACEMENTS = 20  # tries before a shape is given up
SUBPIXELS = 4


class Scene(NamedTuple):
    """A picture and its n visible objects, farthest first.

    image: uint8 [H, W, 3], RGB. masks: bool [n, H, W], visible pixels; a pixel belongs to at most one object.
    labels: int64 [n], index in CLASS_NAMES. crowds: bool [n], whether the mask covers many objects.
    """

    image: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    crowds: np.ndarray


class DrawnSplit(NamedTuple):
    """One part of a drawn data set: the annotation file and the folder of its images."""

    annotations: Path
    image_dir: Path


def draw_dataset(
    directory: str | os.PathLike, *, train: int, val: int, size: tuple[int, int] = (128, 160), seed: int = 0
) -> tuple[DrawnSplit, DrawnSplit]:
    """Draw `train` and `val` scenes. The same seed gives the same scenes; a larger number adds further ones.

    Writes DIRECTORY/train/000001.png .. and DIRECTORY/instances_train.json, and the same for val. Files appear whole,
    an annotation file after its images. Instances are polygons that give exactly their masks; crowds are run lengths.

    Raises DatasetError or ImageError if a file cannot be written.
    """
    return (
        _draw_split(Path(directory), "train", train, size, (seed, 0)),
        _draw_split(Path(directory), "val", val, size, (seed, 1)),
    )


def draw_scene(rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """Draw 2 to 6 shapes with random place, size, turn, colours and texture on a textured ground; fewer without room.

    Each class has its own outline and a third of all hues, so that a small network learns the classes in minutes;
    textures are the same for all. A shape hides parts of earlier ones, but at most two fifths of a shape. One shape in
    twenty is tiny. One scene in ten has a crowd at the very back: small shapes of one class, which may be hidden
    further.

    rng: the only source of random numbers. size: (height, width) in pixels; below about 64, shapes cannot be
    recognised.
    """
    layers = _arrange(rng, size)
    canvas = _ground(rng, size)
    for layer in layers:
        canvas = _paint(canvas, layer, rng)
    canvas += 4 * rng.standard_normal(canvas.shape, np.float32)
    masks = visible_masks(np.array([layer.mask for layer in layers], bool).reshape(-1, *size))
    seen = masks.any(axis=(1, 2))
    return Scene(
        image=np.ascontiguousarray(canvas.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)),
        masks=masks[seen],
        labels=np.array([layer.label for layer in layers], np.int64)[seen],
        crowds=np.array([layer.crowd for layer in layers], bool)[seen],
    )


def visible_masks(masks: np.ndarray) -> np.ndarray:
    """Remove pixels covered by later masks from masks painted one after another: bool [n, H, W] -> the same shape."""
    visible = masks.copy()
    covered = np.zeros(masks.shape[1:], bool)
    for index in reversed(range(len(masks))):
        visible[index] &= ~covered
        covered |= masks[index]
    return visible


class _Layer(NamedTuple):
    coverage: np.ndarray  # float32 [H, W], share of each pixel, 0 .. 1
    mask: np.ndarray  # bool [H, W], the pixels covered by half or more
    label: int
    crowd: bool


def _arrange(rng: np.random.Generator, size: tuple[int, int]) -> list[_Layer]:
    """Arrange the layers of a scene, the farthest first."""
    layers = [_crowd(rng, size)] if rng.uniform() < CROWD_SHARE else []
    for _ in range(rng.integers(SHAPES[0], SHAPES[1] + 1)):
        label = int(rng.integers(len(CLASS_NAMES)))
        radius = min(size) * (TINY_RADIUS if rng.uniform() < TINY_SHARE else rng.uniform(*RADII))
        for _ in range(PLACEMENTS):
            centre = rng.uniform(0.7 * radius, np.array(size) - 0.7 * radius)
            layer = _layer([_outline(rng, label, radius) + centre], size, label, crowd=False)
            if layer.mask.any() and _leaves_enough([*layers, layer]):
                layers.append(layer)
                break
    return layers


def _leaves_enough(layers: Sequence[_Layer]) -> bool:
    visible = visible_masks(np.stack([layer.mask for layer in layers]))
    return all(
        layer.crowd or seen.sum() >= LEAST_VISIBLE * layer.mask.sum()
        for layer, seen in zip(layers, visible, strict=True)
    )


def _crowd(rng: np.random.Generator, size: tuple[int, int]) -> _Layer:
    """Small shapes of one class, scattered over a patch."""
    label, short = int(rng.integers(len(CLASS_NAMES))), min(size)
    middle = rng.uniform(0.25, 0.75, 2) * size
    places = middle + rng.normal(0.0, 0.13 * short, (int(rng.integers(15, 31)), 2))
    return _layer([_outline(rng, label, 0.04 * short) + place for place in places], size, label, crowd=True)


def _outline(rng: np.random.Generator, label: int, radius: float) -> np.ndarray:
    """The corners of a shape around (0, 0), turned at random: float64 [corners, 2], (y, x) in pixels."""
    name = CLASS_NAMES[label]
    if name == "circle":
        angles = np.linspace(0.0, 2 * np.pi, 48, endpoint=False)
    elif name == "rectangle":
        half = rng.uniform(0.5, 0.8)  # half of the angle between the diagonals
        angles = np.array([half, np.pi - half, np.pi + half, -half])
    else:
        angles = 2 * np.pi * (np.arange(3) + rng.uniform(-0.08, 0.08, 3)) / 3
    angles += rng.uniform(0.0, 2 * np.pi)
    return radius * np.stack([np.sin(angles), np.cos(angles)], axis=1)


def _layer(outlines: Sequence[np.ndarray], size: tuple[int, int], label: int, *, crowd: bool) -> _Layer:
    height, width = size
    fine = np.zeros((height * SUBPIXELS, width * SUBPIXELS), np.uint8)
    for outline in outlines:
        corners = np.round(outline[:, ::-1] * SUBPIXELS).astype(np.int32)
        cv2.fillConvexPoly(fine, corners, 255)
    coverage = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return _Layer(coverage, coverage >= 0.5, label, crowd)


def _paint(canvas: np.ndarray, layer: _Layer, rng: np.random.Generator) -> np.ndarray:
    """Paint a textured layer with a soft shadow on the canvas, float32 [3, H, W]."""
    coverage = layer.coverage
    away = 0.02 * min(coverage.shape)
    move = np.array([[1, 0, away], [0, 1, away]], np.float32)
    shadow = cv2.GaussianBlur(cv2.warpAffine(coverage, move, coverage.shape[::-1]), (0, 0), max(away, 0.5))
    light, dark = _colors(rng, layer.label)
    pattern = _pattern(rng, coverage.shape)
    slope = 0.88 + 0.24 * _ramp(rng, coverage.shape)
    painted = (dark + (light - dark) * pattern) * slope
    below = canvas * (1 - 0.45 * shadow)
    return below + coverage * (painted - below)


def _colors(rng: np.random.Generator, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Two vivid colours for a texture, a light one and a darker one of nearly the same hue: float32 [3, 1, 1]."""
    hue, turn = HUES[label] + rng.uniform(-HUE_SPREAD, HUE_SPREAD), rng.uniform(-15, 15)
    value = rng.uniform(190, 255)
    hsv = [[hue, rng.uniform(130, 230), value], [hue + turn, rng.uniform(150, 255), value * rng.uniform(0.6, 0.85)]]
    pair = np.array([hsv]) % [180, 256, 256]
    light, dark = cv2.cvtColor(pair.astype(np.uint8), cv2.COLOR_HSV2RGB)[0].astype(np.float32)[:, :, None, None]
    return light, dark


def _pattern(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """Plain, striped, checked, dotted or mottled: float32 [H, W], 0 .. 1."""
    kind = int(rng.integers(5))
    if kind == 0:
        return np.full(size, rng.uniform(0.2, 1.0), np.float32)
    if kind == 1:
        return _mottle(rng, size, cells=14)
    period, angle = min(size) * rng.uniform(0.05, 0.12), rng.uniform(0.0, np.pi)
    y, x = (np.arange(side, dtype=np.float32) * np.float32(2 * np.pi / period) for side in size)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along, across = np.sin(sin * y[:, None] + cos * x), np.sin(cos * y[:, None] - sin * x)
    wave = (along, along * across * 2, along + across - 0.6)[kind - 2]
    return (0.5 + 1.5 * wave).clip(0, 1).astype(np.float32)


def _ground(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A dull cloudy ground with a weave and a gradient of light: float32 [3, H, W], 0 .. 255."""
    base = rng.uniform(90, 170) + rng.uniform(-22, 22, (3, 1, 1))
    clouds = np.stack([_mottle(rng, size, cells=4) for _ in range(3)]) - 0.5
    fine = _mottle(rng, size, cells=int(rng.integers(16, 40))) - 0.5
    weave = _pattern(rng, size) - 0.5
    light = _ramp(rng, size) - 0.5
    return (base + 40 * clouds + 30 * fine + 14 * weave + 40 * light).astype(np.float32)


def _mottle(rng: np.random.Generator, size: tuple[int, ...], *, cells: int) -> np.ndarray:
    """Smooth noise with so many cells along the shorter side: float32 [H, W], 0 .. 1."""
    rows, columns = (max(2, round(cells * side / min(size))) for side in size)
    coarse = rng.uniform(0.0, 1.0, (rows, columns)).astype(np.float32)
    return cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def _ramp(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """A gradient in a random direction: float32 [H, W], 0 .. 1."""
    angle = rng.uniform(0.0, 2 * np.pi)
    y, x = np.linspace(-1, 1, size[0])[:, None], np.linspace(-1, 1, size[1])
    return (0.5 + (np.sin(angle) * y + np.cos(angle) * x) / 2**1.5).astype(np.float32)


def _draw_split(directory: Path, name: str, scenes: int, size: tuple[int, int], seed: tuple[int, int]) -> DrawnSplit:
    split = DrawnSplit(directory / f"instances_{name}.json", directory / name)
    try:
        split.image_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(f"{split.image_dir}: cannot be created ({error.strerror}); choose another folder") from None
    images, annotations = [], []
    for image_id in range(1, scenes + 1):
        scene = draw_scene(np.random.default_rng((*seed, image_id)), size)
        file_name = f"{image_id:06d}.png"
        write_image(split.image_dir / file_name, scene.image)
        images.append({"id": image_id, "file_name": file_name, "height": size[0], "width": size[1]})
        annotations += _annotations(scene, image_id, first_id=len(annotations) + 1)
    categories = [{"id": identity, "name": name} for identity, name in zip(CATEGORY_IDS, CLASS_NAMES, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    try:
        with atomic_writer(split.annotations, "w") as stream:
            json.dump(content, stream)
    except OSError as error:
        raise DatasetError(f"{split.annotations}: cannot be written ({error.strerror})") from None
    return split


def _annotations(scene: Scene, image_id: int, *, first_id: int) -> list[dict[str, Any]]:
    rles = [encode_mask(mask) for mask in scene.masks]
    corners, areas = mask_boxes(rles), mask_areas(rles)
    entries = []
    for index, rle in enumerate(rles):
        x1, y1, x2, y2 = corners[index].tolist()
        crowd = bool(scene.crowds[index])
        entries.append(
            {
                "id": first_id + index,
                "image_id": image_id,
                "category_id": CATEGORY_IDS[scene.labels[index]],
                "segmentation": {"size": list(rle["size"]), "counts": run_lengths(rle).tolist()}
                if crowd
                else mask_polygons(rle, tolerance=0),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": int(areas[index]),
                "iscrowd": int(crowd),
            }
        )
    return entries
