"""JSON files in any Unicode encoding, with or without a byte order mark."""

import json
import os
from typing import Any

import msgspec

from ppsolo.errors import DatasetError


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file. Raises DatasetError naming the file: missing, not text, not JSON."""
    return parse_json(read_utf8(path), path)


def read_utf8(path: str | os.PathLike[str]) -> bytes:
    """The text of a file as UTF-8 without a byte order mark; UTF-16 and UTF-32 are converted.

    Raises DatasetError naming the file: it cannot be read, or its bytes are no such text.
    """
    try:
        with open(path, "rb") as stream:
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
    """The value that `read_utf8` gave as text. NaN and Infinity are numbers here. Raises DatasetError."""
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError):
        pass  # Python's parser takes some more, and its messages name line and column
    try:
        return json.loads(content.decode("utf-8", "surrogatepass"))
    except UnicodeDecodeError as error:
        remedy = f"byte {error.start} is not UTF-8; save it as UTF-8"
        raise DatasetError(f"{path}: not a JSON file ({remedy})") from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not a JSON file ({error}); write it anew") from None
