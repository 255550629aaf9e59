"""Bulk runs lose nothing and double nothing, however they end."""

import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest
from busy import busy_model

from ppsolo import ConfigError, Predictor, load_config
from ppsolo.bulk import parts
from ppsolo.bulk.manifest import Shard, manifest_path, read_manifest
from ppsolo.bulk.merge import merge
from ppsolo.bulk.parts import read_part
from ppsolo.bulk.run import run_bulk
from ppsolo.config import override_config
from ppsolo.data.images import write_image
from ppsolo.data.tiles import Tiling
from ppsolo.pipeline import TiledPipeline


@pytest.fixture(scope="module")
def predictor(tiny):

    config = load_config("solov2_r50_fpn_1x", {**tiny, "postprocess.max_instances": 5})
    model = busy_model(config)
    return Predictor(config, model=model)


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[str]:
    """23 pictures, of which the sixth cannot be read."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(23):
        image = np.random.default_rng(number).integers(0, 256, (40 + number, 60, 3), np.uint8)
        write_image(folder / f"{number:02d}.png", image)
    (folder / "05.png").write_bytes(b"no picture")
    return [str(folder / f"{number:02d}.png") for number in range(23)]


@pytest.fixture(scope="module")
def expected(predictor, paths, tmp_path_factory) -> str:
    """The lines of one run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    summary = run_bulk(predictor, iter(paths), folder, part_pictures=4)
    assert (summary.pictures, summary.failures, summary.stopped) == (22, 1, False)
    assert "05.png" in summary.examples[0]
    assert merge([folder], folder / "all.jsonl") == (22, summary.instances)
    return (folder / "all.jsonl").read_text()


def test_lines_are_coco_results_with_names(predictor, paths, expected):
    entries = [json.loads(line) for line in expected.splitlines()]
    assert {entry["image_id"] for entry in entries} <= set(range(23)) - {5}
    first = [entry for entry in entries if entry["image_id"] == 7]
    found = predictor(paths[7])
    assert [entry["score"] for entry in first] == [entry["score"] for entry in found.to_coco(7)]
    assert all(entry["file_name"] == paths[7] for entry in first)


def test_failures_are_kept_beside_the_parts(predictor, paths, tmp_path):
    run_bulk(predictor, paths, tmp_path, part_pictures=4)
    (line,) = [line for file in tmp_path.glob("failures-*") for line in file.read_text().splitlines()]
    assert json.loads(line)["image_id"] == 5 and "05.png" in json.loads(line)["file_name"]


@pytest.mark.parametrize("after", [1, 2, 3, 7, 22])
def test_a_run_that_is_stopped_goes_on(predictor, paths, expected, tmp_path, after):
    asked = iter(range(1, 1000))
    summary = run_bulk(predictor, paths, tmp_path, part_pictures=4, stop=lambda: next(asked) >= after)
    assert summary.stopped and summary.pictures + summary.failures == after
    assert not read_manifest(manifest_path(tmp_path, Shard())).whole
    with pytest.raises(ConfigError, match="is not finished"):
        merge([tmp_path], tmp_path / "all.jsonl")
    with pytest.raises(ConfigError, match="add --resume"):
        run_bulk(predictor, paths, tmp_path, part_pictures=4)
    again = run_bulk(predictor, paths, tmp_path, part_pictures=4, resume=True)
    assert (again.skipped, again.pictures + again.failures) == (after, 23 - after)
    merge([tmp_path], tmp_path / "all.jsonl")
    assert (tmp_path / "all.jsonl").read_text() == expected


def test_a_part_without_a_line_in_the_manifest_is_made_again(predictor, paths, expected, tmp_path):
    """As after a kill between the two."""
    asked = iter(range(1, 1000))
    run_bulk(predictor, paths, tmp_path, part_pictures=4, stop=lambda: next(asked) >= 8)
    (tmp_path / "part-1of1-000002.jsonl").write_text("half a part")
    run_bulk(predictor, paths, tmp_path, part_pictures=4, resume=True)
    merge([tmp_path], tmp_path / "all.jsonl")
    assert (tmp_path / "all.jsonl").read_text() == expected


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_shards_give_the_run(predictor, paths, expected, tmp_path, format, suffix):
    if "parquet" in (format, suffix.removeprefix(".")):
        pytest.importorskip("pyarrow")
    for index in range(8):
        run_bulk(predictor, paths, tmp_path, format=format, shard=Shard(index, 8), part_pictures=2)
    output = tmp_path / f"all{suffix}"
    pictures, instances = merge([tmp_path], output)
    lines = expected.splitlines()
    assert (pictures, instances) == (22, len(lines))
    if suffix == ".jsonl":
        assert output.read_text() == expected
    elif suffix == ".json":
        assert json.loads(output.read_text()) == [json.loads(line) for line in lines]
    else:
        assert list(read_part(output, "parquet")) == [json.loads(line) for line in lines]


def test_parquet_is_merged_step_by_step(predictor, paths, expected, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(parts, "ROWS", 10)
    run_bulk(predictor, paths, tmp_path)
    _, instances = merge([tmp_path], tmp_path / "all.parquet")
    assert parquet.ParquetFile(tmp_path / "all.parquet").num_row_groups == -(-instances // 10) > 1
    assert list(read_part(tmp_path / "all.parquet", "parquet")) == [json.loads(line) for line in expected.splitlines()]


def test_what_is_not_the_same_run_is_refused(predictor, paths, tmp_path):
    asked = iter(range(1, 1000))
    run_bulk(predictor, paths, tmp_path, part_pictures=4, stop=lambda: next(asked) >= 6)
    with pytest.raises(ConfigError, match="other pictures"):
        run_bulk(predictor, paths[1:], tmp_path, resume=True)
    with pytest.raises(ConfigError, match="another format"):
        run_bulk(predictor, paths, tmp_path, format="parquet", resume=True)
    with pytest.raises(ConfigError, match="other shards"):
        run_bulk(predictor, paths, tmp_path, shard=Shard(0, 2), resume=True)
    manifest_path(tmp_path, Shard()).write_text("{}")
    with pytest.raises(ConfigError, match="not a manifest"):
        run_bulk(predictor, paths, tmp_path, resume=True)


@pytest.mark.parametrize("setting", ["tiles", "postprocess", "preprocess", "classes", "weights"])
def test_a_run_with_other_settings_is_refused(predictor, paths, tmp_path, setting):
    asked = iter(range(1, 1000))
    run_bulk(predictor, paths, tmp_path / "a", part_pictures=4, shard=Shard(0, 2), stop=lambda: next(asked) >= 6)
    changes = {"postprocess": "postprocess.class_thresholds=[0.5,0.5,0.5]", "preprocess": "preprocess.short_side=96"}
    changes |= {"classes": "class_names=[a,b,c]"}
    if setting == "tiles":
        other = TiledPipeline(predictor, Tiling(32, 8))
    elif setting == "weights":
        other = copy.copy(predictor)
        other.identity = "another export"
        manifest = read_manifest(manifest_path(tmp_path / "a", Shard(0, 2)))
        manifest.settings["weights"] = "an export"
        manifest.write(tmp_path / "a")
    else:
        other = predictor.adapted(override_config(predictor.config, [changes[setting]]))
    with pytest.raises(ConfigError, match=f"another setting: {setting}"):
        run_bulk(other, paths, tmp_path / "a", shard=Shard(0, 2), resume=True)
    run_bulk(other, paths[:6], tmp_path / "b", shard=Shard(1, 2))
    with pytest.raises(ConfigError, match=f"another setting than 1of2: {setting}"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all.jsonl", partial=True)


def test_a_manifest_without_settings_is_resumed(predictor, paths, expected, tmp_path):
    run_bulk(predictor, paths[:8], tmp_path, part_pictures=4)
    file = manifest_path(tmp_path, Shard())
    content = json.loads(file.read_text())
    del content["settings"]
    file.write_text(json.dumps(content))
    run_bulk(predictor, paths, tmp_path, part_pictures=4, resume=True)
    merge([tmp_path], tmp_path / "all.jsonl")
    assert (tmp_path / "all.jsonl").read_text() == expected


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("first", [0, 6, 8, 22, 23])
def test_a_list_that_has_grown_is_predicted_to_its_end(predictor, paths, expected, tmp_path, first, count):
    for index in range(count):
        run_bulk(predictor, paths[:first], tmp_path, part_pictures=4, shard=Shard(index, count))
    for index in range(count):
        shard = Shard(index, count)
        summary = run_bulk(predictor, paths, tmp_path, part_pictures=4, shard=shard, resume=True)
        assert summary.skipped == len(paths[:first][index::count])
        assert summary.pictures + summary.failures == len(paths[index::count]) - summary.skipped
    merge([tmp_path], tmp_path / "all.jsonl")
    assert (tmp_path / "all.jsonl").read_text() == expected


@pytest.mark.parametrize("lost", [(0,), (1, 3), (5,)])
def test_parts_that_are_missing_are_made_again(predictor, paths, expected, tmp_path, lost):
    run_bulk(predictor, paths, tmp_path, part_pictures=4)
    for number in lost:
        (tmp_path / f"part-1of1-{number:06d}.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"cannot be read .*; remove it, then add --resume"):
        merge([tmp_path], tmp_path / "all.jsonl")
    stopped = run_bulk(predictor, paths, tmp_path, part_pictures=4, resume=True, stop=lambda: True)
    assert stopped.stopped and not (tmp_path / f"part-1of1-{lost[-1]:06d}.jsonl").exists()
    summary = run_bulk(predictor, paths, tmp_path, part_pictures=4, resume=True)
    assert summary.pictures + summary.failures == sum(len(paths[4 * number : 4 * number + 4]) for number in lost)
    assert summary.skipped + summary.pictures + summary.failures == 23
    merge([tmp_path], tmp_path / "all.jsonl")
    assert (tmp_path / "all.jsonl").read_text() == expected


def test_merging_refuses_what_is_not_whole(predictor, paths, tmp_path):
    run_bulk(predictor, paths, tmp_path / "a", shard=Shard(0, 2))
    with pytest.raises(ConfigError, match="shard 2 of 2 is missing"):
        merge([tmp_path / "a"], tmp_path / "all.jsonl")
    assert merge([tmp_path / "a"], tmp_path / "all.jsonl", partial=True)[0] == 12
    with pytest.raises(ConfigError, match=r"is also in"):
        merge([tmp_path / "a", tmp_path / "a"], tmp_path / "all.jsonl")
    with pytest.raises(ConfigError, match="choose a name that ends with one of"):
        merge([tmp_path / "a"], tmp_path / "all.txt")
    with pytest.raises(ConfigError, match="has no bulk run"):
        merge([Path("/")], tmp_path / "all.jsonl")


def test_an_empty_list_and_a_list_that_ends_with_a_part(predictor, paths, tmp_path):
    assert run_bulk(predictor, [], tmp_path / "none").pictures == 0
    assert merge([tmp_path / "none"], tmp_path / "none.json") == (0, 0)
    assert json.loads((tmp_path / "none.json").read_text()) == []
    run_bulk(predictor, paths[:4], tmp_path / "four", part_pictures=4)
    assert read_manifest(manifest_path(tmp_path / "four", Shard())).whole


def test_the_list_is_read_as_it_is_needed(predictor, paths, tmp_path):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield paths[0]

    asked = iter(range(1, 1000))
    run_bulk(predictor, endless(), tmp_path, stop=lambda: next(asked) >= 5)
    assert len(taken) < 20


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_file_name_that_is_no_unicode(predictor, paths, tmp_path, format):
    """Linux allows any bytes in a name; the results write such bytes out."""
    if format == "parquet":
        pytest.importorskip("pyarrow")
    odd = tmp_path / "a\udcff.png"
    odd.write_bytes(Path(paths[0]).read_bytes())
    broken = tmp_path / "b\udcff.png"
    broken.write_bytes(b"no picture")
    out = tmp_path / "out"
    summary = run_bulk(predictor, [str(odd), str(broken)], out, format=format)
    assert (summary.pictures, summary.failures) == (1, 1) and summary.instances > 0
    for suffix in ("json", "jsonl", "parquet"):
        assert merge([out], tmp_path / f"all.{suffix}") == (1, summary.instances)
    names = {
        entry["file_name"].encode("utf-8", "backslashreplace") for entry in read_part(tmp_path / "all.jsonl", "jsonl")
    }
    assert names == {os.fsencode(tmp_path) + b"/a\\udcff.png"}


def test_a_shard_of_very_many_is_missing(predictor, paths, tmp_path):
    run_bulk(predictor, paths[:2], tmp_path, shard=Shard(0, 10**9))
    with pytest.raises(ConfigError, match="shard 2 of 1000000000 is missing"):
        merge([tmp_path], tmp_path / "all.json")
