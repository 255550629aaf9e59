"""The text of YAML files: limits, and one line for whatever is wrong."""

import pytest

from ppsolo.config import load_config
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


@pytest.mark.parametrize(
    "number",
    ["0x" + "F" * 5000, "0b" + "1" * 20000, "0" + "7" * 6000, "-0x" + "F" * 5000, "1" + ":59" * 3000, "9" * 101],
)
@pytest.mark.parametrize("form", ["a: {}", "[{}]", "{}: 1", "!!int '{}'", "!!float '{}'"])
def test_numbers_of_thousands_of_digits_are_refused(number, form):
    """Python prints none of more than 4300 digits: a message about one ended in a traceback."""
    with pytest.raises(ConfigError, match=r"x\.yml: line 1 holds a number of \d+ characters"):
        load_text(form.format(number), "x.yml", PlainLoader)


def test_long_texts_are_no_numbers():
    assert load_text(f"a: '{'9' * 5000}'\nb: 0xFF\nc: {'9' * 100}", "x.yml", PlainLoader)["b"] == 255


def test_half_characters_are_refused_and_names_of_any_bytes_are_not():
    with pytest.raises(ConfigError, match="line 2 holds half a character"):
        load_text('a: 1\n_BASE_: "\\ud800"', "x.yml", PlainLoader)
    assert load_text('root: "\\udcff"', "x.yml", PlainLoader) == {"root": "\udcff"}


def test_a_paddledetection_file_with_a_huge_number_gets_one_line(tmp_path):
    (tmp_path / "x.yml").write_text(f"architecture: SOLOv2\nepoch: 0x{'F' * 5000}\nSOLOv2: {{backbone: ResNet}}\n")
    with pytest.raises(ConfigError, match="line 2 holds a number of 5002 characters"):
        load_config(tmp_path / "x.yml")
