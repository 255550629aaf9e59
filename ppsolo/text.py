"""Makes text from files and clients short and safe to print."""

import json
import os
import re
import shlex
from collections.abc import Iterable
from typing import Any

_PLAIN = re.compile(r"[\w%+=:,./@-]+")  # needs no quotes in a shell; letters of any script
# A user before the host. A password with a slash in it is no valid address; it is no port number either.
_USER = re.compile(r"://(?:[^\s/?#]*|[^\s/?#:@\[]*:(?!\d*(?:[/?#\s]|$))\S*)@")


def printable(text: str) -> str:
    """Replace each character that is not printable by a space.

    Not printable are line breaks, terminal escapes, bells, direction marks and lone surrogates.

    >>> printable("a  b\\x1b[31m")
    'a  b [31m'
    """
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)


def one_line(text: str) -> str:
    """Put the text on one line of printable characters, with one space between words.

    >>> one_line("road\\nsign \\x1b[31m red\\ud800")
    'road sign [31m red'
    """
    return " ".join(printable(text).split())


def without_users(text: str) -> str:
    """Mask the user and the password in each address of a text.

    >>> without_users("rtsp://me:secret@camera/live: no answer"), without_users("https://a.example/b@c")
    ('rtsp://***@camera/live: no answer', 'https://a.example/b@c')
    """
    return _USER.sub("://***@", text) if "://" in text else text


def typed(path: object) -> str:
    """Return a path as a user types it in a shell.

    >>> typed("data/mine"), typed("my data")
    ('data/mine', "'my data'")
    """
    return str(path) if _PLAIN.fullmatch(str(path)) else shlex.quote(str(path))


def native_reason(error: BaseException) -> str:
    """Return the reason in an error of C++ code, such as Paddle's or onnxruntime's, without its trace, on one line.

    >>> native_reason(ValueError("Traceback:\\n0 f()\\nError Message Summary:\\n---\\nNotFound: x (at /p/a.cc:7)\\n"))
    'NotFound: x'
    """
    text = one_line(str(error)).rpartition("Error Message Summary:")[2]
    return re.sub(r" \(at [^()]*:\d+\)", "", text).strip(" -") or type(error).__name__


def needed_package(error: ImportError, package: str, extra: str) -> str:
    """Return the name of a package whose import failed, with the remedy.

    >>> needed_package(ModuleNotFoundError(), "onnx", "onnx")
    "the package onnx: pip install 'ppsolo[onnx]'"
    >>> needed_package(ImportError("onnx.so: failed to map segment"), "onnx", "onnx")[:76]
    'the package onnx, which cannot be loaded (onnx.so: failed to map segment): f'
    """
    if isinstance(error, ModuleNotFoundError):
        return f"the package {package}: pip install 'ppsolo[{extra}]'"
    return (
        f"the package {package}, which cannot be loaded ({one_line(str(error))}): free memory, or install it again "
        f"with pip install --force-reinstall {package}"
    )


def named(name: str, text: str) -> str:
    """Put a name before a text that does not have it yet.

    >>> named("a.png", "no picture"), named("a.png", "a.png: no picture")
    ('a.png: no picture', 'a.png: no picture')
    """
    return text if name in text else f"{name}: {text}"


def cut_name(name: str, most: int) -> str:
    """Cut a file name to so many bytes, without half a letter at its end.

    >>> cut_name("street", 3), cut_name("\u5b57\u5b57", 5)
    ('str', '\u5b57')
    """
    kept = name[:most]
    while len(os.fsencode(kept)) > most:
        kept = kept[:-1]
    return kept


def json_text(content: Any, *, indent: int | None = None) -> str:
    """Return JSON in the letters of the content; if one of them is not printable, all but ASCII is escaped.

    Not printable are the lone surrogates of file names that are no UTF-8, which no file in UTF-8 can hold.

    >>> json_text(["\u00e9"]), json_text(["\\udc80"])
    ('["\u00e9"]', '["\\\\udc80"]')
    """
    text = json.dumps(content, ensure_ascii=False, indent=indent)
    clean = all(line.isprintable() for line in text.split("\n"))
    return text if clean else json.dumps(content, indent=indent)


def storable(text: str) -> str:
    """Write out lone surrogates, as in file names that are not UTF-8, so that UTF-8 can hold the text.

    >>> storable("caf\u00e9 \\udcff")
    'caf\u00e9 \\\\udcff'
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def first_few(values: Iterable[object], count: int = 3) -> str:
    """Join the first values with commas, and say how many more there are.

    >>> first_few("abcde"), first_few([1, 2])
    ('a, b, c (and 2 more)', '1, 2')
    """
    texts = [str(value) for value in values]
    more = f" (and {len(texts) - count} more)" if len(texts) > count else ""
    return ", ".join(texts[:count]) + more


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "file"), counted(2, "file"), counted(2, "class"), counted(2, "category")
    ('1 file', '2 files', '2 classes', '2 categories')
    """
    if noun.endswith("ry") and number != 1:
        return f"{number} {noun[:-1]}ies"
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{ending}"


def all_counted(*sizes: tuple[int, str]) -> str:
    """Numbers with their nouns.

    >>> all_counted((1, "file"), (2, "class"))
    '1 file, 2 classes'
    """
    return ", ".join(counted(number, noun) for number, noun in sizes)
