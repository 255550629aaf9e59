"""Finds the file in a multipart form (RFC 7578) by searches for bytes.

Own code: python-multipart looks at each byte in Python, so some bodies of 20 MB take seconds.
"""

import email.parser
import email.policy
import re
from email.message import Message

MOST_PARTS = 17  # one file and 16 fields
MOST_HEADER_BYTES = 8192  # headers of one part
# A search holds Python's interpreter lock: keep it short, so that other threads run.
_SEARCH_BYTES = 1 << 16

_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")  # RFC 2046, section 5.1.1
_HEADERS = email.parser.BytesHeaderParser(policy=email.policy.compat32)


class FormError(Exception):
    """A form is malformed, or does not have exactly one file; the message says which."""


def boundary_of(content_type: str) -> bytes:
    """Return the boundary in a Content-Type header. Raises FormError if there is none."""
    message = Message()
    message["Content-Type"] = " ".join(content_type[:MOST_HEADER_BYTES].split())
    boundary = message.get_param("boundary")
    if not isinstance(boundary, str) or not _BOUNDARY.fullmatch(encoded := boundary.encode("latin-1", "replace")):
        raise FormError("its Content-Type gives no boundary of 1 to 70 characters")
    return encoded


def file_of_form(body: bytes, boundary: bytes) -> bytes:
    """Return the content of the only file in the form. Raises FormError.

    A part is a file if its Content-Disposition gives a filename; the name of the field does not matter.

    >>> disposition = b'Content-Disposition: form-data; name="file"; filename="a.png"'
    >>> file_of_form(b"--b\\r\\n" + disposition + b"\\r\\n\\r\\nthe bytes\\r\\n--b--\\r\\n", b"b")
    b'the bytes'
    """
    delimiter = b"\r\n--" + boundary
    file, first = None, delimiter[2:]  # the first delimiter has no line end before it at the start of the body
    at = len(first) if body.startswith(first) else _find(body, delimiter, 0) + len(delimiter)
    for _ in range(MOST_PARTS + 1):
        if body.startswith(b"--", at):
            if file is None:
                raise FormError("it has no file")
            return bytes(file)
        start = _content_start(body, at)
        end = _find(body, delimiter, start - 2)  # an empty part's delimiter starts with the headers' line end
        if _is_file(body[at:start]):
            if file is not None:
                raise FormError("it has more than one file")
            file = memoryview(body)[start : max(start, end)]
        at = end + len(delimiter)
    raise FormError(f"it has more than {MOST_PARTS} parts")


def _content_start(body: bytes, at: int) -> int:
    """Return where a part's content begins; its delimiter ends at `at`."""
    line = body[at : at + MOST_HEADER_BYTES]
    if not (end := re.match(rb"[ \t]*\r\n", line)):
        raise FormError("a boundary is followed by other text" if line.strip(b" \t\r") else "it ends within a part")
    found = line.find(b"\r\n\r\n", end.end() - 2)
    if found < 0:
        if len(line) < MOST_HEADER_BYTES:
            raise FormError("it ends within a part")
        raise FormError(f"the headers of a part have more than {MOST_HEADER_BYTES} bytes")
    return at + found + 4


def _find(body: bytes, delimiter: bytes, start: int) -> int:
    while start < len(body):
        found = body.find(delimiter, start, start + _SEARCH_BYTES)
        if found >= 0:
            return found
        start += _SEARCH_BYTES - len(delimiter) + 1
    raise FormError("a part does not end: no boundary follows it")


def _is_file(headers: bytes) -> bool:
    message = _HEADERS.parsebytes(headers.lstrip(b" \t\r\n"))
    disposition = message.get("Content-Disposition")
    if disposition is None or message.get_content_disposition() != "form-data":
        raise FormError("a part has no header 'Content-Disposition: form-data'")
    if message.get_param("name", header="Content-Disposition") is None:
        raise FormError('the Content-Disposition of a part gives no "name"')
    return message.get_filename() is not None
