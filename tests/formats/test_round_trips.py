"""What we write is read again: counts, outlines, parts and holes, on made and on real pictures."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from truth import Comparison, Pictured, coco_truth, compare, made_truth

from ppsolo.formats.recognition import read_folder
from ppsolo.results.files.run import RunFiles

# Name of what is written -> name of the format that the folder is read as.
WRITTEN = {"labelme": "labelme", "yolo": "yolo", "label_map": "label_maps", "masks": "instance_masks"}
LEAST_IOU = 0.99


@pytest.fixture(params=WRITTEN)
def written(request) -> str:
    return request.param


def round_trip(truth: Sequence[Pictured], written: str, folder: Path) -> Comparison:
    """Write results next to the pictures, in the folders that other tools use, and read them again."""
    (folder / "images").mkdir(parents=True)
    pictures = [Pictured(folder / "images" / path.name, instances) for path, instances in truth]
    for (path, _), (copy, _) in zip(truth, pictures, strict=True):
        shutil.copyfile(path, copy)
    with RunFiles(folder, [written]) as files:
        for path, instances in pictures:
            files.add(instances.results(image_path=path), path.stem)
    if written == "yolo":
        (folder / "yolo" / "labels").rename(folder / "labels")
    return compare(truth, read_folder(folder), visible=written == "label_map")


def check(found: Comparison, written: str) -> None:
    assert found.counts[0] == found.counts[1] > 0
    assert found.worst >= (1.0 if written in ("label_map", "masks") else LEAST_IOU)
    assert found.classes_kept or written == "label_map"  # a label map names no class


def test_made_pictures(written, tmp_path):
    found = round_trip(made_truth(tmp_path), written, tmp_path / "set")
    check(found, written)
    assert found.parts > found.counts[0] and found.holes > 0


@pytest.mark.parametrize(
    ("name", "split", "annotations"),
    [
        ("dsb2018_360", "train", "instances_train.json"),
        ("dsb2018_360", "val", "instances_val.json"),
        ("coco_permissive", "train2017", "instances_train2017.json"),
        ("coco_permissive", "val2017", "instances_val2017.json"),
    ],
)
def test_real_pictures(data, written, tmp_path, name, split, annotations, record_property):
    truth = coco_truth(data / name / annotations, data / name / split)
    found = round_trip(truth, written, tmp_path / "set")
    record_property("comparison", found._asdict())
    check(found, written)
