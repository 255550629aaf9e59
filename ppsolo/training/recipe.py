"""A configuration that fits a data set: the system to start from, picture size, grids, and length of training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ppsolo.atomic import temporary_folder
from ppsolo.check.grid_fit import GRID_CHOICES, fit_image, join_fits, suggest_num_grids
from ppsolo.config import load_config, split_override
from ppsolo.data.augment import Resize
from ppsolo.data.coco import CocoDataset, ImageRecord
from ppsolo.errors import DatasetError
from ppsolo.formats.data_config import data_in_place
from ppsolo.schema import Config, DataConfig
from ppsolo.text import all_counted, one_line
from ppsolo.yaml_text import dumped

COMPACT = "compact"  # a small network that learns from random weights
ON_CPU, ON_GPU = "solov2_mobilenetv3_fpn_448_3x", "solov2_r50_enhance_coco"
PRESET = "finetune"
NAME = "mine"

COMFORTABLE_SIZE = 64  # pixels of the median object; if it is smaller, larger pictures help
MOST_ENLARGED = 1.25  # beyond it, pictures get soft and steps slow
LARGEST_COMPACT = 448  # short side in training with the compact network, in pixels
SIDE_STEP = 32
SMALLEST_SIDE = 128
# Pictures seen in a run. The compact network reached 0.69 mask AP on 67 pictures of nuclei after 4,288.
LEAST_SEEN = {"nothing": 4288, "weights": 2400}
LEAST_EPOCHS = 12
EVALUATIONS = 8
IMAGES_PER_STEP = 2  # for small data sets: more steps teach more than larger batches
FEWEST_OF_A_CLASS, FEWEST_TO_TELL = 30, 100  # objects needed to compare widths and heights
ERRORS_OF_CHANCE = 3.0  # this many standard errors are not chance
RARE = 0.01  # share of the objects; a level below it keeps its grid
MEASURED_RECORDS = 300  # enough for the grids; more takes minutes

Start = Literal["weights", "nothing"]

_DECIDES = {  # a reason -> the keys that it explains
    "weights": {"weights"},
    "sizes": {"preprocess.short_side", "preprocess.long_side", "train.augment.short_sides", "train.augment.long_side"},
    "grids": {"model.head.num_grids"},
    "turn": {"train.augment.turn"},
    "epochs": {"train.epochs", "train.batch_size"},
}


class DataFacts(NamedTuple):
    """The properties of a data set that decide about its recipe.

    sides: medians of the short and the long side of the images, in pixels. object_sizes: float [n], sqrt(width *
    height) of the boxes in the original images, in pixels. upright: whether widths and heights of objects differ, as
    in pictures with a top and a bottom.
    """

    images: int
    classes: int
    sides: tuple[float, float]
    object_sizes: np.ndarray
    upright: bool


@dataclass(frozen=True)
class Recipe:
    """bases: names of shipped configurations, in order. settings: dotted key -> value. reasons: one line per key."""

    bases: tuple[str, ...]
    settings: Mapping[str, Any]
    reasons: Mapping[str, str]

    def text(self) -> str:
        """The recipe as a YAML file for `-c`, with the reasons as comments."""
        tree: dict[str, Any] = {}
        for key, value in self.settings.items():
            *sections, last = key.split(".")
            place = tree
            for section in sections:
                place = place.setdefault(section, {})
            place[last] = value
        comments = "".join(f"# {key}: {one_line(reason)}\n" for key, reason in self.reasons.items())
        return comments + dumped({"_BASE_": list(self.bases)}) + dumped(tree)


def suggest_recipe(
    config: str | Path | None,
    overrides: Sequence[str] = (),
    *,
    from_nothing: bool = False,
    processes: int = 1,
    gpu: bool = False,
) -> Recipe:
    """Return the recipe for the training images that the overrides or the configuration name.

    config: the name of a shipped configuration to start from, or a file, such as the config.yml of `ppsolo
    import-data`, whose data set and name are used and nothing else; with a file or None, the recipe chooses the system.
    overrides: "key=value" texts, as for `-o`; they win over the recipe. from_nothing: train the compact network from
    random weights. processes: number of processes in training. gpu: whether they train on GPUs.
    Raises PpsoloError.
    """
    of_file = config is not None and bool(Path(config).suffix)
    read = load_config(config or COMPACT, [text for text in overrides if text.startswith("data.")])
    given = dict(split_override(text) for text in overrides)
    name = str(given.get("name", read.name if of_file else NAME))
    output_dir = Path(str(given.get("train.output_dir", read.train.output_dir)))
    data = data_in_place(read.data, output_dir / name / "annotations", needed="train")
    root = Path(data.root)
    dataset = CocoDataset(
        root / data.train_annotations,
        root / data.train_images,
        box_convention=data.box_convention,
        keep_empty=data.keep_empty,
    )
    records = [dataset[index] for index in range(len(dataset))]
    recipe = make_recipe(
        records,
        dataset.class_names,
        start="nothing" if from_nothing else "weights",
        system=None if config is None or of_file else str(config),
        processes=processes,
        gpu=gpu,
    )
    own = {"name": name, "category_ids": list(dataset.category_ids), **_nested_keys(data), **given}
    reasons = {kind: text for kind, text in recipe.reasons.items() if not _DECIDES.get(kind, set()) & given.keys()}
    if of_file:
        reasons["data"] += f"; of {config} only the data set and the name are used"
    return Recipe(recipe.bases, {**recipe.settings, **own}, reasons)


def recipe_config(recipe: Recipe) -> Config:
    """Return the configuration that the recipe's text describes. Raises ConfigError."""
    with temporary_folder() as folder:
        file = folder / "recipe.yml"
        file.write_text(recipe.text(), encoding="utf-8")
        return load_config(file)


def _nested_keys(data: DataConfig) -> dict[str, Any]:
    """The paths of the data set by key; without a file of validation images there is no evaluation."""
    paths = {f"data.{key}": getattr(data, key) for key in ("root", "train_annotations", "train_images")}
    found = data.val_annotations and (Path(data.root) / data.val_annotations).is_file()
    return {
        **paths,
        "data.val_annotations": data.val_annotations if found else "",
        "data.val_images": data.val_images,
    }


def data_facts(records: Sequence[ImageRecord], *, classes: int) -> DataFacts:
    """Return the facts of the training images. Raises DatasetError if no image has an instance."""
    boxes = [record.boxes for record in records if len(record.boxes)]
    if not boxes:
        raise DatasetError("no image has an instance to train on: annotate some")
    joined = np.concatenate(boxes).astype(np.float64)
    extents = np.maximum(joined[:, 2:] - joined[:, :2], 0)
    sides = np.array([record.size for record in records])
    medians = float(np.median(sides.min(axis=1))), float(np.median(sides.max(axis=1)))
    labels = np.concatenate([record.labels for record in records if len(record.boxes)])
    sizes = np.sqrt(extents[:, 0] * extents[:, 1])
    return DataFacts(len(records), classes, medians, sizes, _upright(extents, labels))


def make_recipe(
    records: Sequence[ImageRecord],
    class_names: Sequence[str],
    *,
    start: Start = "weights",
    system: str | None = None,
    processes: int = 1,
    gpu: bool = False,
) -> Recipe:
    """Return the recipe for these training images.

    start: "weights" fine-tunes a published system, "nothing" trains the compact network from random weights.
    system: the shipped configuration to start from; None chooses one. processes: number of processes in training.
    """
    facts = data_facts(records, classes=len(class_names))
    if system is None:
        system = COMPACT if start == "nothing" else (ON_GPU if gpu else ON_CPU)
    base = load_config(system)
    settings: dict[str, Any] = {"num_classes": facts.classes, "class_names": list(class_names)}
    sizes = (facts.images, "image"), (len(facts.object_sizes), "object"), (facts.classes, "class")
    reasons = {"data": all_counted(*sizes)}
    if start == "weights":
        settings["weights"] = system
        reasons["weights"] = "a published system learns your classes; its class layer starts from random weights"
    _choose_sizes(base, facts, start, settings, reasons)
    _choose_grids(base, records, settings, reasons)
    _choose_length(base, facts, start, processes, settings, reasons)
    bases = (system,) if start == "nothing" else (system, PRESET)
    return Recipe(bases, settings, reasons)


def _upright(extents: np.ndarray, labels: np.ndarray) -> bool:
    """Whether pictures have a top and a bottom: in some class, width and height differ by more than chance.

    True, too, with too few objects to tell. extents: float [n, 2], (width, height). The mean of log(width / height) is
    compared with its standard error.
    """
    ratios = np.log((extents[:, 0] + 1) / (extents[:, 1] + 1))
    tested = [own for label in np.unique(labels) if len(own := ratios[labels == label]) >= FEWEST_OF_A_CLASS]
    if sum(map(len, tested)) < FEWEST_TO_TELL:
        return True
    return any(abs(own.mean()) > ERRORS_OF_CHANCE * own.std() / math.sqrt(len(own)) for own in tested)


def _choose_sizes(
    base: Config, facts: DataFacts, start: Start, settings: dict[str, Any], reasons: dict[str, str]
) -> None:
    """Choose the sizes of pictures in training and prediction."""
    if start == "weights":
        reasons["sizes"] = f"those of {base.name}, {base.preprocess.short_side} pixels: its weights learned this size"
        return
    median = float(np.median(facts.object_sizes))
    factor = min(max(COMFORTABLE_SIZE / max(median, 1.0), 1.0), MOST_ENLARGED)
    wanted = SIDE_STEP * round(facts.sides[0] * factor / SIDE_STEP)
    short = int(min(max(wanted, SMALLEST_SIDE), LARGEST_COMPACT))
    ratio = facts.sides[1] / facts.sides[0]
    long = SIDE_STEP * math.ceil(max(short * ratio, short * 1.4) / SIDE_STEP)
    settings["preprocess.short_side"], settings["preprocess.long_side"] = short, long
    steps = 3 if short >= 320 else 1
    settings["train.augment.short_sides"] = [short - SIDE_STEP * i for i in reversed(range(steps))]
    settings["train.augment.long_side"] = long
    reasons["sizes"] = (
        f"the median image has a short side of {facts.sides[0]:.0f} pixels, the median object a size of {median:.0f}"
    )


def _choose_grids(
    base: Config, records: Sequence[ImageRecord], settings: dict[str, Any], reasons: dict[str, str]
) -> None:
    """Choose grids that lose few objects to collisions at the training sizes."""
    short = settings.get("preprocess.short_side", max(base.train.augment.short_sides))
    long = settings.get("train.augment.long_side", base.train.augment.long_side)
    if "preprocess.short_side" in settings:
        factor = short / base.preprocess.short_side
        ranges = [[round(low * factor) or 1, round(high * factor)] for low, high in base.train.targets.scale_ranges]
        ranges[0][0], ranges[-1][1] = 1, 2048
        settings["train.targets.scale_ranges"] = ranges
    else:
        ranges = [list(bounds) for bounds in base.train.targets.scale_ranges]
    resize = Resize((short,), long, base.preprocess.round_sides, base.data.box_convention)
    chosen = [record for record in records if len(record.boxes)]
    if len(chosen) > MEASURED_RECORDS:
        order = np.random.default_rng(0).permutation(len(chosen))[:MEASURED_RECORDS]
        chosen = [chosen[index] for index in sorted(order)]
    tried = [grid for _ in ranges for grid in GRID_CHOICES]
    bounds = [(float(low), float(high)) for low, high in ranges for _ in GRID_CHOICES]
    fit = join_fits([fit_image(record, resize, num_grids=tried, scale_ranges=bounds) for record in chosen])
    shape = (len(fit.areas), len(ranges), len(GRID_CHOICES))
    enough = suggest_num_grids(fit.assigned.reshape(shape), fit.lost.reshape(shape))
    rare = fit.assigned.reshape(shape)[:, :, 0].mean(axis=0) < RARE
    own = base.model.head.num_grids
    grids = [grid if few else max(grid, wanted) for grid, wanted, few in zip(own, enough, rare, strict=True)]
    settings["model.head.num_grids"] = grids
    reasons["grids"] = f"those of {base.name}, enlarged where more than one object in a hundred would share a cell"


def _choose_length(
    base: Config, facts: DataFacts, start: Start, processes: int, settings: dict[str, Any], reasons: dict[str, str]
) -> None:
    """Choose batch size, epochs and evaluations."""
    batch = max(1, min(IMAGES_PER_STEP, facts.images) // processes)
    epochs = max(LEAST_EPOCHS, math.ceil(LEAST_SEEN[start] / facts.images))
    settings["train.augment.turn"] = not facts.upright
    reasons["turn"] = "objects are " + (
        "wider or higher by more than chance, or too few to tell: pictures are not turned"
        if facts.upright
        else "as often wide as high: pictures are also turned by 90 degrees"
    )
    settings["train.batch_size"] = batch
    settings["train.epochs"] = epochs
    settings["train.evaluate_every"] = max(1, epochs // EVALUATIONS)
    seen = epochs * facts.images
    reasons["epochs"] = (
        f"{epochs} epochs show {seen} images, {seen // (batch * processes)} steps of {batch * processes}"
    )
