"""The text of a YAML file, read within a limit and loaded without aliases: what readers of configurations share."""

from pathlib import Path
from typing import Any

import yaml

from ppsolo.errors import ConfigError

MAX_FILE_BYTES = 1 << 20  # 20 seconds of YAML; the names of 100 000 classes fit


class PlainLoader(yaml.SafeLoader):
    """YAML's safe loader that refuses aliases, as a few can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ConfigError("aliases (*name) are not read; write the value out")
        return super().compose_node(parent, index)


def read_text(file: Path) -> str:
    """The text of a configuration file. Raises ConfigError: it cannot be read, is not UTF-8, or is too large."""
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as a configuration ({error})") from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{file}: more than {MAX_FILE_BYTES} bytes, which no configuration needs")
    return text


def load_text(text: str, where: str, loader: type[PlainLoader]) -> Any:
    """The values of YAML text. Raises ConfigError, in one line that begins with `where`, if it is none."""
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
