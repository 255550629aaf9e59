"""The physical size of a pixel in OME-TIFF, in ImageJ's TIFF, or in a TIFF with centimetres."""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MICROMETRES = {"µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}
LARGEST_PIXEL = 1e12  # micrometres, a thousand kilometres; a larger size is a mistake
_CENTIMETRE = 3  # TIFF's ResolutionUnit; 2 is inches, a meaningless default of cameras and printers
_SUFFIXES = (".tif", ".tiff", ".btf", ".ome")


def stated_pixel_size(path: Path) -> float | None:
    """Return micrometres per pixel; None if the picture states none, or its pixels are not square.

    Only TIFF is read, and only if the package tifffile is installed. Dots per inch are ignored.
    """
    if path.suffix.lower() not in _SUFFIXES:
        return None
    try:
        import tifffile
    except ModuleNotFoundError:
        return None
    try:
        with tifffile.TiffFile(path) as file:
            for find in _FINDERS:
                found = find(file)
                if found is not None:
                    return found
    except Exception:  # for a damaged file, tifffile may raise anything; the picture's reader reports it
        return None
    return None


def _from_ome(file: Any) -> float | None:
    if not file.ome_metadata:
        return None
    for element in ElementTree.fromstring(file.ome_metadata).iter():
        if element.tag.endswith("}Pixels"):
            x, y = (_in_micrometres(element.get(f"PhysicalSize{axis}"), _unit(element, axis)) for axis in "XY")
            return _square(x, y)
    return None


def _unit(element: ElementTree.Element, axis: str) -> str:
    return element.get(f"PhysicalSize{axis}Unit", "µm")


def _from_imagej(file: Any) -> float | None:
    if not file.imagej_metadata:
        return None
    unit = str(file.imagej_metadata.get("unit", "")).replace("\\u00B5", "µ")
    x, y = _pixels_per_unit(file)
    return _square(_in_micrometres(1 / x, unit), _in_micrometres(1 / y, unit)) if x > 0 and y > 0 else None


def _from_centimetres(file: Any) -> float | None:
    tag = file.pages[0].tags.get("ResolutionUnit")
    x, y = _pixels_per_unit(file)
    if tag is None or int(tag.value) != _CENTIMETRE or not (x > 0 and y > 0):
        return None
    return _square(1e4 / x, 1e4 / y)


_FINDERS: tuple[Callable[[Any], float | None], ...] = (_from_ome, _from_imagej, _from_centimetres)


def _pixels_per_unit(file: Any) -> tuple[float, float]:
    tags = file.pages[0].tags
    found = []
    for name in ("XResolution", "YResolution"):
        above, below = tags[name].value if name in tags else (0, 1)
        found.append(above / below if below else 0.0)
    return found[0], found[1]


def _in_micrometres(value: object, unit: str) -> float | None:
    try:
        return float(str(value)) * _MICROMETRES[unit.strip().lower()]
    except (ValueError, KeyError):
        return None


def _square(x: float | None, y: float | None) -> float | None:
    if x is None or y is None or not (0 < x <= LARGEST_PIXEL and math.isclose(x, y, rel_tol=0.01)):
        return None
    return x
