"""The text of YAML files: limits, and one line for whatever is wrong."""

import pytest

from ppsolo.errors import ConfigError
from ppsolo.yaml_text import MAX_FILE_BYTES, PlainLoader, dumped, load_text, quoted, read_text


def test_values_are_read(tmp_path):
    (tmp_path / "a.yml").write_text("a: [1, zwei]\n", encoding="utf-8")
    assert load_text(read_text(tmp_path / "a.yml"), "a.yml", PlainLoader) == {"a": [1, "zwei"]}


@pytest.mark.parametrize(
    ("text", "reason"), [("a: &x [1]\nb: *x", "aliases"), ("a: [", "not valid YAML"), ("{[]: 1}", "not valid YAML")]
)
def test_what_is_wrong_is_one_line_that_names_the_file(text, reason):
    with pytest.raises(ConfigError, match=reason) as caught:
        load_text(text, "a.yml", PlainLoader)
    assert str(caught.value).startswith("a.yml") and "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.yml: cannot be read"):
        read_text(tmp_path / "gone.yml")
    (tmp_path / "latin.yml").write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match="not a text file"):
        read_text(tmp_path / "latin.yml")
    (tmp_path / "large.yml").write_text("#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than"):
        read_text(tmp_path / "large.yml")


def test_a_zero_byte_is_refused_where_it_stands():
    """No name and no path can hold one."""
    with pytest.raises(ConfigError, match=r"^mine\.yml: line 2 holds a zero byte"):
        load_text('a: 1\nb: ["x\\0y"]', "mine.yml", PlainLoader)


@pytest.mark.parametrize(
    "text",
    [
        "a #1",
        "a: b",
        "{x}",
        "null",
        "1e3",
        "a\tb",
        "a\nb",
        "'\"",
        "\\",
        "\x1b",
        "\u202e",
        "\udcff",
        "\U0001f600",
        "x " * 99,
    ],
)
def test_texts_of_any_letters_come_back(text):
    assert load_text(quoted(text), "here", PlainLoader) == text
    written = dumped({"path": text})
    assert load_text(written, "here", PlainLoader) == {"path": text}
    assert all(line.isprintable() for line in written.split("\n"))
