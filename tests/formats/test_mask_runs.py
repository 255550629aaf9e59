"""Run lengths of masks against masks drawn one by one, and their cost."""

import tracemalloc

import cv2
import numpy as np
import pytest

from ppsolo.errors import DatasetError
from ppsolo.formats import mask_files, mask_runs, pascal_voc
from ppsolo.formats.annotated import mask_segmentation, united
from ppsolo.formats.mask_runs import box_segmentation, label_segmentations
from ppsolo.formats.recognition import read_folder
from ppsolo.results.rle import decode_mask, encode_edges, read_segmentation


@pytest.mark.parametrize("values", [1, 2, 3, 50, 2**40])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (7, 5), (13, 13)])
def test_masks_of_a_label_map(values, shape):
    labels = np.random.default_rng(values).integers(0, values, shape)
    masks = {int(value): mask_segmentation(labels == value) for value in np.unique(labels) if value > 0}
    assert label_segmentations(labels) == masks and list(label_segmentations(labels)) == sorted(masks)
    assert label_segmentations(labels + 1)[int(labels.min()) + 1] == mask_segmentation(labels == labels.min())


@pytest.mark.parametrize("box", [(0, 0), (1, 2), (7, 5), (20, 1)])
@pytest.mark.parametrize(("top", "left"), [(0, 0), (2, 3), (-2, -1), (5, 0), (0, 5), (-30, 0), (9, 0)])
def test_a_mask_in_a_box(box, top, left):
    size, chance = (9, 6), np.random.default_rng(0)
    for share in (0.5, 1.0):
        inside = chance.random(box) < share
        whole = np.zeros((99, 99), bool)
        whole[40 : 40 + box[0], 40 : 40 + box[1]] = inside
        rows, columns = (np.clip(np.arange(side) - at + 40, 0, 98) for side, at in zip(size, (top, left), strict=True))
        assert box_segmentation(inside, top, left, size) == mask_segmentation(whole[np.ix_(rows, columns)])


def test_a_box_far_outside_is_empty():
    assert box_segmentation(np.ones((2, 2), bool), 10**30, -(10**30), (9, 6)) == mask_segmentation(
        np.zeros((9, 6), bool)
    )


def test_parts_are_joined_like_drawn_ones():
    size, ring = (9, 8), [1.0, 1.0, 6.0, 1.0, 6.0, 7.0]
    box = box_segmentation(np.ones((3, 4), bool), 4, 2, size)
    drawn = decode_mask(read_segmentation([ring], size)) | decode_mask(read_segmentation(box, size))
    assert united([[ring], box], size) == mask_segmentation(drawn)


def test_a_small_mask_of_a_large_picture_takes_no_memory_of_its_size():
    tracemalloc.start()
    try:
        mask = box_segmentation(np.ones((2, 2), bool), 5, 5, (16384, 16384))
        united([mask, [[1.0, 1.0, 6.0, 1.0, 6.0, 7.0]]], (16384, 16384))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def save(path, image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


def test_maps_of_many_objects_are_read_in_one_pass(tmp_path, monkeypatch):
    """One comparison of the whole map for each object took minutes for a file of 400 kB."""
    passes = []
    one_pass = mask_runs.label_segmentations
    for module in (mask_files, pascal_voc):
        monkeypatch.setattr(module, "label_segmentations", lambda labels: passes.append(1) or one_pass(labels))
    blank = np.zeros((64, 64, 3), np.uint8)
    save(tmp_path / "maps" / "images" / "a.png", blank)
    save(tmp_path / "maps" / "masks" / "a.png", np.arange(4096, dtype=np.uint16).reshape(64, 64))
    assert len(read_folder(tmp_path / "maps").images[0].objects) == 4095 and passes == [1]
    dots = np.zeros((64, 64), np.uint8)
    dots[::2, ::2] = 1
    save(tmp_path / "maps" / "masks" / "a.png", dots)
    assert len(read_folder(tmp_path / "maps").images[0].objects) == 1024 and passes == [1, 1]
    monkeypatch.setattr(mask_files, "_WIDEST_MASK", 1000)
    with pytest.raises(DatasetError, match="1024 separate parts"):
        read_folder(tmp_path / "maps")


def test_the_class_of_an_object_is_the_most_frequent_one_below_it(tmp_path):
    objects, kinds = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    objects[:, :4], objects[:, 4:, 2], objects[0] = 128, 128, 0
    objects[7] = (192, 224, 224)
    kinds[:3], kinds[3:] = (0, 0, 128), (0, 128, 0)
    kinds[:, 6:] = 0
    save(tmp_path / "JPEGImages" / "a.png", objects)
    save(tmp_path / "SegmentationObject" / "a.png", objects)
    save(tmp_path / "SegmentationClass" / "a.png", kinds)
    (image,) = read_folder(tmp_path, "voc").images
    assert [one.name for one in image.objects] == ["bicycle", "bicycle"]
    left = np.zeros((8, 8), bool)
    left[1:7, :4] = True
    assert image.objects[1].segmentation == mask_segmentation(left)
    assert encode_edges(np.zeros(0, np.int64), (8, 8)) == read_segmentation(mask_segmentation(~(left | ~left)), (8, 8))
