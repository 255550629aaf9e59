"""Forms: the file that they hold, and the refusals of others."""

import random

import pytest

from ppsolo.serve.forms import MOST_HEADER_BYTES, FormError, boundary_of, file_of_form

FILE = b'Content-Disposition: form-data; name="f"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
FIELD = b'Content-Disposition: form-data; name="note"\r\n\r\n'


def form(*parts: bytes, boundary: bytes = b"b") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\r\n", b"\r\n--c", b"\r\n\r\n--", b"\r\n-" * 1000, bytes(200_000), b"--c" + bytes(70_000)]
)
def test_the_content_of_a_file_is_kept_byte_by_byte(content):
    assert file_of_form(form(FIELD + b"some text", FILE + content, FIELD), b"b") == content


def test_random_content_survives():
    chance = random.Random(0)
    for _ in range(2000):
        content = b"".join(chance.choices((b"\r\n", b"--", b"b", b"-", b"\r", b"x", b"\n"), k=chance.randrange(30)))
        if b"\r\n--b" not in b"\r\n" + content:
            assert file_of_form(form(FILE + content), b"b") == content


def test_what_browsers_and_programs_send_is_read():
    boundary = boundary_of('multipart/form-data; charset=utf-8; boundary="----Web Kit\'7"')
    assert boundary == b"----Web Kit'7"
    named = 'Content-Disposition: form-data; name="f"; filename="stra\u00dfe \\"1\\".png"\r\n\r\n'.encode()
    assert file_of_form(b"preamble\r\n" + form(named + b"x", boundary=boundary) + b"epilogue", boundary) == b"x"
    lower = b"content-disposition:form-data;name=f;filename=a\r\n\r\nx"
    assert file_of_form(form(lower), b"b") == b"x"
    padded = form(FILE + b"x").replace(b"--b\r\n", b"--b \t\r\n")
    assert file_of_form(padded, b"b") == b"x"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no boundary"),
        (b"--b", "ends within a part"),
        (b"--b--", "no file"),
        (b"--bX\r\n", "other text"),
        (form(FILE + b"x")[:-8], "does not end"),
        (form(FIELD + b"x"), "no file"),
        (form(FILE + b"x", FILE + b"y"), "more than one file"),
        (form(*[FIELD] * 18), "more than 17 parts"),
        (form(b"\r\nx"), "Content-Disposition"),
        (form(b"Content-Disposition: attachment; filename=a\r\n\r\nx"), "Content-Disposition"),
        (form(b'Content-Disposition: form-data; filename="a"\r\n\r\nx'), '"name"'),
        (form(b"X: " + bytes(MOST_HEADER_BYTES) + b"\r\n\r\nx"), "headers of a part"),
    ],
)
def test_others_are_refused(body, words):
    with pytest.raises(FormError, match=words):
        file_of_form(body, b"b")


@pytest.mark.parametrize(
    "kind", ["", "; boundary=", f"; boundary={'x' * 71}", '; boundary="a\u00e9"', '; boundary="a "']
)
def test_a_boundary_that_cannot_be_is_refused(kind):
    with pytest.raises(FormError, match="boundary"):
        boundary_of(f"multipart/form-data{kind}")
