"""Random changes of an input: of its bytes, and of the values where it holds JSON."""

import json
import random
from collections.abc import Sequence
from typing import Any

LONGEST_INPUT = 1 << 20  # bytes
WORDS = (
    *(
        b"-1",
        b"0",
        b"1e999",
        b"NaN",
        b"null",
        b"true",
        b"[]",
        b"{}",
        b'""',
        b"\xed\xa0\x80",
        b"\\ud800",
        b"\x00",
        b"!!set",
    ),
    *(b"9" * 30, b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\r\n--b", b"\r\n\r\n", b"../", b"[" * 200, b"&a *a", b"."),
)
DEEP: Any = []
for _ in range(400):
    DEEP = [DEEP]
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 255, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, 10**9, 10**40, 0.5, -0.0, 1e300),
    *(
        float("inf"),
        float("-inf"),
        float("nan"),
        "",
        "a",
        "1",
        "../a",
        "/",
        "\0",
        "\ud800",
        "\x1b[2J\n",
        "a" * 5000,
        "1e999",
    ),
    *([], {}, [[]], [{}], [None], {"": None}, {"a": {}}, [1, 2, 3], ["a"], [0] * 300, DEEP),
)


def changed(seed: bytes, chance: random.Random, pool: Sequence[bytes]) -> bytes:
    """The input after one to eight changes; of what holds JSON, mostly of the values in it."""
    if chance.random() < 0.7 and (found := _json_in(seed)) is not None:
        before, content, after = found
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            content = _with_changed_value(content, chance)
        try:
            return (before + json.dumps(content).encode() + after)[:LONGEST_INPUT]
        except (ValueError, RecursionError):  # the same list in itself, or too deep
            pass
    return _changed_bytes(seed, chance, pool)


def _json_in(seed: bytes) -> tuple[bytes, Any, bytes] | None:
    """What stands before the first object or list of an input, its content, and what stands behind it."""
    starts = [at for at in (seed.find(b"{"), seed.find(b"[")) if at >= 0]
    if not starts:
        return None
    at = min(starts)
    text = seed[at:].decode("latin-1")  # a letter per byte
    try:
        content, end = json.JSONDecoder().raw_decode(text)
        return seed[:at], content, seed[at + end :]
    except (ValueError, RecursionError):
        return None


def _with_changed_value(content: Any, chance: random.Random) -> Any:
    """The content with one value replaced, removed, doubled or moved."""
    places: list[tuple[Any, Any]] = []
    _collect(content, places, 0)
    if not places or chance.random() < 0.02:
        return _copy(chance.choice(VALUES))
    holder, key = chance.choice(places)
    kind = chance.randrange(8)
    if kind < 4:
        holder[key] = _near(holder[key], chance) if kind == 0 else _copy(chance.choice(VALUES))
    elif kind == 4:
        del holder[key]
    elif kind == 5:
        other, place = chance.choice(places)
        holder[key] = _copy(other[place])
    elif isinstance(holder, list):
        holder[key:key] = [_copy(holder[key])] * chance.choice((1, 2, 30))
    else:
        holder[str(chance.choice(VALUES))[:50]] = _copy(holder[key])
    return content


def _copy(value: Any) -> Any:
    """The value again, so that no change of one touches the other."""
    return json.loads(json.dumps(value)) if isinstance(value, dict | list) else value


def _near(value: Any, chance: random.Random) -> Any:
    """A value of the same kind."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return chance.choice((value + 1, value - 1, -value, value * 1000, value // 2, chance.randrange(300)))
    if isinstance(value, str):
        at = chance.randrange(len(value) + 1)
        return value[:at] + chance.choice(("", "0", "\u00e9", "\ud800", "/", " ", value)) + value[at + 1 :]
    return value


def _keys(holder: Any) -> Any:
    return holder if isinstance(holder, dict) else range(len(holder))


def _collect(content: Any, places: list[tuple[Any, Any]], depth: int) -> None:
    """Append every (object or list, key or index) of the content."""
    if depth > 50 or not isinstance(content, dict | list) or len(places) > 5000:
        return
    for key in list(_keys(content)):
        places.append((content, key))
        _collect(content[key], places, depth + 1)


def _changed_bytes(seed: bytes, chance: random.Random, pool: Sequence[bytes]) -> bytes:
    """One to eight changes: bytes, words, pieces removed, repeated or taken from another input."""
    data = bytearray(seed)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice((1, 4, 16, 100, 1000)))
        kind = chance.randrange(7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        elif kind == 2:
            data[at:at] = chance.choice(WORDS)
        elif kind == 3:
            data[at : at + chance.choice((1, 2, 4, 8))] = chance.choice(WORDS)
        elif kind == 4:
            del data[at:end]
        elif kind == 5:
            data[at:at] = data[at:end] * chance.choice((1, 2, 20))
        else:
            other = chance.choice(pool)
            start = chance.randrange(len(other) + 1)
            data[at:end] = other[start : start + chance.choice((4, 16, 200))]
    return bytes(data[:LONGEST_INPUT])
