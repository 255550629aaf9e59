"""PaddleDetection's label_list.txt: one class name in each line."""

from pathlib import Path

from ppsolo.errors import ConfigError

_MOST_CHARACTERS = 1 << 20


def read_label_list(file: Path) -> tuple[str, ...]:
    """The class names in PaddleDetection's label_list.txt, one in each line; none where there is no file."""
    if not file.is_file():
        return ()
    try:
        with file.open(encoding="utf-8-sig") as stream:
            text = stream.read(_MOST_CHARACTERS)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); save it as UTF-8, or set class_names") from None
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(set(names)) != len(names):
        raise ConfigError(f"{file} has the same name twice; mend it, or set class_names")
    return names
