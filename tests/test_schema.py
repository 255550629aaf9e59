"""The schema says what each of its keys means: the reference of the configuration is made from it."""

import dataclasses
import re
import typing

import pytest

from ppsolo.schema import Config


def parts(kind: type) -> list[type]:
    """The dataclass and the dataclasses in it."""
    found = [kind]
    for hint in typing.get_type_hints(kind).values():
        found += parts(hint) if dataclasses.is_dataclass(hint) and isinstance(hint, type) else []
    return found


@pytest.mark.parametrize("kind", parts(Config), ids=lambda kind: kind.__name__)
def test_every_key_is_described(kind):
    described = re.findall(r"^        ((?:\w+, )*\w+): ", kind.__doc__ or "", re.MULTILINE)
    names = [name for group in described for name in group.split(", ")]
    assert names == [entry.name for entry in dataclasses.fields(kind)], "one line for each key, in order"
