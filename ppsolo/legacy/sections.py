"""A section of PaddleDetection's configuration: keys are taken one by one, and the remaining ones are reported."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from ppsolo.errors import ConfigError
from ppsolo.legacy.yaml_files import TAG

LARGEST = 2**53  # larger numbers are mistakes, and floating point does not hold all of them


class Note(NamedTuple):
    """A key without counterpart, and ppsolo's behaviour instead."""

    key: str
    instead: str

    def __str__(self) -> str:
        return f"{self.key}: {self.instead}"


class Section:
    """One section of a configuration. Every key is taken, expected, noted, or in the end reported by `finish`.

    Attributes:
        path: the section's name, such as "ResNet"; "" for the top level. where: the file, for errors.
        notes: all notes; the sections of a file share this list.
    """

    def __init__(self, path: str, values: object, *, where: str, notes: list[Note]):
        """values: the mapping of the section, None if the file lacks it. where: the file, for errors."""
        self.path, self.notes, self.where = path, notes, where
        if values is not None and not isinstance(values, Mapping):
            raise ConfigError(f"{where}: {path} must be a mapping of keys, got {values!r}")
        self._values = {str(key): value for key, value in (values or {}).items() if key != TAG}
        self._left = set(self._values)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def section(self, key: str) -> "Section":
        """Return the section under `key`; empty if it does not exist."""
        self._left.discard(key)
        return Section(self._full(key), self._values.get(key), where=self.where, notes=self.notes)

    def take(self, key: str, default: Any = None) -> Any:
        """Take the value of `key`, or `default` if it does not exist."""
        self._left.discard(key)
        return self._values.get(key, default)

    def number(self, key: str, default: float | None = None, *, least: float = -LARGEST) -> Any:
        """Take a number. Raises ConfigError for other values, and for numbers below `least` or beyond LARGEST."""
        value: Any = self.take(key, default)
        if isinstance(value, str):  # YAML 1.1 reads 1e-5 as a string
            with contextlib.suppress(ValueError):
                value = float(value)
        if not _is_number(value):
            raise self.refusal(key, f"must be a number, got {_shown(repr(value))}")
        if value < least:
            raise self.refusal(key, f"is {value}: give at least {least}")
        return value

    def numbers(self, key: str, default: Sequence[float] = ()) -> list[Any]:
        """Take a list of numbers. Raises ConfigError for other values."""
        value = self.take(key, list(default))
        if not isinstance(value, list) or not all(map(_is_number, value)):
            raise self.refusal(key, f"must be a list of numbers, got {_shown(repr(value))}")
        return value

    def expect(self, key: str, *allowed: Any, instead: str = "ppsolo has no other") -> None:
        """Raise ConfigError if `key` has a value other than those that ppsolo supports."""
        if key in self._values and self.take(key) not in allowed:
            choices = " or ".join(repr(value) for value in allowed)
            raise self.refusal(key, f"{self._values[key]!r} is not supported, only {choices}: {instead}")

    def note(self, key: str, instead: str, *, unless: tuple[Any, ...] = ()) -> None:
        """Note that `key` has no counterpart, if its value is not in `unless`."""
        value = self.take(key)
        if key in self._values and value not in unless:
            self.notes.append(Note(f"{self._full(key)}={_shown(value)}", instead))

    def finish(self) -> None:
        """Note every key that was not taken."""
        for key in sorted(self._left):
            self.notes.append(Note(self._full(key), "ppsolo has no such key and ignores it"))

    def refusal(self, key: str, reason: str) -> ConfigError:
        """Return an error that names a key of this section."""
        return ConfigError(f"{self.where}: {self._full(key)} {reason}")

    def _full(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key


def transforms(reader: Section, key: str) -> dict[str, Section]:
    """Return the transforms of a reader in order, by name: `- !Name {…}` in 0.5 and `- Name: {…}` in 2.x."""
    entries = reader.take(key, [])
    if not isinstance(entries, list):
        raise reader.refusal(key, "must be a list of transforms")
    found: dict[str, Section] = {}
    for entry in entries:
        if not isinstance(entry, Mapping) or not (TAG in entry or len(entry) == 1):
            raise reader.refusal(key, f"holds {entry!r}, which is not a transform")
        name, values = (entry[TAG], entry) if TAG in entry else next(iter(entry.items()))
        found[str(name)] = Section(f"{reader.path}.{name}", values, where=reader.where, notes=reader.notes)
    return found


def _is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a number between -LARGEST and LARGEST."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
