"""PaddleDetection's label_list.txt: one class name per line."""

from pathlib import Path

from ppsolo.errors import ConfigError

_MOST_CHARACTERS = 1 << 20


def read_label_list(file: Path) -> tuple[str, ...]:
    """Read class names from label_list.txt, one per line; none if the file does not exist."""
    if not file.is_file():
        return ()
    try:
        with file.open(encoding="utf-8-sig") as stream:
            text = stream.read(_MOST_CHARACTERS)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read ({error}): save it as UTF-8, or set class_names") from None
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(set(names)) != len(names):
        raise ConfigError(f"{file} has the same name twice: correct it, or set class_names")
    return names
