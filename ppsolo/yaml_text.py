"""The text of YAML files, read within a size limit and loaded without aliases."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ppsolo.errors import ConfigError

MAX_FILE_BYTES = 1 << 20  # takes 20 seconds to parse; enough for 100 000 class names
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class PlainLoader(yaml.SafeLoader):
    """YAML's safe loader without aliases, because a few of them can stand for gigabytes.

    most_digits: characters of a number. Python has no limit of its own for 0x and 1:59:59, but prints no such number.
    """

    most_digits = 100

    def __init_subclass__(cls, most_digits: int = most_digits) -> None:
        """Take the limit of a subclass."""
        cls.most_digits = most_digits

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ConfigError("aliases (*name) are not supported; write the value itself")
        return super().compose_node(parent, index)

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        line = f"line {node.start_mark.line + 1}"
        if "\0" in node.value:
            raise ConfigError(f"{line} holds a zero byte (\\0), which no name has; remove it")
        if node.tag in _NUMBERS and len(node.value) > self.most_digits:
            raise ConfigError(f"{line} holds a number of {len(node.value)} characters, more than any setting has")
        try:
            node.value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise ConfigError(
                f"{line} holds half a character (\\ud800 to \\udfff), which no name has; remove it"
            ) from None
        return node


def quoted(text: str) -> str:
    """Return a text in quotes, so that YAML reads it as this text, whatever its letters mean in YAML.

    >>> quoted("photos #1: no")
    '"photos #1: no"'
    """
    return yaml.safe_dump(text, default_style='"', width=math.inf).strip()


def dumped(tree: Mapping[str, Any]) -> str:
    """Return a mapping as YAML, in the letters of its texts; all but ASCII is escaped if one of them is not printable.

    Not printable are, for example, the direction marks in a path.
    """
    text = yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True, default_flow_style=None)
    clean = all(line.isprintable() for line in text.split("\n"))
    return text if clean else yaml.safe_dump(dict(tree), sort_keys=False, default_flow_style=None)


def read_text(file: Path) -> str:
    """Read a configuration file. Raises ConfigError if it cannot be read, is not UTF-8, or is too large."""
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
        text = content.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read as a configuration ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not a text file, so no configuration; weights belong to -o weights=FILE") from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{file}: larger than {MAX_FILE_BYTES} bytes, the limit for a configuration")
    return text


def load_text(text: str, where: str, loader: type[PlainLoader]) -> Any:
    """Parse YAML text. Raises ConfigError, in one line that begins with `where`, if it is not valid."""
    try:
        return yaml.load(text, Loader=loader)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except (
        yaml.YAMLError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None
