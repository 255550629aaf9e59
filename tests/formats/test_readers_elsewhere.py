"""Other libraries read the data sets that import-data writes, and find the same objects."""

import numpy as np
import pytest
from truth import made_truth

from ppsolo.formats.dataset import write_dataset
from ppsolo.formats.recognition import read_folder
from ppsolo.formats.split import divide
from ppsolo.results.files.run import RunFiles

supervision = pytest.importorskip("supervision")


def test_supervision_reads_the_coco_data_set(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    truth = made_truth(source)
    for path, instances in truth:
        path.with_suffix(".json").write_bytes(instances.to_bytes("labelme", image_path=path))
    dataset = read_folder(source)
    write_dataset(divide(dataset.images, val_share=0.0), dataset.class_names, tmp_path / "out")
    read = supervision.DetectionDataset.from_coco(
        images_directory_path=str(tmp_path / "out" / "train"),
        annotations_path=str(tmp_path / "out" / "instances_train.json"),
        force_masks=True,
    )
    assert len(read) == len(truth) and set(read.classes) == {"cell", "Würstchen"}
    assert sum(len(detections) for _, _, detections in read) == sum(len(instances) for _, instances in truth)


def test_supervision_reads_the_yolo_labels(tmp_path):
    (tmp_path / "images").mkdir()
    truth = made_truth(tmp_path / "images")
    with RunFiles(tmp_path, ["yolo"]) as files:
        for path, instances in truth:
            files.add(instances.results(image_path=path), path.stem)
    read = supervision.DetectionDataset.from_yolo(
        images_directory_path=str(tmp_path / "images"),
        annotations_directory_path=str(tmp_path / "yolo" / "labels"),
        data_yaml_path=str(tmp_path / "yolo" / "data.yaml"),
        force_masks=True,
    )
    assert read.classes == ["cell", "Würstchen"]
    found = {path.rpartition("/")[2]: detections for path, _, detections in read}
    for path, instances in truth:
        # supervision fills polygons with their outline, half a pixel further.
        grown = found[path.name].mask.any(axis=0)
        assert grown[instances.masks.any(axis=0)].mean() > 0.98
        assert set(found[path.name].class_id) == set(np.unique(instances.labels))
