"""labelme's files, opened by labelme itself."""

import json

import numpy as np
import pytest
from found import SIZE, masks, three

from ppsolo.data.images import write_image
from ppsolo.results.instances import Instances


def test_labelme_opens_them_and_finds_the_instances(tmp_path):
    label_file = pytest.importorskip("labelme._label_file")
    shape = pytest.importorskip("labelme.utils.shape")
    write_image(tmp_path / "a.png", np.zeros((*SIZE, 3), np.uint8))
    (tmp_path / "a.json").write_bytes(three().to_bytes("labelme", image_path=tmp_path / "a.png"))
    loaded = label_file.LabelFile(str(tmp_path / "a.json"))
    assert loaded.image_path == "a.png" and loaded.image_data == (tmp_path / "a.png").read_bytes()
    classes, instances = shape.shapes_to_label((*SIZE, 3), loaded.shapes, {"person": 1, "dog": 2, "Würstchen": 3})
    assert instances.max() == 2  # the parts of the second are one; the third is empty
    for number, mask in enumerate(masks()[:2], start=1):
        assert (instances == number)[mask].mean() > 0.9  # Pillow draws outlines half a pixel further
        assert classes[mask].max() == (1, 3)[number - 1]


def test_small_masks_are_exact_and_large_ones_have_few_points():
    rows, columns = np.ogrid[:400, :400]
    discs = np.stack([(rows - 200) ** 2 + (columns - 200) ** 2 < radius**2 for radius in (3, 150)])
    instances = Instances.from_masks(
        discs, scores=np.ones(2), labels=np.zeros(2, int), class_names=["disc"], category_ids=[1]
    )
    small, large = json.loads(instances.to_bytes("labelme"))["shapes"]
    assert len(small["points"]) == len(instances.polygons(0)[0][0]) // 2
    assert len(large["points"]) < len(instances.polygons(0)[1][0]) // 10
