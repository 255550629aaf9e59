"""Reads JSON files in any Unicode encoding, with or without a byte order mark."""

import json
import os
import stat
from typing import Any

import msgspec

from ppsolo.errors import DatasetError


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file. Raises DatasetError that names the file: missing, not text, not JSON."""
    return parse_json(read_utf8(path), path)


def read_utf8(path: str | os.PathLike[str]) -> bytes:
    """Return the text of a file as UTF-8 without a byte order mark; UTF-16 and UTF-32 are converted.

    Raises DatasetError that names the file: it cannot be read, or is not such text.
    """
    try:
        with open(path, "rb") as stream:
            if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):  # it may never end
                raise DatasetError(f"{path}: a device, expected a JSON file")
            content = stream.read()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error})") from None
    encoding = json.detect_encoding(content)
    if encoding == "utf-8":
        return content
    if encoding == "utf-8-sig":
        return content[3:]
    try:
        return content.decode(encoding).removeprefix("\ufeff").encode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not a JSON file (broken {encoding.upper()}: {error.reason})") from None


def parse_json(content: bytes, path: str | os.PathLike[str]) -> Any:
    """Parse a result of `read_utf8`. NaN and Infinity are accepted as numbers. Raises DatasetError."""
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError):
        pass  # Python's parser accepts more, and its messages name line and column
    try:
        return json.loads(content.decode("utf-8", "surrogatepass"))
    except UnicodeDecodeError as error:
        remedy = f"byte {error.start} is not UTF-8; save it as UTF-8"
        raise DatasetError(f"{path}: not a JSON file ({remedy})") from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not a JSON file ({error}); write it again") from None
