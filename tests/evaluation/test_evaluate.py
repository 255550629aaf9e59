"""Evaluation of a predictor: the numbers of pycocotools, whoever sees which image."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from oracle import Oracle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ppsolo.checkpoint.zoo import zoo_entry
from ppsolo.config import load_config
from ppsolo.data.coco import CocoDataset
from ppsolo.errors import ConfigError, DatasetError, ImageError
from ppsolo.evaluation.evaluate import EvaluationSet, compare_with_published, evaluate, with_classes, write_results
from ppsolo.processes import Processes
from ppsolo.training.run import training_classes


@pytest.fixture(scope="module")
def dataset(drawn) -> EvaluationSet:
    return EvaluationSet(drawn / "instances_train.json", drawn / "train")


def test_the_numbers_are_those_of_pycocotools(dataset, tmp_path):
    evaluation = evaluate(Oracle(dataset, shift=2), dataset, batch_size=2, keep_results=True)
    write_results(evaluation.results, tmp_path / "new" / "predictions.json")
    truth = COCO(str(dataset.source))
    for kind in ("segm", "bbox"):
        found = json.loads((tmp_path / "new" / "predictions.json").read_text())
        theirs = COCOeval(truth, truth.loadRes(found), kind)
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
        np.testing.assert_array_equal(evaluation.report[kind]["stats"], theirs.stats)
        assert 0.05 < evaluation.report[kind]["stats"][0] < 1
    assert evaluation.report["annotations"] == str(dataset.source)
    assert "boundary" in evaluation.report


def test_the_truth_itself_has_full_marks(dataset):
    report = evaluate(Oracle(dataset, shift=0), dataset).report
    assert [report[kind]["stats"][0] for kind in ("segm", "bbox", "boundary")] == [1, 1, 1]


class Sender(Processes):
    """A process that keeps what it has to send."""

    def gather(self, value):
        self.sent.append(value)
        return [value] * (self.rank + 1)


class Receiver(Processes):
    """The process 0; what the others send was made before."""

    def gather(self, value):
        return [value, *(sent.pop(0) for sent in self.sent)]


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_shares_merge_to_the_whole(dataset, world_size):
    """9 images, so that not all shares are equal."""
    whole = evaluate(Oracle(dataset, shift=2), dataset, keep_results=True)
    sent = [[] for _ in range(1, world_size)]
    for rank, kept in enumerate(sent, start=1):
        sender = Sender(rank=rank, world_size=world_size)
        object.__setattr__(sender, "sent", kept)
        evaluate(Oracle(dataset, shift=2), dataset, keep_results=True, processes=sender)
    receiver = Receiver(rank=0, world_size=world_size)
    object.__setattr__(receiver, "sent", sent)
    merged = evaluate(Oracle(dataset, shift=2), dataset, keep_results=True, processes=receiver)
    assert merged.report == whole.report
    assert merged.results == whole.results


def test_progress_counts_images(dataset):
    calls = []
    evaluate(Oracle(dataset, shift=0), dataset, batch_size=4, progress=lambda *call: calls.append(call))
    assert calls == [(4, 9), (8, 9), (9, 9)]


def test_an_image_that_cannot_be_read_ends_it(drawn, tmp_path):
    (tmp_path / "train").mkdir()
    for path in (drawn / "train").iterdir():
        (tmp_path / "train" / path.name).write_bytes(path.read_bytes())
    whole = EvaluationSet(drawn / "instances_train.json", drawn / "train")
    dataset = EvaluationSet(drawn / "instances_train.json", tmp_path / "train")
    dataset.images[4][1].write_bytes(b"no picture")
    with pytest.raises(ImageError, match=dataset.images[4][1].name):
        evaluate(Oracle(whole, shift=0), dataset)


def test_broken_sets_are_refused(tmp_path, drawn):
    with pytest.raises(DatasetError, match=r"gone\.json"):
        EvaluationSet(tmp_path / "gone.json", tmp_path)
    with pytest.raises(DatasetError, match=r"does not exist; check the image folder"):
        EvaluationSet(drawn / "instances_train.json", tmp_path)
    (tmp_path / "empty.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    with pytest.raises(DatasetError, match="no images to evaluate on"):
        EvaluationSet(tmp_path / "empty.json", tmp_path)


def classes(config, ids, names):
    return with_classes(config, category_ids=ids, class_names=names, source="x.json")


def test_classes_are_filled_in_or_refused():
    three = load_config("solov2_r50_fpn_1x", {"num_classes": 3})
    filled = classes(three, (7, 3, 5), ("a", "b", "c"))
    assert (filled.category_ids, filled.class_names) == ((7, 3, 5), ("a", "b", "c"))
    assert classes(filled, (3, 5, 7), ("b", "c", "a")) == filled
    assert classes(three, (1, 2, 3), ("a", "a", "b")).class_names == ("a 1", "a 2", "b 3")
    with pytest.raises(ConfigError, match=r"x\.json has 2 categories \(a, b\), .* 3 classes: set num_classes=2"):
        classes(three, (1, 2), ("a", "b"))
    with pytest.raises(ConfigError, match="has no category 7"):
        classes(filled, (1, 2, 3), ("a", "b", "c"))


@pytest.fixture
def turned_round(drawn, tmp_path) -> Path:
    """The drawn training part with its categories from the last to the first: ids 3, 2, 1."""
    content = json.loads((drawn / "instances_train.json").read_text())
    content["categories"].reverse()
    (tmp_path / "turned.json").write_text(json.dumps(content))
    return tmp_path / "turned.json"


def test_labels_follow_the_order_of_the_file(turned_round, drawn, caplog):
    """As in PaddleDetection, which numbers what pycocotools' getCatIds gives: labels 0, 1, 2 are the ids 3, 2, 1."""
    truth = COCO(str(turned_round))
    paths = {"data.root": "/", "data.train_annotations": str(turned_round), "data.train_images": str(drawn / "train")}
    trained = CocoDataset(turned_round, drawn / "train")
    with caplog.at_level(logging.WARNING):
        config = training_classes(load_config("solov2_r50_fpn_1x", {**paths, "num_classes": 3}), trained)
    assert config.category_ids == tuple(truth.getCatIds()) == (3, 2, 1)
    assert config.class_names == ("triangle", "rectangle", "circle")
    assert "labels 0, 1, ... are the categories 3, 2, 1: the order of the file" in caplog.text
    for record in (trained[index] for index in range(len(trained))):
        ids = [truth.anns[identity]["category_id"] for identity in record.annotation_ids]
        assert [config.category_ids[label] for label in record.labels] == ids

    caplog.clear()
    dataset = EvaluationSet(turned_round, drawn / "train")
    names = {"category_ids": dataset.category_ids, "class_names": dataset.class_names, "source": dataset.source}
    with caplog.at_level(logging.WARNING):
        config = with_classes(load_config("solov2_r50_fpn_1x", {"num_classes": 3}), **names)
    assert config.category_ids == (3, 2, 1)
    assert "are the categories 3, 2, 1: the order of the file" in caplog.text
    evaluation = evaluate(Oracle(dataset, shift=0), dataset, keep_results=True)
    assert evaluation.report["segm"]["stats"][0] == 1
    theirs = COCOeval(truth, truth.loadRes(evaluation.results), "segm")
    theirs.evaluate()
    theirs.accumulate()
    theirs.summarize()
    assert theirs.stats[0] == 1


def test_coco_keeps_its_published_order():
    coco = load_config("solov2_r50_fpn_1x")
    from ppsolo.data.classes import default_category_ids

    ids = default_category_ids(80)
    assert classes(coco, ids[::-1], tuple(map(str, ids[::-1]))).category_ids == ids


@pytest.mark.parametrize(("measured", "agrees"), [(0.356, True), (0.3579, True), (0.3539, False), (0.0, False)])
def test_published_numbers_are_met_or_not(measured, agrees):
    line, answer = compare_with_published(
        zoo_entry("solov2_r50_fpn_1x"), {"segm": {"stats": [0.5], "stats_annotated": [measured]}}
    )
    assert (
        answer is agrees and "35.6" in line and f"measured {100 * measured:.1f} ({100 * measured - 35.6:+.2f})" in line
    )


def test_tiles(drawn, tiny, tmp_path, capsys):
    """`eval --tile` predicts tile by tile; PaddleDetection's flags mean the same."""
    from ppsolo import build_model, save_weights
    from ppsolo.cli import main

    config = load_config("solov2_r50_fpn_1x", {**tiny, "num_classes": 3})
    save_weights(build_model(config), tmp_path / "w.pdparams")
    changes = {**tiny, "num_classes": 3, "weights": str(tmp_path / "w.pdparams"), "data.root": str(drawn)}
    changes |= {"data.val_annotations": "instances_val.json", "data.val_images": "val"}
    model = ["-c", "solov2_r50_fpn_1x", "-o", *(f"{key}={value}" for key, value in changes.items())]
    for flags in (["--tile", "32", "--overlap", "8"], ["--slice_infer", "--slice_size", "32"]):
        assert main(["eval", *model, *flags]) == 0
        assert "tiles of 32 pixels, overlap 8" in capsys.readouterr().out
