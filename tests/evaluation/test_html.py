"""The HTML report: figures equal the JSON's and pycocotools', nothing is loaded from elsewhere, names are escaped."""

import json
import re
import shutil
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from oracle import Oracle

from ppsolo.config import load_config, override_config
from ppsolo.data.synthetic import draw_dataset
from ppsolo.errors import ConfigError
from ppsolo.evaluation.analysis import analyze, calibration, f1_curve
from ppsolo.evaluation.evaluate import EvaluationSet, evaluate
from ppsolo.evaluation.html import check_packages, write_html
from ppsolo.results.fonts import has_letters

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A drawn set, its evaluation by shifted truth, and the configuration; a class has a name to escape."""
    folder = tmp_path_factory.mktemp("drawn")
    _, split = draw_dataset(folder, train=1, val=5, seed=3)
    content = json.loads(split.annotations.read_text())
    content["categories"][0]["name"] = "<b>circle</b>"
    split.annotations.write_text(json.dumps(content))
    dataset = EvaluationSet(split.annotations, split.image_dir)
    data = {"data.root": ".", "data.val_annotations": str(split.annotations), "data.val_images": str(split.image_dir)}
    config = load_config("demo", data)
    return evaluate(Oracle(dataset, 4, size=dataset.truth.size(0)), dataset, keep_results=True), dataset, config


def test_the_page_says_what_the_json_says(evaluated, tmp_path):
    evaluation, _, config = evaluated
    written = write_html(evaluation, config, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == json.loads(json.dumps(written))
    page = (tmp_path / "index.html").read_text()
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]
    for kind in ("segm", "bbox", "boundary"):
        values = ["-" if value < 0 else f"{100 * value:.1f}" for value in report[kind]["stats"]]
        assert [kind, *values] in rows
    for one, best in zip(report["segm"]["per_class"], report["analysis"]["thresholds"], strict=True):
        row = next(row for row in rows if row and row[0] == one["name"].replace("<", "&lt;").replace(">", "&gt;"))
        assert row[2] == f"{100 * one['AP']:.1f}" and row[6] == f"{best['threshold']:.2f}"
    assert "<b>circle" not in page
    shown = re.findall(r"quality ([\d.]+), (\d+) found, (\d+) false, (\d+) missed", page)
    pictures = report["analysis"]["pictures"]
    expected = {(f"{100 * p['quality']:.1f}", str(p["found"]), str(p["false"]), str(p["missed"])) for p in pictures}
    assert set(shown) == expected


def test_charts_draw_names_in_any_script_that_a_font_has(evaluated, tmp_path):
    evaluation, _, config = evaluated
    name = next((name for name in ("细胞核", "セル") if has_letters(name)), None)
    if name is None:
        pytest.skip("no font of this machine has Chinese or Japanese letters")
    content = json.loads(Path(config.data.val_annotations).read_text())
    content["categories"][0]["name"] = name
    renamed = tmp_path / "renamed.json"
    renamed.write_text(json.dumps(content))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*Glyph.*")  # what matplotlib says of a letter without a sign
        write_html(evaluation, override_config(config, {"data.val_annotations": str(renamed)}), tmp_path / "page")
    assert (tmp_path / "page" / "index.html").is_file()


def test_the_page_loads_nothing_from_elsewhere(evaluated, tmp_path):
    evaluation, _, config = evaluated
    write_html(evaluation, config, tmp_path)
    page = (tmp_path / "index.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,12})', page)
    assert len(sources) > 10 and all(source.startswith("data:") for source in sources)
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "report.json"}


def test_curves_agree_with_average_precision(evaluated):
    evaluation, dataset, _ = evaluated
    numbers = analyze(evaluation, dataset).numbers
    stats = evaluation.report["segm"]["stats"]
    curves = numbers["precision_recall"]
    found = [np.mean(curves[name]) for name in ("0.50:0.95", "0.50", "0.75")]
    np.testing.assert_allclose(found, stats[:3], atol=1e-9)
    if numbers["tide"] is not None:
        assert numbers["tide"]["ap50"] == pytest.approx(stats[1], abs=1e-6)
    matrix = np.array(numbers["confusion"]["matrix"])
    assert matrix[:-1].sum() == evaluation.report["ground_truths"]  # each is found as something, or missed
    sizes = numbers["recall_by_size"]
    assert sum(one["ground_truths"] for one in sizes) == evaluation.report["ground_truths"]


def test_f1_and_calibration_count_as_one_would_by_hand(evaluated):
    evaluation, dataset, _ = evaluated
    matches = evaluation.matches["segm"]
    true = (matches["matched"][:, 0, 0] & 128) > 0
    counted = (matches["ignored"][:, 0, 0] & 128) == 0
    scores, true = matches["score"][counted], true[counted]
    truths = int((~dataset.truth.crowd).sum())
    curve = f1_curve(matches, truths)
    for place in (0, 40, 70, 100):
        taken = scores >= curve["score"][place]
        assert curve["f1"][place] == pytest.approx(2 * true[taken].sum() / (taken.sum() + truths))
    bins = calibration(matches)["bins"]
    assert sum(one["count"] for one in bins) == len(scores)
    inside = (scores >= 0.5) & (scores < 0.6)
    assert bins[5]["count"] == inside.sum()
    if inside.any():
        assert bins[5]["precision"] == pytest.approx(true[inside].mean())


def test_without_matplotlib_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'ppsolo\[report\]'"):
        check_packages()


@pytest.mark.parametrize(
    "change",
    [
        {"categories": {"name": "\ud800"}},
        {"categories": {"name": 1.0}},
        {"categories": {"name": " "}},
        {"categories": {"name": "n" * 1_000_000}},
        {"annotations": {"id": "a"}},
        {"annotations": {"bbox": "1 2 3 4"}},
        {"images": {"coco_url": "\udcff"}},
    ],
    ids=lambda change: repr(change)[:40],
)
def test_what_the_reader_accepts_is_drawn(evaluated, tmp_path, change):
    """hotcoco, which computes one chart, refuses some of it."""
    evaluation, _, config = evaluated
    content = json.loads(Path(config.data.val_annotations).read_text())
    for part, values in change.items():
        content[part][0].update(values)
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(content))
    start = time.monotonic()
    write_html(evaluation, override_config(config, {"data.val_annotations": str(changed)}), tmp_path / "page")
    assert (tmp_path / "page" / "index.html").is_file() and time.monotonic() - start < 30


def test_file_names_need_not_be_utf_8(evaluated, tmp_path):
    evaluation, _, config = evaluated
    content = json.loads(Path(config.data.val_annotations).read_text())
    shutil.copytree(config.data.val_images, tmp_path / "images")
    for image in content["images"]:
        old = tmp_path / "images" / image["file_name"]
        image["file_name"] = f"\udcff{old.name}"
        old.rename(old.with_name(image["file_name"]))
    (tmp_path / "renamed.json").write_text(json.dumps(content))
    data = {"data.val_annotations": str(tmp_path / "renamed.json"), "data.val_images": str(tmp_path / "images")}
    write_html(evaluation, override_config(config, data), tmp_path / "page")
    assert "\\udcff" in (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
