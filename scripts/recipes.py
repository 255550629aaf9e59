"""Train by recipes that ppsolo chooses for small data sets, beside settings made by hand, and print a table."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
NUCLEI, PHOTOS = "dsb2018_360", "coco_permissive"
CLASSES = ("person", "bottle", "cup")  # of the photographs
SCENES = (160, 40)  # drawn to train on and to measure on
SEED = 0


class Case(NamedTuple):
    """A run. data: what it trains on. pictures: how many of them, None for all. start: what the network starts from."""

    data: str
    pictures: int | None
    start: str


CASES = {
    "shapes": Case("shapes", None, "random weights"),
    "nuclei-16": Case(NUCLEI, 16, "random weights"),
    "nuclei-32": Case(NUCLEI, 32, "random weights"),
    "nuclei-67": Case(NUCLEI, None, "random weights"),
    "nuclei-16-hand": Case(NUCLEI, 16, "configs/nuclei.yml"),
    "nuclei-32-hand": Case(NUCLEI, 32, "configs/nuclei.yml"),
    "nuclei-67-hand": Case(NUCLEI, None, "configs/nuclei.yml"),
    "photos": Case(PHOTOS, None, "random weights"),
    "photos-seeded": Case(PHOTOS, None, "a published system, weights from a seed"),
    "nuclei-16-seeded": Case(NUCLEI, 16, "a published system, weights from a seed"),
}


def annotation_files(data: Path, name: str) -> tuple[Path, Path, Path, Path]:
    """Training annotations and pictures, validation annotations and pictures."""
    if name == PHOTOS:
        parts = [(data / name / f"instances_{part}2017.json", data / name / f"{part}2017") for part in ("train", "val")]
    else:
        parts = [(data / name / f"instances_{part}.json", data / name / part) for part in ("train", "val")]
    return (*parts[0], *parts[1])


def reduced(content: dict[str, Any], pictures: int | None, classes: Iterable[str]) -> dict[str, Any]:
    """The first pictures of a COCO file; where classes are named, only these, on pictures that have one."""
    wanted = set(classes)
    categories = [one for one in content["categories"] if not wanted or one["name"] in wanted]
    ids = {one["id"] for one in categories}
    annotations = [one for one in content["annotations"] if one["category_id"] in ids]
    used = {one["image_id"] for one in annotations}
    images = [one for one in content["images"] if one["id"] in used][:pictures]
    kept = {one["id"] for one in images}
    return {
        "images": images,
        "categories": categories,
        "annotations": [one for one in annotations if one["image_id"] in kept],
    }


def prepare(case: Case, data: Path, folder: Path) -> tuple[dict[str, str], int]:
    """Write the annotation files of a case; returns the settings that name them, and the number of pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    if case.data == "shapes":
        from ppsolo.data.synthetic import draw_dataset

        draw_dataset(folder, train=SCENES[0], val=SCENES[1])
        files = annotation_files(folder.parent, folder.name)
    else:
        files = annotation_files(data, case.data)
    settings, count = {"data.root": str(folder)}, 0
    for part, annotations, pictures in (("train", *files[:2]), ("val", *files[2:])):
        content = json.loads(annotations.read_text(encoding="utf-8"))
        few = reduced(content, case.pictures if part == "train" else None, CLASSES if case.data == PHOTOS else ())
        (folder / f"{part}.json").write_text(json.dumps(few), encoding="utf-8")
        settings |= {f"data.{part}_annotations": f"{part}.json", f"data.{part}_images": str(pictures.resolve())}
        count = len(few["images"]) if part == "train" else count
    return settings, count


def seeded_weights(folder: Path) -> Path:
    """A file of the published system for CPUs, with weights that depend on a seed alone."""
    from ppsolo.checkpoint.writer import write_checkpoint
    from ppsolo.demo import seeded_model

    file = folder / "seeded.safetensors"
    write_checkpoint({name: value.numpy() for name, value in seeded_model(SEED).state_dict().items()}, file)
    return file


def command(name: str, case: Case, settings: dict[str, str], pictures: int, options: argparse.Namespace) -> list[str]:
    """The training command of a case."""
    from ppsolo.config import load_config
    from ppsolo.training.recipe import recipe_config, suggest_recipe

    settings = {**settings, "name": "run", "train.output_dir": str(options.work / name), "data.num_workers": "0"}
    settings |= {"train.seed": str(SEED), "train.pictures": "0"}
    written = [f"{key}={value}" for key, value in settings.items()]
    if case.start == "configs/nuclei.yml":
        hand = load_config(ROOT / case.start)
        epochs = round(hand.train.epochs * 67 / pictures * options.share)  # it was made for 67 pictures
        written += [f"train.epochs={epochs}", f"train.evaluate_every={epochs}", "train.batch_size=2"]
        return ["train", "-c", str(ROOT / case.start), "-o", *written]
    from_nothing = case.start == "random weights"
    if not from_nothing:
        written += [f"weights={seeded_weights(options.work / name)}"]
    chosen = recipe_config(suggest_recipe(None, written, from_nothing=from_nothing))
    epochs = max(1, round(chosen.train.epochs * options.share))
    written += [f"train.epochs={epochs}", f"train.evaluate_every={max(1, epochs // 2)}"]
    return ["train", "--recipe", "auto", *(["--from_nothing"] if from_nothing else []), "-o", *written]


def measure(name: str, options: argparse.Namespace) -> str:
    """Train one case and return its row of the table."""
    from ppsolo.training.run import LOW_AP_ADVICE

    case = CASES[name]
    settings, pictures = prepare(case, options.data, options.work / name / "data")
    arguments = command(name, case, settings, pictures, options)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "ppsolo", *arguments], env=environment, capture_output=True, text=True)
    (options.work / name / "output.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode != 0:
        return f"| {name} | failed: {options.work / name}/output.txt says why |"
    log = (options.work / name / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in log]
    steps = records[-1]["step"]
    step_seconds = [one["train/step_seconds"] for one in records if "train/step_seconds" in one]
    aps = [one["val/segm_AP"] for one in records if "val/segm_AP" in one]
    minutes = sum(step_seconds) / len(step_seconds) * steps / 60
    warned = "yes" if LOW_AP_ADVICE in done.stdout + done.stderr else ""
    settings_by = "by hand" if case.start.startswith("configs/") else "auto"
    start = "random weights" if settings_by == "by hand" else case.start
    return (
        f"| {name} | {settings_by} | {pictures} | {start} | {steps} | {minutes:.1f} | {100 * aps[-1]:.1f} | {warned} |"
    )


def main() -> int:
    """Run the cases one after the other; the exit code is 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--data", type=Path, required=True, help=f"the folder with {NUCLEI} and {PHOTOS}")
    parser.add_argument("--work", type=Path, required=True, help="a folder for data and runs, new or empty")
    parser.add_argument("--share", type=float, default=1.0, help="of each recipe's epochs; default: all of them")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    sys.path.insert(0, str(ROOT))
    head = (
        "| case | settings | pictures | start | steps | minutes of training | mask AP | says that it learned nothing |"
    )
    sys.stdout.write(f"{head}\n|{'---|' * 8}\n")
    failed = False
    for name in options.cases or CASES:
        row = measure(name, options)
        failed = failed or "failed:" in row
        sys.stdout.write(row + "\n")
        sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
