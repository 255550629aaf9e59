"""The cache of parsed annotation files: the same records, whole or not at all, and never a stale one."""

import dataclasses
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppsolo.data.annotations import cache
from ppsolo.data.annotations.cache import open_annotations
from ppsolo.data.annotations.reader import read_annotation_file
from ppsolo.data.annotations.table import Annotations
from ppsolo.data.coco import CocoDataset
from ppsolo.data.synthetic import draw_dataset
from ppsolo.errors import DatasetError


@pytest.fixture(autouse=True)
def every_file_is_large(monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "LEAST_BYTES", 0)
    monkeypatch.setenv("PPSOLO_ANNOTATIONS", str(tmp_path / "cache"))


@pytest.fixture
def file(tmp_path) -> Path:
    split, _ = draw_dataset(tmp_path, train=6, val=1, size=(48, 64))
    content = json.loads(Path(split.annotations).read_text())
    content["annotations"].append({**content["annotations"][0], "id": "a text", "bbox": None, "area": None})
    content["annotations"].append({**content["annotations"][0], "id": 10_001, "segmentation": []})
    Path(split.annotations).write_text(json.dumps(content))
    return Path(split.annotations)


def same(one: Annotations, other: Annotations) -> bool:
    for field in dataclasses.fields(Annotations):
        if field.name != "findings" and field.type in ("np.ndarray", np.ndarray):
            ours, theirs = getattr(one, field.name), getattr(other, field.name)
            assert ours.dtype == theirs.dtype and ours.tobytes() == theirs.tobytes(), field.name
    assert list(one.image_ids) == list(other.image_ids) and list(one.ids) == list(other.ids)
    assert list(map(one.file_names.__getitem__, range(len(one.file_names)))) == list(
        map(other.file_names.__getitem__, range(len(other.file_names)))
    )
    assert (one.category_ids, one.category_names) == (other.category_ids, other.category_names)
    return one.findings.to_json() == other.findings.to_json()


def entries(tmp_path) -> list[Path]:
    return [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_what_is_mapped_equals_what_was_read(file, tmp_path, monkeypatch):
    plain = read_annotation_file(file)
    first = open_annotations(file)
    assert same(first, plain)

    def never(path):
        raise AssertionError("parsed again")

    monkeypatch.setattr(cache, "read_annotation_file", never)
    second = open_annotations(file)
    assert same(second, plain) and second.findings.ids("no-outline") == (10_001,)
    base: Any = second.points
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    assert not second.points.flags.writeable
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [entries(tmp_path)[0].name]


def test_records_are_the_same_bit_for_bit(file, monkeypatch):
    open_annotations(file)
    mapped = CocoDataset(file, file.parent / "train", keep_empty=True)
    monkeypatch.setattr(cache, "LEAST_BYTES", 2**40)
    parsed = CocoDataset(file, file.parent / "train", keep_empty=True)
    assert mapped.digest() == parsed.digest() and len(mapped) == len(parsed) == 6
    for one, other in zip(mapped, parsed, strict=True):
        assert (one.image_id, one.path, one.size) == (other.image_id, other.path, other.size)
        assert one.annotation_ids == other.annotation_ids
        assert one.boxes.tobytes() == other.boxes.tobytes() and one.labels.tobytes() == other.labels.tobytes()
        for ours, theirs in zip((*one.outlines, *one.crowds), (*other.outlines, *other.crowds), strict=True):
            if isinstance(ours, tuple) and isinstance(theirs, tuple):
                assert [ring.tobytes() for ring in ours] == [ring.tobytes() for ring in theirs]
            else:
                assert ours == theirs


def test_a_changed_file_is_read_anew_even_at_the_same_size_and_time(file, tmp_path):
    open_annotations(file)
    (before,) = entries(tmp_path)
    times = file.stat()
    text = file.read_text()
    file.write_text(text.replace('"id": 1,', '"id": 7,', 1) if '"id": 1,' in text else text.replace("0.", "1.", 1))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file.stat().st_size == times.st_size
    assert same(open_annotations(file), read_annotation_file(file))
    (after,) = entries(tmp_path)  # the old one is gone
    assert after.name != before.name


@pytest.mark.parametrize("damage", ["gone", "cut", "no facts", "broken facts"])
def test_a_damaged_entry_is_made_anew(file, tmp_path, damage):
    plain = open_annotations(file)
    (entry,) = entries(tmp_path)
    if damage == "gone":
        (entry / "points.npy").unlink()
    elif damage == "cut":
        content = (entry / "points.npy").read_bytes()
        (entry / "points.npy").unlink()  # what is mapped stays whole
        (entry / "points.npy").write_bytes(content[: len(content) // 2])
    elif damage == "no facts":
        (entry / "facts.json").unlink()
    else:
        (entry / "facts.json").write_text("{")
    assert same(open_annotations(file), plain)
    assert same(open_annotations(file), plain)


def test_a_place_that_cannot_be_written(file, tmp_path, monkeypatch, caplog):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("PPSOLO_ANNOTATIONS", str(tmp_path / "a file" / "below"))
    with caplog.at_level("INFO"):
        assert same(open_annotations(file), read_annotation_file(file))
    assert "parsed into memory" in caplog.text


def test_a_full_disk_leaves_nothing_half_written(file, tmp_path, monkeypatch):
    def full(path, *arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert same(open_annotations(file), read_annotation_file(file))
    assert list((tmp_path / "cache").iterdir()) == []


def test_files_that_are_no_data_sets_leave_nothing(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DatasetError, match=r"bad\.json: not a JSON file"):
        open_annotations(tmp_path / "bad.json")
    with pytest.raises(DatasetError, match=r"gone\.json: cannot be read"):
        open_annotations(tmp_path / "gone.json")
    assert list((tmp_path / "cache").iterdir()) == []


def _open(path, folder, queue):
    cache.LEAST_BYTES = 0
    os.environ["PPSOLO_ANNOTATIONS"] = folder
    queue.put(open_annotations(path).points.tobytes())


def test_processes_that_open_at_once_all_get_the_whole(file, tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_open, args=(file, str(tmp_path / "cache"), queue)) for _ in range(4)]
    for process in processes:
        process.start()
    found = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert found == {read_annotation_file(file).points.tobytes()}
    assert len(entries(tmp_path)) == 1
