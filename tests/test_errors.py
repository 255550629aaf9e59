"""Errors: one printable line, whatever the names in them hold."""

import pytest

from ppsolo.errors import LONGEST_MESSAGE, CheckpointError, PpsoloError


@pytest.mark.parametrize("message", ["a\nb", "a\x1b]0;title\x07b", "a\r\n\tb", "a\u202eb\x00"])
def test_line_breaks_and_escapes_do_not_reach_the_terminal(message):
    assert str(CheckpointError(message)).isprintable()


def test_endless_names_are_cut():
    assert len(str(PpsoloError("x" * 10_000_000))) <= LONGEST_MESSAGE + 5


def test_plain_messages_stay_as_they_are():
    assert str(PpsoloError("Bäckerei 写真.png: no such file")) == "Bäckerei 写真.png: no such file"
