"""Draws text in any script with Pillow and the fonts of the system and of matplotlib."""

import functools
import importlib
import importlib.util
import logging
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)
_LONGEST_NAME = 100  # letters of a name on a drawing

# Preferred fonts, the first that has the letter; then other fonts, plain ones first.
_PREFERRED = (
    *("dejavusans", "notosans-regular", "segoeui", "arial", "helvetica", "liberationsans-regular"),
    *("notosanscjk", "notosanssc", "notosansjp", "notosanskr", "sourcehansans", "wqy", "msyh", "simhei", "pingfang"),
    *("hiragino", "malgun", "nanumgothic", "arialuni", "unifont"),
)
_PLAIN = ("bold", "italic", "oblique", "mono", "light", "black", "condensed", "serif", "math", "stix", "cm")
_MOST_FONTS = 2000  # font files searched
_UNASSIGNED = "\uffff"  # drawn as a font's sign for a missing letter


def has_letters(text: str) -> bool:
    """Whether every letter of a text can be drawn."""
    return _pillow() is not None and all(font_of(letter) is not None for letter in text)


def remedy(text: str) -> str:
    """Return advice for the user that makes a text drawable."""
    if _pillow() is None:
        return "pip install pillow"
    lacking = "".join(dict.fromkeys(letter for letter in text if font_of(letter) is None))
    return (
        f"no font has {lacking!r}: install one (for Chinese, Japanese and Korean: apt install fonts-noto-cjk), "
        "or set PPSOLO_FONT to the path of a font file"
    )


@functools.cache
def drawable_name(name: str, label: int) -> str:
    """Return the name, cut if it is long; "class" and the label if it cannot be drawn. Log the remedy once per name."""
    if len(name) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_NAME]}..."
    if not name.strip():
        return f"class {label}"
    if name.isascii() and name.isprintable():
        return name
    if name.isprintable() and has_letters(name):
        return name
    logger.warning("the name %r cannot be drawn, %s", name, remedy(name))
    return f"class {label}"


def matplotlib_families(text: str) -> list[str]:
    """Return the families for matplotlib's "font.family" that have the letters of a text, its own family first."""
    from matplotlib import font_manager

    families = ["DejaVu Sans"]
    for path in dict.fromkeys(font_of(letter) for letter in dict.fromkeys(text)):
        if path is not None:
            font_manager.fontManager.addfont(path)
            families.append(font_manager.FontProperties(fname=path).get_name())
    return list(dict.fromkeys(families))


def render(text: str, height: float) -> tuple[np.ndarray, int]:
    """Render the text as large as OpenCV would with letters of `height` pixels, by OpenCV's own measure.

    Returns:
        The ink, uint8 [rows, columns], and the row of the base line.
    """
    pillow, drawing = _pillow(), importlib.import_module("PIL.ImageDraw")
    size = max(6, round(height))  # as large as OpenCV's, whose measure exceeds the height of capitals
    runs = [(run, _font(path, size)) for run, path in _runs(text)]
    width = round(sum(font.getlength(run) for run, font in runs)) + 2
    base, below = round(size * 0.95), round(size * 0.3)
    picture = pillow.new("L", (max(width, 1), base + below))
    pen, x = drawing.Draw(picture), 1.0
    for run, font in runs:
        pen.text((x, base), run, fill=255, font=font, anchor="ls")
        x += font.getlength(run)
    return np.asarray(picture), base


def _runs(text: str) -> list[tuple[str, str]]:
    """Split the text where the font changes: (part, font file)."""
    runs: list[tuple[str, str]] = []
    for letter in text:
        font = font_of(letter) or (runs[-1][1] if runs else _font_files()[0])
        if runs and (runs[-1][1] == font or letter == " "):
            runs[-1] = (runs[-1][0] + letter, runs[-1][1])
        else:
            runs.append((letter, font))
    return runs


@functools.cache
def font_of(letter: str) -> str | None:
    """Return the first font file that has a letter; None if no font has it."""
    for path in _font_files():
        font = _font(path, 16)
        if font is not None and (letter.isspace() or _glyph(font, letter) not in (_glyph(font, _UNASSIGNED), b"")):
            return path
    return None


def _glyph(font: Any, letter: str) -> bytes:
    """Return the pixels of a letter."""
    try:
        mask = font.getmask(letter)
    except (OSError, ValueError):
        return b""
    return bytes(str(mask.size), "ascii") + bytes(mask) if mask.size[0] else b""


@functools.lru_cache(maxsize=256)
def _font(path: str, size: int) -> Any:
    """Load a font; None if Pillow cannot use it, for example a font of coloured pictures."""
    try:
        return importlib.import_module("PIL.ImageFont").truetype(path, size)
    except OSError:
        return None


@functools.cache
def _pillow() -> Any:
    try:
        importlib.import_module("PIL.ImageFont")
        return importlib.import_module("PIL.Image")
    except ImportError:
        return None


@functools.cache
def _font_files() -> tuple[str, ...]:
    """Return font files of the user, the system and matplotlib, preferred ones first."""
    found: list[str] = []
    for folder in _folders():
        for where, folders, names in os.walk(folder):
            folders.sort()
            found += [os.path.join(where, name) for name in names if name.lower().endswith((".ttf", ".otf", ".ttc"))]
    usable = [path for path in found if "lastresort" not in path.lower()]  # it shows a box for every letter
    chosen = os.environ.get("PPSOLO_FONT")
    return tuple(([chosen] if chosen else []) + sorted(usable, key=_rank)[:_MOST_FONTS])


def _rank(path: str) -> tuple[int, int, str]:
    name = Path(path).stem.lower()
    preferred = next((i for i, start in enumerate(_PREFERRED) if name.startswith(start)), len(_PREFERRED))
    return preferred, sum(word in name for word in _PLAIN), name


def _folders() -> list[str]:
    """Return the font folders of Linux, macOS, Windows and matplotlib, without importing matplotlib."""
    home = Path.home()
    folders = [home / ".fonts", home / ".local/share/fonts", Path("/usr/share/fonts"), Path("/usr/local/share/fonts")]
    if sys.platform == "darwin":
        folders += [home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    if sys.platform == "win32":
        folders.append(Path(os.environ.get("WINDIR", "C:/Windows"), "Fonts"))
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        folders.append(Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf")
    return [str(folder) for folder in folders if folder.is_dir()]
