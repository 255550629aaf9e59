"""The text of YAML files, read within a size limit and loaded without aliases."""

from pathlib import Path
from typing import Any

import yaml

from ppsolo.errors import ConfigError

MAX_FILE_BYTES = 1 << 20  # takes 20 seconds to parse; enough for 100 000 class names


class PlainLoader(yaml.SafeLoader):
    """YAML's safe loader without aliases, because a few of them can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ConfigError("aliases (*name) are not supported; write the value itself")
        return super().compose_node(parent, index)

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if "\0" in node.value:
            raise ConfigError(f"line {node.start_mark.line + 1} holds a zero byte (\\0), which no name has; remove it")
        return node


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
