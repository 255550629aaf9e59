"""The report on a data set: severities, the JSON form, and a text that stays short."""

import json

import pytest
import yaml

from ppsolo.check.report import DataReport, LevelReport, SettingsReport, format_data_report
from ppsolo.data.annotations.findings import Findings

SETTINGS = SettingsReport((LevelReport(40, (1.0, 96.0), 400, 6), LevelReport(36, (48.0, 2048.0), 50, 0)), 5)


def report(findings: Findings, **changes) -> DataReport:
    values = {
        "annotations": "set.json",
        "image_dir": "images",
        "training_scale": (800, 1333),
        "images": 20,
        "instances": 420,
        "crowds": 1,
        "categories": ((3, "bolt", 400), (5, "nut", 20)),
        "sizes": (1.0, 2.0, 3.5, 40.0, 50.0, 60.0, 700.25),
        "given": SETTINGS,
        "suggested": SETTINGS,
        "problems": findings.problems(instances=420),
    }
    return DataReport(**{**values, **changes})


def test_order_and_severity():
    findings = Findings()
    assert report(findings).ok
    findings.add("crowd", 8)
    assert report(findings).ok
    findings.add("unused-category", 5)
    assert not report(findings).ok
    findings.add("missing-image", 2, "image 2: x.png")
    problems = report(findings).problems
    assert [(problem.kind, problem.severity, problem.ids) for problem in problems] == [
        ("missing-image", "error", (2,)),
        ("unused-category", "warning", (5,)),
        ("crowd", "note", (8,)),
    ]
    assert problems[0].details == ("image 2: x.png",)


@pytest.mark.parametrize("kind", ["tiny", "out-of-range", "collision"])
def test_matters_of_degree(kind):
    """A note up to 1 % of the instances, a warning above."""
    findings = Findings()
    for number in range(4):
        findings.add(kind, number)
    assert findings.problems(instances=400)[0].severity == "note"
    assert findings.problems(instances=399)[0].severity == "warning"


def test_unknown_kind():
    with pytest.raises(KeyError):
        Findings().add("colision", 3)


def test_json_holds_everything():
    findings = Findings()
    for number in range(500):
        findings.add("broken-polygon", number, f"annotation {number}: why")
    whole = report(findings).to_json()
    assert json.loads(json.dumps(whole, allow_nan=False)) == whole
    assert whole["ok"] is False
    assert whole["num_classes"] == 2
    assert whole["problems"][0]["ids"] == list(range(500))
    assert len(whole["problems"][0]["details"]) == 500
    assert whole["given"]["levels"][0] == {"num_grid": 40, "scale_range": [1.0, 96.0], "instances": 400, "lost": 6}
    assert report(Findings(), given=None, suggested=None, sizes=()).to_json()["suggested"] is None


def test_text():
    findings = Findings()
    for number in range(500):
        findings.add("broken-polygon", 1000 + number, f"annotation {1000 + number}: why")
    findings.add("unused-category", 7)
    findings.add("num-classes", detail="num_classes is 80, the file has 2 categories")
    text = format_data_report(report(findings))
    assert "images: 20, instances: 420, crowds: 1, categories: 2" in text
    assert "resized to a short side of 800 and a long side of at most 1333 pixels" in text and "100 %: 700" in text
    assert "settings suggested" not in text and "other grids would not lose fewer instances" in text
    assert "6 (1.5 %)" in text and "lost on all levels: 5 (1.2 %)" in text
    assert "(500 annotations: 1000, 1001, " in text and "1009 (and 490 more))" in text and "1010" not in text
    assert "annotation 1002: why" in text and "... 497 more" in text
    assert "(1 category: 7)" in text
    assert "num_classes is 80, the file has 2 categories" in text
    assert text.index("errors:") < text.index("warnings:") and "notes:" not in text
    assert text.endswith("there are problems")
    assert format_data_report(report(Findings())).endswith("nothing is wrong")
    bare = format_data_report(report(Findings(), given=None, suggested=None, sizes=()))
    assert "suggested" not in bare and "quantiles" not in bare


def test_settings_to_paste_are_yaml_for_a_configuration_and_only_what_improves():
    better = SettingsReport((LevelReport(44, (1.0, 90.0), 400, 0), LevelReport(40, (45.0, 2048.0), 50, 0)), 0)
    settings = report(Findings(), suggested=better, num_classes=80).settings_to_paste()
    assert yaml.safe_load(settings) == {
        "num_classes": 2,
        "model": {"head": {"num_grids": [44, 40]}},
        "train": {"targets": {"scale_ranges": [[1, 90], [45, 2048]]}},
    }
    assert report(Findings(), num_classes=2).settings_to_paste() == ""
    assert report(Findings(), num_classes=80).settings_to_paste() == "num_classes: 2"
    assert settings in format_data_report(report(Findings(), suggested=better, num_classes=80))


def test_what_is_to_be_mended_and_what_is_only_to_be_known():
    findings = Findings()
    findings.add("unused-category", 5)
    findings.add("flat-polygon", 8)
    assert not report(findings).faulty
    assert "the file is correct" in format_data_report(report(findings))
    findings.add("zero-area", 9)
    assert report(findings).faulty and format_data_report(report(findings)).endswith("there are problems")
