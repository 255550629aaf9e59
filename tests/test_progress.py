"""Progress lines: a bar on a terminal, plain lines elsewhere."""

import io

from ppsolo.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_end_with_the_total():
    stream = io.StringIO()
    with ProgressBar("predict", 3, stream=stream, interval=0.0) as progress:
        for done in range(1, 4):
            progress.update(done, 3)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3  # the end is not said twice
    assert lines[0].startswith("predict: 1/3 images, ") and "left" in lines[0]
    assert lines[-1].startswith("predict: 3/3 images, ") and "left" not in lines[-1]
    assert "\r" not in stream.getvalue()


def test_a_terminal_gets_a_bar_that_redraws_itself():
    stream = Terminal()
    with ProgressBar("predict", 4, stream=stream) as progress:
        progress.update(2, 4)
    assert stream.getvalue().startswith("\r\x1b[K[##########..........] predict: 2/4 images")
    assert stream.getvalue().endswith("\n")


def test_bytes_are_shown_in_megabytes():
    progress = ProgressBar("download", unit="B", stream=io.StringIO())
    progress.update(1_500_000, 3_000_000)
    assert progress.line().startswith("download: 1.5/3.0 MB, ")


def test_unknown_total():
    progress = ProgressBar("predict", None, stream=io.StringIO())
    progress.update(5, None)
    assert progress.line().startswith("predict: 5 images, ")


def test_nothing_done_shows_nothing():
    stream = io.StringIO()
    with ProgressBar("download", stream=stream):
        pass
    assert stream.getvalue() == ""
