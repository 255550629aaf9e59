"""Pictures divided: by the source, by a seed, by groups."""

from pathlib import Path

import pytest

from ppsolo.errors import DatasetError
from ppsolo.formats.annotated import AnnotatedImage
from ppsolo.formats.split import divide, read_groups


def images(number: int, split: str = "", groups: int = 0) -> list[AnnotatedImage]:
    return [
        AnnotatedImage(Path(f"{split}{i}.png"), (4, 4), (), split, f"g{i % groups}" if groups else "")
        for i in range(number)
    ]


def test_every_fifth_by_a_seed():
    some = images(20)
    parts = divide(some)
    assert list(parts) == ["train", "val"] and len(parts["val"]) == 4
    assert sorted(parts["train"] + parts["val"], key=some.index) == some
    assert divide(some) == parts != divide(some, seed=1)


def test_the_source_decides_unless_asked_otherwise():
    some = [*images(4, "train"), *images(2, "val"), *images(3, "test")]
    parts = divide(some)
    assert [len(part) for part in parts.values()] == [4, 2, 3] and list(parts) == ["train", "val", "test"]
    parts = divide(some, val_share=0.5)
    assert [len(part) for part in parts.values()] == [3, 3, 3]
    assert all(image.split == "test" for image in parts["test"])
    assert len(divide(some, val_share=0.0)["val"]) == 0


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_together(seed):
    parts = divide(images(30, groups=6), seed=seed)
    assert len(parts["val"]) == 5
    assert not {image.group for image in parts["train"]} & {image.group for image in parts["val"]}
    groups = {f"{i}.png": "same" if i < 10 else str(i) for i in range(20)}
    parts = divide(images(20), seed=seed, groups=groups)
    in_val = [image for image in parts["val"] if groups[image.path.name] == "same"]
    assert len(in_val) in (0, 10) and 0 < len(parts["val"]) < 20


def test_few_pictures():
    assert [len(part) for part in divide(images(2)).values()] == [1, 1]
    assert [len(part) for part in divide(images(1)).values()] == [1, 0]
    with pytest.raises(DatasetError, match="is left for training"):
        divide(images(3, "test"))


def test_tables_of_groups(tmp_path):
    table = tmp_path / "groups.csv"
    table.write_text("\ufefffile_name;patient\na.png;1\nb.png;2\n", encoding="utf-8")
    assert read_groups(table, "patient") == {"a.png": "1", "b.png": "2"}
    table.write_text("picture,group\na.png,x\n")
    assert read_groups(table, "group") == {"a.png": "x"}
    with pytest.raises(DatasetError, match="there is no column 'patient'; its columns are picture, group"):
        read_groups(table, "patient")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_groups(tmp_path / "missing.csv", "group")


def test_a_table_of_groups_that_never_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("ppsolo.formats.split.LARGEST_TABLE", 10)
    (tmp_path / "groups.csv").write_text("file_name,group\n")
    with pytest.raises(DatasetError, match=r"groups.csv: larger than 10 bytes"):
        read_groups(tmp_path / "groups.csv", "group")
