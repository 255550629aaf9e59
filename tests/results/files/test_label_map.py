"""PNG files of masks, read by Pillow."""

import io
import zipfile

import numpy as np
import pytest
from found import masks, three

from ppsolo.errors import PpsoloError
from ppsolo.results.instances import Instances


def many(number: int) -> Instances:
    masks = np.zeros((number, 20, 20), bool)
    for i in range(number):
        masks[i, i // 20, i % 20] = True
    return Instances.from_masks(
        masks, scores=np.ones(number), labels=np.zeros(number, int), class_names=["cell"], category_ids=[1]
    )


def test_values_are_the_numbers_of_instances():
    labels = three().to_label_map()
    assert labels.dtype == np.uint8
    assert np.array_equal(labels == 1, masks()[0]) and np.array_equal(labels == 2, masks()[1])
    assert labels.max() == 2


def test_the_best_score_wins_where_masks_overlap():
    masks = np.ones((3, 2, 2), bool)
    for scores, winner in [([0.1, 0.9, 0.5], 2), ([0.5, 0.5, 0.5], 1), ([0.2, 0.1, 0.3], 3)]:
        instances = Instances.from_masks(
            masks, scores=np.array(scores), labels=np.zeros(3, int), class_names=["a"], category_ids=[1]
        )
        assert (instances.to_label_map() == winner).all()


def test_pillow_reads_8_and_16_bits():
    image = pytest.importorskip("PIL.Image")
    for number, mode in ((255, "L"), (256, "I;16")):
        picture = image.open(io.BytesIO(many(number).to_bytes("label_map")))
        assert picture.mode == mode
        assert np.array_equal(np.asarray(picture), many(number).to_label_map())
        assert np.asarray(picture).max() == number


def test_one_picture_per_mask():
    image = pytest.importorskip("PIL.Image")
    archive = zipfile.ZipFile(io.BytesIO(three().to_bytes("masks")))
    assert archive.namelist() == ["0001_person.png", "0002_Würstchen.png"]
    for name, mask in zip(archive.namelist(), masks(), strict=False):
        picture = np.asarray(image.open(archive.open(name)))
        assert picture.dtype == np.uint8 and np.array_equal(picture, np.where(mask, 255, 0))


def test_names_that_files_cannot_have():
    instances = Instances.from_masks(
        np.ones((1, 2, 2), bool), scores=np.ones(1), labels=np.zeros(1, int), class_names=["../a:b"], category_ids=[1]
    )
    assert zipfile.ZipFile(io.BytesIO(instances.to_bytes("masks"))).namelist() == ["0001_-a-b.png"]


def test_more_than_16_bits_can_hold(monkeypatch):
    monkeypatch.setattr("ppsolo.results.files.label_map.MOST_LABELS", 3)
    with pytest.raises(PpsoloError, match="use masks or coco"):
        many(4).to_label_map()


@pytest.mark.parametrize("letter", ["\u5b57", "\ud800", "\U0001f600"])
def test_names_that_are_too_long_for_files(letter, tmp_path):
    found = Instances.from_masks(
        np.ones((1, 2, 2), bool),
        scores=np.ones(1),
        labels=np.zeros(1, int),
        class_names=[300 * letter],
        category_ids=[1],
    )
    (name,) = zipfile.ZipFile(io.BytesIO(found.to_bytes("masks"))).namelist()
    (tmp_path / name).touch()
