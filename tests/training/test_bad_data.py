"""Data that training cannot use: one clear line with the file, the id and the remedy, and a full disk harms nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppsolo.check.dataset import check_dataset
from ppsolo.checkpoint.reader import read_checkpoint
from ppsolo.cli import main
from ppsolo.data.annotations.findings import KINDS as _KINDS
from ppsolo.data.synthetic import draw_dataset

ROOT = Path(__file__).parents[2]
SYSTEM = "solov2_r50_enhance_coco"
TRACE = "\nTraceback (most recent call last)"  # of Python; Paddle shows another one when the launcher ends it


def options(training, folder, **changes) -> list[str]:
    """Command-line arguments of a run in `folder`, on the data that lie there too."""
    values = {
        **training,
        "data.root": str(folder),
        "train.output_dir": str(folder / "runs"),
        "train.epochs": 1,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    return ["-c", SYSTEM, "-o", *(f"{key}={json.dumps(value)}" for key, value in values.items())]


@pytest.fixture
def folder(tmp_path):
    """A new data set for every test, because the test damages it."""
    draw_dataset(tmp_path, train=6, val=1, size=(48, 64))
    return tmp_path


class Data:
    """A drawn data set, the first instance and the first image of which can be changed."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / "instances_train.json"
        self.content = json.loads(self.path.read_text())
        self.image = self.content["images"][0]
        self.file = folder / "train" / self.image["file_name"]
        self.annotation = next(
            a for a in self.content["annotations"] if a["image_id"] == self.image["id"] and not a.get("iscrowd")
        )

    def write(self) -> None:
        self.path.write_text(json.dumps(self.content))


def set_annotation(key, value):
    return lambda data: data.annotation.update({key: value})


def set_image(key, value):
    return lambda data: data.image.update({key: value})


def no_annotations(data):
    data.content["annotations"] = []


def other_id(data):
    data.content["images"][1]["id"] = data.image["id"]


def turn(data):
    cv2.imwrite(str(data.file), np.zeros((64, 48, 3), np.uint8))


# Kind of error that check-data names: how it comes about, and what training has to say about it. "{a}" and "{i}" are
# the ids of annotation and image, "{f}" is the image's file name.
ERRORS = {
    "bad-id": (other_id, "'images' has the id {i} twice; give every entry its own"),
    "image-entry": (
        set_image("height", "tall"),
        "image {i}: needs a 'file_name', and integers above zero as 'height' and 'width'",
    ),
    "missing-image": (lambda data: data.file.unlink(), "image {i}: {f} does not exist; check the image folder"),
    "unreadable-image": (lambda data: data.file.write_bytes(b"no picture"), "image {i}: {f}: not an image"),
    "image-size": (turn, "image {i}: {f} is 64 x 48 (height x width), but its annotations are for 48 x 64; correct"),
    "unknown-image": (
        set_annotation("image_id", 99),
        "annotation {a} is for image 99, which is not among 'images'; add",
    ),
    "unknown-category": (
        set_annotation("category_id", 99),
        "annotation {a} of image {i}: category 99 is not among the file's categories; add",
    ),
    "bad-number": (
        set_annotation("bbox", [1, 2, 3, 1e300]),
        "annotation {a} of image {i}: bbox [1, 2, 3, 1e+300] is far outside the image; correct",
    ),
    "broken-polygon": (
        set_annotation("segmentation", [[1, 2, 3, 4, 5, 6, 7]]),
        "annotation {a} of image {i}: a polygon has 7 numbers",
    ),
    "broken-run-lengths": (
        set_annotation("segmentation", {"size": [48, 64], "counts": [5]}),
        "annotation {a} of image {i}: the run",
    ),
    "num-classes": (lambda data: data.content["categories"].append({"id": 98, "name": "cone"}), "set num_classes=4"),
    "nothing-to-train": (no_annotations, "no image has an instance to train on: annotate some"),
}
IN_THE_IMAGES = ("unreadable-image", "image-size")  # met when the image's turn comes, perhaps by a worker


def found(data: Data, *, num_classes: int = 3) -> set[str]:
    """The kinds of problems that check-data finds."""
    settings = {"short_side": 48, "long_side": 96, "num_grids": (8, 4), "scale_ranges": ((1, 32), (16, 2048))}
    report = check_dataset(data.path, data.folder / "train", num_classes=num_classes, **settings)
    return {problem.kind for problem in report.problems}


def test_what_check_data_warns_of_does_not_stop_training(training, folder, capsys, caplog):
    """All kinds at once; what is left out of training is named."""
    data = Data(folder)
    first, second, *_ = data.content["images"]
    square = {**data.annotation, "image_id": second["id"], "area": 400, "bbox": [10, 10, 20, 20]}
    square["segmentation"] = [[10, 10, 30, 10, 30, 30, 10, 30]]
    changes = [
        {"bbox": [10, 10, 0, 20]},
        {"segmentation": {"size": [48, 64], "counts": [48 * 64]}},
        {"bbox": [40, 20, 20, 20]},
        {"segmentation": [[40, 40, 41, 40, 41, 41, 40, 41]], "bbox": [40, 40, 1, 1]},
        {"segmentation": [[50, 40, 51, 40, 51, 41, 50, 41]], "bbox": [50, 40, 0.5, 0.5]},
        {},
        {},
        {"iscrowd": 1},
        {"segmentation": []},
        {"segmentation": [*square["segmentation"], [1, 1]]},
        {"segmentation": square["segmentation"][0]},
        {"bbox": [30, 30, -20, -20]},
        {"area": "400"},
        {"image_id": Path(second["file_name"]).stem},
    ]
    second["height"] = float(second["height"])
    second["file_name"] = f"other\\{second['file_name']}"
    kept = [a for a in data.content["annotations"] if a["image_id"] not in (first["id"], second["id"])]
    data.content["annotations"] = kept + [{**square, "id": 900 + i, **change} for i, change in enumerate(changes)]
    data.content["categories"].append({"id": 98, "name": "cone"})
    data.write()
    warnings = {kind for kind, (severity, _, _) in _KINDS.items() if severity != "error"}
    warnings.remove("tiles")  # said of large pictures alone
    assert found(data, num_classes=4) == warnings
    with caplog.at_level("WARNING"):
        assert main(["train", *options(training, folder, num_classes=4, train__batch_size=1)]) == 0
    assert f"{data.path}: zero-area: area or box of zero, left out of training" in caplog.text
    assert "(1 annotation: 900)" in caplog.text


def spoil(folder, kind: str) -> tuple[Data, str]:
    """-> the data, now with a defect, and a part of what is to be said about it."""
    data = Data(folder)
    change, message = ERRORS[kind]
    image_id = data.image["id"]
    change(data)
    data.write()
    return data, message.format(a=data.annotation["id"], i=image_id, f=data.file)


def only_line(error: str) -> str:
    """The one line about an error, without a trace."""
    (line,) = [line for line in error.splitlines() if "error" in line.lower()]
    assert TRACE not in error and line.startswith("ppsolo: error: ")
    return line


def test_every_kind_of_error_is_here():
    assert set(ERRORS) == {kind for kind, (severity, _, _) in _KINDS.items() if severity == "error"}


@pytest.mark.parametrize(("kind", "workers"), [*((kind, 0) for kind in ERRORS), *((kind, 2) for kind in IN_THE_IMAGES)])
def test_an_error_that_check_data_names_is_what_training_says(training, folder, capsys, kind, workers):
    data, message = spoil(folder, kind)
    assert kind in found(data)
    assert main(["train", *options(training, folder, data__num_workers=workers, train__batch_size=1)]) == 2
    line = only_line(capsys.readouterr().err)
    assert message in line
    assert str(data.file if kind in IN_THE_IMAGES else data.path) in line


@pytest.mark.parametrize("kind", IN_THE_IMAGES)
def test_two_processes_end_with_the_line_of_the_one_that_met_it(training, folder, kind, launch):
    _, message = spoil(folder, kind)
    log = folder / "log"
    arguments = options(training, folder, data__num_workers=1, train__batch_size=1)
    done = launch(ROOT / "scripts" / "train.py", *arguments, log=log)
    assert done.returncode != 0
    errors = [path.read_text() for path in sorted(log.glob("workerlog.*"))]
    (text,) = [text for text in errors if message in text]
    assert message in only_line(text)
    assert not any(TRACE in text for text in errors)


FULL = """
import resource, sys
from ppsolo.cli import main

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(["train", *sys.argv[2:]]))
"""


@pytest.mark.parametrize("fails", ["weights", "state"])
def test_a_full_disk_leaves_the_checkpoint_before(training, folder, fails):
    """A limit on file sizes stands for the full disk: writing fails in the middle of the file."""
    arguments = options(training, folder, train__checkpoint_steps=1)
    assert main(["train", *arguments]) == 0
    run = folder / "runs" / "tiny"
    states = sorted((run / "checkpoints").iterdir())
    kept = states if fails == "state" else [*states, run / "last.pdparams"]
    before = {path: path.read_bytes() for path in kept}
    limit = kept[-1].stat().st_size // 2
    more = options(training, folder, train__epochs=2, train__checkpoint_steps=1)
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(limit), *more, "-r", "auto"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    line = only_line(done.stderr)
    assert "cannot be written (File too large); check the folder and the space in it" in line
    assert ("last.pdparams" if fails == "weights" else ".safetensors") in line
    assert sorted((run / "checkpoints").iterdir()) == states
    assert all(path.read_bytes() == content for path, content in before.items())
    # With room again it goes on, and ends as it would have.
    assert main(["train", *more, "-r", "auto"]) == 0
    assert main(["train", *options(training, folder, name="other", train__epochs=2)]) == 0
    ours, theirs = (read_checkpoint(folder / "runs" / name / "last.pdparams") for name in ("tiny", "other"))
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours.keys() | theirs.keys())
