"""The evaluator against pycocotools run over everything at once, and against what must hold for any numbers."""

import contextlib
import copy
import io
import json
import os
import pickle
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as pycocotools_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ppsolo.errors import DatasetError
from ppsolo.evaluation.coco_evaluator import IOU_TYPES, STAT_NAMES, CocoEvaluator, evaluate_results
from ppsolo.results.instances import Instances
from ppsolo.results.rle import encode_runs, read_segmentation

coco_mask: Any = pycocotools_mask  # its type stubs know only some of the forms that it takes

# pycocotools' compiled part and numpy 2 do not agree on a signature; nothing to do with the numbers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

IMAGE_IDS = [70, 3, 11, 52, 8, 1, 29, 33, 4]  # out of order, as in COCO
EMPTY_IMAGE, CROWD_IMAGE, CROWDED_IMAGE = 11, 52, 3
CATEGORY_IDS = [9, 2, 5, 7]  # the last has no ground truths


def size_of(image_id):
    return 100 + image_id, 130


def draw(rng, height, width, box=None):
    """A rectangle or an ellipse, bool [H, W], near `box` (top, left, height, width) if given; and its box."""
    if box is None:
        extent = rng.integers(4, 100, 2)
        box = (rng.integers(0, height - extent[0] + 1), rng.integers(0, width - extent[1] + 1), *extent)
    else:
        box = (*(np.array(box[:2]) + rng.integers(-3, 4, 2)), *(np.array(box[2:]) + rng.integers(-3, 4, 2)))
    top, left, tall, wide = (int(value) for value in box)
    y, x = np.mgrid[:height, :width]
    if rng.random() < 0.5:
        mask = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
    else:
        mask = ((y - top) / max(tall, 1) - 0.5) ** 2 + ((x - left) / max(wide, 1) - 0.5) ** 2 < 0.25
    return mask, (top, left, tall, wide)


def rle(mask):
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def made_up(seed):
    """A COCO annotation file with crowds, empty images, polygons and several classes, and results with ties."""
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    for image_id in IMAGE_IDS:
        height, width = size_of(image_id)
        truths = 0 if image_id == EMPTY_IMAGE else int(rng.integers(1, 8))
        for _ in range(truths):
            category = int(rng.choice(CATEGORY_IDS[:3]))
            mask, box = draw(rng, height, width)
            crowd = int(image_id == CROWD_IMAGE or rng.random() < 0.15)
            annotation = annotate(len(annotations) + 1, image_id, category, mask, crowd)
            if rng.random() < 0.3 and not crowd:
                x, y, w, h = annotation["bbox"]
                annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h]]
            annotations.append(annotation)
            results += [detect(rng, image_id, category, draw(rng, height, width, box)[0]) for _ in range(3)]
        for _ in range(130 if image_id == CROWDED_IMAGE else 4):  # more than the 100 that count
            category = 5 if image_id == CROWDED_IMAGE else int(rng.choice(CATEGORY_IDS))
            results.append(detect(rng, image_id, category, draw(rng, height, width)[0]))
    order = rng.permutation(len(results))
    return dataset(annotations), [results[i] for i in order]


def annotate(annotation_id, image_id, category, mask, crowd=0):
    encoded = rle(mask)
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category,
        "segmentation": encoded,
        "iscrowd": crowd,
        "area": float(coco_mask.area(encoded)),
        "bbox": coco_mask.toBbox(encoded).tolist(),
    }


def detect(rng, image_id, category, mask):
    score = float(rng.integers(1, 20)) / 20  # few values: many ties within and between images
    return {"image_id": image_id, "category_id": category, "segmentation": rle(mask), "score": score}


def dataset(annotations):
    images = [{"id": i, "height": size_of(i)[0], "width": size_of(i)[1]} for i in IMAGE_IDS]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k, "name": f"class {k}"} for k in CATEGORY_IDS],
    }


class SlowBoundaryEval(COCOeval):
    """pycocotools' evaluation with the IoU of Boundary AP, computed pixel by pixel on whole images."""

    dilation_ratio = 0.02

    def computeIoU(self, imgId, catId):
        private: Any = self
        detections = sorted(private._dts[imgId, catId], key=lambda entry: -entry["score"])[:100]
        truths = private._gts[imgId, catId]
        ious = np.zeros((len(detections), len(truths)))
        for d, detection in enumerate(detections):
            for g, truth in enumerate(truths):
                first = coco_mask.decode(detection["segmentation"]).astype(bool)
                second = coco_mask.decode(truth["segmentation"]).astype(bool)
                if truth["iscrowd"]:
                    ious[d, g] = (first & second).sum() / max(1, first.sum())
                else:
                    ious[d, g] = min(slow_iou(first, second), slow_iou(self.edge(first), self.edge(second)))
        return ious

    def edge(self, mask):
        height, width = mask.shape
        steps = max(1, round(self.dilation_ratio * (height**2 + width**2) ** 0.5))
        inside = mask
        for _ in range(steps):
            padded = np.pad(inside, 1)
            shifts = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
            inside = np.logical_and.reduce(shifts)
        return mask & ~inside


def slow_iou(first, second):
    return (first & second).sum() / max(1, (first | second).sum())


def at_once(truth, results, iou_type, *, image_ids=None, evaluation=COCOeval):
    """pycocotools over everything."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        found = coco.loadRes(copy.deepcopy(results))
        whole = evaluation(coco, found, "bbox" if iou_type == "bbox" else "segm")
        if image_ids is not None:
            whole.params.imgIds = image_ids
        whole.evaluate()
        whole.accumulate()
        whole.summarize()
    return whole


def one_by_one(evaluator, results, image_ids):
    for image_id in image_ids:
        evaluator.update([entry for entry in results if entry["image_id"] == image_id])


@pytest.fixture(scope="module")
def published():
    if "PPSOLO_DATA" not in os.environ:
        pytest.skip("set PPSOLO_DATA to the folder with cocoapi_fakesegm")
    return Path(os.environ["PPSOLO_DATA"]) / "cocoapi_fakesegm"


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
def test_the_numbers_of_the_coco_project_for_its_example(published, iou_type, capsys):
    expected = json.loads((published / "expected.json").read_text())
    files = expected["files"]
    report = evaluate_results(published / files["ground_truth"], published / files[iou_type])
    assert list(STAT_NAMES) == expected["order"] == report["stat_names"]
    # the file holds every digit; 1e-12 leaves room for another order of summation in another numpy
    np.testing.assert_allclose(report[iou_type]["stats"], expected[iou_type], rtol=0, atol=1e-12)
    assert (report["images"], report["ground_truths"], report["crowds"]) == (100, 830, 9)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
@pytest.mark.parametrize("seed", range(4))
def test_image_by_image_equals_all_at_once(seed, iou_type):
    truth, results = made_up(seed)
    evaluator = CocoEvaluator(truth, iou_types=[iou_type])
    one_by_one(evaluator, results, IMAGE_IDS[::-1])
    report = evaluator.summarize()

    whole = at_once(truth, results, iou_type)
    assert report[iou_type]["stats"] == whole.stats.tolist()
    with_truths = {a["image_id"] for a in truth["annotations"] if not a["iscrowd"]}
    assert not with_truths & {EMPTY_IMAGE, CROWD_IMAGE}
    annotated = at_once(truth, [e for e in results if e["image_id"] in with_truths], iou_type)
    assert report[iou_type]["stats_annotated"] == annotated.stats.tolist()
    assert report[iou_type]["stats_annotated"] != report[iou_type]["stats"]
    check_classes(report[iou_type]["per_class"], whole, truth)
    check_classes(report[iou_type]["per_class_annotated"], annotated, truth)
    assert (report["images"], report["annotated_images"]) == (len(IMAGE_IDS), len(with_truths))
    assert report["detections"] == len(results)
    json.dumps(report, allow_nan=False)


def check_classes(classes, whole, truth):
    assert [entry["id"] for entry in classes] == sorted(CATEGORY_IDS)
    for k, entry in enumerate(classes):
        assert entry["name"] == f"class {entry['id']}"
        same = [a for a in truth["annotations"] if a["category_id"] == entry["id"] and not a["iscrowd"]]
        assert entry["ground_truths"] == len(same)
        precision = whole.eval["precision"][:, :, k, 0, 2]
        if not same:
            assert (precision == -1).all()
            assert [entry[name] for name in ("AP", "AP50", "AP75", "AR100")] == [None] * 4
            continue
        assert [entry["AP"], entry["AP50"], entry["AP75"]] == [
            np.mean(precision),
            np.mean(precision[0]),
            np.mean(precision[5]),
        ]
        assert entry["AR100"] == np.mean(whole.eval["recall"][:, k, 0, 2])


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
@pytest.mark.parametrize("most", [20, 100, 500])
def test_more_or_fewer_detections_of_an_image_count(iou_type, most):
    truth, results = made_up(0)
    report = evaluate_results(truth, results, iou_types=[iou_type], max_detections=most)
    whole = at_once(truth, results, iou_type)
    whole.params.maxDets = [1, 10, most]
    with contextlib.redirect_stdout(io.StringIO()):
        whole.evaluate()
        whole.accumulate()
    precision, recall = whole.eval["precision"][..., 0, -1], whole.eval["recall"][..., 0, -1]
    assert report[iou_type]["stats"][0] == np.mean(precision[precision > -1])
    assert report[iou_type]["stats"][8] == np.mean(recall[recall > -1])
    pairs = Counter((entry["image_id"], entry["category_id"]) for entry in results)
    beyond = sum(max(count - most, 0) for count in pairs.values())
    assert (report["max_detections"], report["beyond_max_detections"]) == (most, beyond)
    assert (beyond > 0) == (most < 500)


@pytest.mark.parametrize("dilation_ratio", [0.02, 0.05])
def test_boundary_ap_equals_the_slow_way(dilation_ratio, monkeypatch):
    truth, results = made_up(5)
    results = [entry for entry in results if entry["image_id"] != CROWDED_IMAGE]
    monkeypatch.setattr(SlowBoundaryEval, "dilation_ratio", dilation_ratio)
    report = evaluate_results(truth, results, iou_types=["boundary"], dilation_ratio=dilation_ratio)
    whole = at_once(truth, results, "boundary", evaluation=SlowBoundaryEval)
    assert report["boundary"]["stats"] == whole.stats.tolist()
    segm = at_once(truth, results, "segm")
    assert 0 < whole.stats[0] < segm.stats[0]


def test_all_types_together_equal_each_alone():
    truth, results = made_up(6)
    together = evaluate_results(truth, results)
    for iou_type in IOU_TYPES:
        alone = evaluate_results(truth, results, iou_types=[iou_type])
        assert together[iou_type] == alone[iou_type]


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
def test_a_stated_box_counts_as_in_pycocotools(iou_type):
    truth, results = made_up(7)
    rng = np.random.default_rng(7)
    for entry in results:
        entry["bbox"] = (coco_mask.toBbox(entry["segmentation"]) * rng.uniform(0.9, 1.1, 4)).tolist()
    report = evaluate_results(truth, results, iou_types=[iou_type])
    assert report[iou_type]["stats"] == at_once(truth, results, iou_type).stats.tolist()

    from_masks = evaluate_results(truth, results, iou_types=[iou_type], box_from_mask=True)
    for entry in results:
        del entry["bbox"]
    without = evaluate_results(truth, results, iou_types=[iou_type])
    assert from_masks[iou_type] == without[iou_type] != report[iou_type]


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_shards_merge_to_the_whole(shards):
    truth, results = made_up(8)
    whole = evaluate_results(truth, results)
    images = [image_id for image_id in IMAGE_IDS if any(e["image_id"] == image_id for e in results)]
    order = np.random.default_rng(shards).permutation(images).tolist()
    states = []
    for shard in range(shards):
        evaluator = CocoEvaluator(truth)
        mine = order[shard::shards]
        padding = [] if mine[0] == order[0] else [order[0]]  # as a sampler fills its last batch
        one_by_one(evaluator, results, mine + padding)
        states.append(pickle.dumps(evaluator.state()))
    merged = CocoEvaluator(truth)
    merged.merge(pickle.loads(state) for state in states[::-1])
    report = merged.summarize()
    assert {key: report[key] for key in whole if key not in ("results", "skipped")} == {
        key: whole[key] for key in report if key != "skipped"
    }
    assert max(map(len, states)) < 40 * 3 * len(results) + 3000  # 32 bytes per row and type, and a frame


def test_states_of_other_settings_are_not_merged():
    truth, _ = made_up(8)
    evaluator = CocoEvaluator(truth)
    fewer = {**truth, "annotations": truth["annotations"][1:]}
    for other in (
        CocoEvaluator(fewer),
        CocoEvaluator(truth, dilation_ratio=0.03),
        CocoEvaluator(truth, max_detections=9),
    ):
        with pytest.raises(ValueError, match="different annotations or settings"):
            evaluator.merge([other.state()])


def test_threads_do_not_disturb_each_other():
    truth, results = made_up(9)
    evaluator = CocoEvaluator(truth)
    batches = [[entry for entry in results if entry["image_id"] == image_id] for image_id in IMAGE_IDS]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(evaluator.update, batches))
    report, whole = evaluator.summarize(), evaluate_results(truth, results)
    assert [report[name] for name in IOU_TYPES] == [whole[name] for name in IOU_TYPES]


def test_what_stays_does_not_grow_with_the_masks():
    truth, results = made_up(10)
    evaluator = CocoEvaluator(truth)
    evaluator.update(results)
    state = evaluator.state()
    for rows in state.matches.values():
        assert rows.itemsize == 32
        assert len(rows) < len(results)
        assert np.bincount(rows["image"]).max() < 130  # of the crowded image, no more than 100 of a class
    assert sys.getsizeof(state.images) + sys.getsizeof(state.detections) < 1000


@pytest.mark.parametrize("first_id", [0, 1])  # 0 is "no match" to pycocotools, but not to us
def test_perfect_results_score_one(first_id):
    truth, _ = made_up(11)
    for index, annotation in enumerate(truth["annotations"]):
        annotation["id"] = index + first_id
    good = [annotation for annotation in truth["annotations"] if not annotation["iscrowd"]]
    results = [
        {key: annotation[key] for key in ("image_id", "category_id", "segmentation")} | {"score": 0.5}
        for annotation in good
    ]
    report = evaluate_results(truth, results)
    for iou_type in ("segm", "boundary"):  # a triangle's box is not its annotated one
        stats = dict(zip(STAT_NAMES, report[iou_type]["stats"], strict=True))
        present = [value for name, value in stats.items() if value != -1 and name not in ("AR1", "AR10")]
        assert set(present) == {1.0}
        assert stats["AP"] == 1.0


def test_no_results_find_nothing():
    truth, _ = made_up(12)
    for report in (evaluate_results(truth, []), CocoEvaluator(truth).summarize()):
        for iou_type in IOU_TYPES:
            assert report[iou_type]["stats"][0] == 0
            assert set(report[iou_type]["stats"]) <= {0, -1}  # -1: no object of that size
            assert report[iou_type]["per_class"][0]["AP"] == 0
        assert (report["detections"], report["images_with_detections"]) == (0, 0)


def test_without_ground_truths_there_are_no_numbers():
    _, results = made_up(13)
    report = evaluate_results(dataset([]), results)
    for iou_type in IOU_TYPES:
        assert report[iou_type]["stats"] == report[iou_type]["stats_annotated"] == [-1.0] * 12
        assert {entry["AP"] for entry in report[iou_type]["per_class"]} == {None}


def test_only_chosen_images_count():
    truth, results = made_up(14)
    chosen = IMAGE_IDS[1:5]
    report = evaluate_results(truth, results, iou_types=["segm"], image_ids=chosen)
    assert report["segm"]["stats"] == at_once(truth, results, "segm", image_ids=chosen).stats.tolist()
    assert report["images"] == 4
    with pytest.raises(DatasetError, match="no image 999"):
        CocoEvaluator(truth, image_ids=[999])


def test_missing_fields_are_computed_from_the_mask():
    truth, results = made_up(15)
    masks = [a for a in truth["annotations"] if not isinstance(a["segmentation"], list) and not a["iscrowd"]]
    bare = [{key: a[key] for key in ("id", "image_id", "category_id", "segmentation")} for a in masks]
    assert evaluate_results(dataset(bare), results) == evaluate_results(dataset(masks), results)


def test_every_form_of_a_mask_counts_the_same():
    truth, results = made_up(16)
    other = copy.deepcopy(results)
    for index, entry in enumerate(other):
        segmentation = entry["segmentation"]
        if index % 2:
            segmentation["counts"] = segmentation["counts"].encode()
        else:
            flat = coco_mask.decode(segmentation).ravel(order="F")
            edges = np.flatnonzero(np.diff(flat, prepend=0))
            segmentation["counts"] = np.diff(np.concatenate(([0], edges, [flat.size]))).tolist()
    assert evaluate_results(truth, other) == evaluate_results(truth, results)


def test_the_arguments_are_left_alone():
    truth, results = made_up(17)
    before = copy.deepcopy((truth, results))
    evaluate_results(truth, results)
    assert (truth, results) == before


def test_an_image_comes_once_and_a_refused_update_leaves_nothing():
    truth, results = made_up(18)
    evaluator = CocoEvaluator(truth, iou_types=["segm"])
    one = [entry for entry in results if entry["image_id"] == 8]
    other = [entry for entry in results if entry["image_id"] == 4]
    evaluator.update(one)
    before = evaluator.summarize()
    with pytest.raises(DatasetError, match="image 8 was given before"):
        evaluator.update(other + one)
    with pytest.raises(DatasetError, match=r"result 1 \(image 4\): it has no finite 'score'"):
        evaluator.update([other[0], {**other[1], "score": float("nan")}])
    assert evaluator.summarize() == before


def test_results_without_masks_are_evaluated_as_boxes():
    truth, results = made_up(19)
    boxes = [
        {
            **{key: entry[key] for key in ("image_id", "category_id", "score")},
            "bbox": coco_mask.toBbox(entry["segmentation"]).tolist(),
        }
        for entry in results
    ]
    report = evaluate_results(truth, boxes)
    assert report["skipped"] == dict.fromkeys(["segm", "boundary"], "the results have no masks")
    assert "segm" not in report
    assert report["bbox"]["stats"] == at_once(truth, boxes, "bbox").stats.tolist()
    with pytest.raises(DatasetError, match=r"result 0 \(image \d+\): it has no 'segmentation'"):
        evaluate_results(truth, boxes, iou_types=["segm"])


def test_files_are_read_and_named_when_broken(tmp_path):
    truth, results = made_up(20)
    annotations, found = tmp_path / "annotations.json", tmp_path / "results.json"
    annotations.write_text(json.dumps(truth))
    found.write_text(json.dumps(results))
    report = evaluate_results(annotations, str(found))
    assert (report["annotations"], report["results"]) == (str(annotations), str(found))
    assert report["segm"] == evaluate_results(truth, results)["segm"]

    found.write_text(json.dumps({"results": results}))
    with pytest.raises(DatasetError, match=r"results\.json is not a COCO result file"):
        evaluate_results(annotations, found)
    found.write_text("[{")
    with pytest.raises(DatasetError, match=r"results\.json: not a JSON file"):
        evaluate_results(annotations, found)
    with pytest.raises(DatasetError, match=r"nowhere\.json: cannot be read"):
        evaluate_results(annotations, tmp_path / "nowhere.json")


def test_unknown_iou_types_are_refused():
    with pytest.raises(ValueError, match="iou_types"):
        CocoEvaluator(dataset([]), iou_types=["keypoints"])


def test_instances_count_as_their_entries_do():
    truth, results = made_up(0)
    whole, added = (CocoEvaluator(truth, box_from_mask=True) for _ in range(2))
    for image_id in IMAGE_IDS:
        entries = [entry for entry in results if entry["image_id"] == image_id]
        if not entries:
            continue
        whole.update([{key: value for key, value in entry.items() if key != "bbox"} for entry in entries])
        instances = Instances(
            rles=[read_segmentation(entry["segmentation"], size_of(image_id)) for entry in entries],
            scores=np.array([entry["score"] for entry in entries]),
            labels=np.array([CATEGORY_IDS.index(entry["category_id"]) for entry in entries]),
            size=size_of(image_id),
            class_names=[str(i) for i in CATEGORY_IDS],
            category_ids=CATEGORY_IDS,
        )
        added.add(image_id, instances)
        with pytest.raises(DatasetError, match="was given before"):
            added.add(image_id, instances)
        with pytest.raises(DatasetError, match="has no image 'none'"):
            added.add("none", instances)
    assert added.summarize() == whole.summarize() and 0 < added.summarize()["segm"]["stats"][0] < 1
    nothing = [{"size": [5, 5], "counts": encode_runs(np.array([20, 5]), (5, 5))["counts"]}]
    other = Instances(
        rles=nothing, scores=np.ones(1), labels=np.zeros(1, int), size=(5, 5), class_names=["9"], category_ids=[9]
    )
    with pytest.raises(DatasetError, match=r"has the size \(height, width\) \(5, 5\)"):
        CocoEvaluator(truth).add(image_id, other)


def test_only_what_was_found_must_be_known():
    truth = {**made_up(0)[0], "images": [{"id": 3}]}
    truth["annotations"] = []
    nothing = Instances(
        rles=[], scores=np.zeros(0), labels=np.zeros(0, int), size=(9, 9), class_names=["a", "b"], category_ids=[1, 2]
    )
    evaluator = CocoEvaluator(truth)
    evaluator.add(3, nothing)
    assert evaluator.summarize()["detections"] == 0
    truth["images"] = [{"id": 3, "height": 4, "width": 5}]
    mask = read_segmentation({"size": [4, 5], "counts": [3, 17]}, (4, 5))
    unknown = Instances(
        rles=[mask], scores=np.ones(1), labels=np.ones(1, int), size=(4, 5), class_names=["a", "b"], category_ids=[9, 6]
    )
    with pytest.raises(DatasetError, match="has no category 6"):
        CocoEvaluator(truth).add(3, unknown)
