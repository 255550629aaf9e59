"""Identities in a video: stable on drawn motion, in results and in drawings."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from ppsolo.data.sources import Video
from ppsolo.data.videos import VideoWriter
from ppsolo.infer.settings import InferSettings
from ppsolo.infer.video import infer_video
from ppsolo.results.files.coco import coco_entries
from ppsolo.results.instances import Instances

pytest.importorskip("trackers")
from ppsolo.tracking import UNTRACKED, Tracker

SIZE = (120, 200)
NAMES = ("disc", "square")


def scene(boxes, labels, scores=None) -> Instances:
    """Rectangles x1, y1, x2, y2 as instances."""
    masks = np.zeros((len(boxes), *SIZE), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    scores = np.full(len(boxes), 0.9) if scores is None else np.array(scores)
    return Instances.from_masks(
        masks, scores=scores, labels=np.array(labels, int), class_names=NAMES, category_ids=(1, 2)
    )


def moving(frame: int):
    """Three objects: one to the right, one to the left on the same row but of another class, one downwards."""
    boxes = [
        (4 * frame, 10, 4 * frame + 30, 40),
        (150 - 4 * frame, 12, 180 - 4 * frame, 42),
        (90, 50 + frame, 110, 80 + frame),
    ]
    order = np.random.default_rng(frame).permutation(3)
    return [boxes[i] for i in order], [(0, 1, 0)[i] for i in order], order


def test_each_object_keeps_its_number_while_others_cross():
    tracker, seen = Tracker(frame_rate=25), {}
    for frame in range(30):
        boxes, labels, order = moving(frame)
        numbers = tracker.update(scene(boxes, labels))
        for who, number in zip(order.tolist(), numbers.tolist(), strict=True):
            if frame > 0:
                assert number > 0
                seen.setdefault(who, set()).add(number)
    assert [len(seen[who]) for who in range(3)] == [1, 1, 1]
    assert len(set.union(*seen.values())) == 3


def test_an_object_that_is_hidden_for_a_moment_comes_back_with_its_number():
    tracker = Tracker(frame_rate=25)
    before = [tracker.update(scene([(2 * i, 10, 2 * i + 40, 50)], [0])).tolist() for i in range(6)][-1]
    for _ in range(5):
        assert tracker.update(scene([], [])).shape == (0,)
    after = tracker.update(scene([(22, 10, 62, 50)], [0])).tolist()
    assert after == before and before[0] > 0


def test_weak_instances_start_nothing():
    tracker = Tracker(frame_rate=25)
    for _ in range(4):
        numbers = tracker.update(scene([(10, 10, 40, 40)], [0], [0.1]))
    assert numbers.tolist() == [UNTRACKED]


def test_a_video_has_numbers_in_results_and_drawings(tmp_path):
    with VideoWriter(tmp_path / "in.mp4", fps=25, size=SIZE) as writer:
        for _ in range(8):
            writer.write(np.full((*SIZE, 3), 90, np.uint8))
    frames = iter(range(100))

    def stream(batches):
        for batch in batches:
            yield [(key, image, scene(*moving(next(frames))[:2])) for key, image in batch]

    settings = InferSettings(tmp_path / "out", save=("coco", "csv"), track=True)
    predictor = SimpleNamespace(stream=stream)
    summary = infer_video(predictor, Video(tmp_path / "in.mp4", "in.mp4"), settings)
    assert summary.images == 8 and not summary.failures
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    numbers = [sorted(entry["track_id"] or 0 for entry in line["instances"]) for line in lines]
    assert numbers[0] == [0, 0, 0] and all(row == [1, 2, 3] for row in numbers[1:])
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {entry["track_id"] for entry in entries} == {None, 1, 2, 3}
    assert "track_id" in next((tmp_path / "out").glob("*.csv")).read_text().splitlines()[0]
    assert cv2.VideoCapture(str(tmp_path / "out" / "in.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 8


def test_an_object_keeps_its_colour_and_shows_its_number():
    image = np.zeros((*SIZE, 3), np.uint8)
    one, two = scene([(10, 10, 60, 60), (100, 10, 150, 60)], [0, 0]), scene([(100, 10, 150, 60)], [0])
    first = one.draw(image, track_ids=np.array([4, 9]), write_labels=False)
    second = two.draw(image, track_ids=np.array([9]), write_labels=False)
    np.testing.assert_array_equal(first[30, 120], second[30, 120])
    assert (first[30, 30] != first[30, 120]).any()
    plain, numbered = two.draw(image), two.draw(image, track_ids=np.array([9]))
    assert (plain != numbered).any()
    assert "track_id" not in coco_entries(two.results())[0]
