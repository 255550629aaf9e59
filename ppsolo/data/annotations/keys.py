"""The images and categories of a COCO file, found by id, or by a name in the place of an id."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from ppsolo.data.annotations.findings import Findings
from ppsolo.data.annotations.rules import Identity, read_identity, read_side
from ppsolo.data.pixels import MAX_PIXELS
from ppsolo.text import one_line


class Keys:
    """Ids of a list and their indices; a unique name finds its entry too."""

    def __init__(self) -> None:
        self.index: dict[Identity, int] = {}
        self._named: dict[str, list[int]] = defaultdict(list)

    def find(self, value: Any) -> tuple[int, str] | None:
        """Return (index, kind of finding or ""); None if there is no such entry, or several have this name."""
        identity = read_identity(value)
        if identity is not None and identity in self.index:
            return self.index[identity], "" if type(value) is type(identity) else "number-as-text"
        found = self._named.get(value, []) if isinstance(value, str) else []
        return (found[0], "by-name") if len(found) == 1 else None

    def _name(self, text: str, index: int) -> None:
        if index not in self._named[text]:
            self._named[text].append(index)


class Categories(Keys):
    """The categories, in the order of the file. names: one per category, on one line."""

    def __init__(self, entries: Iterable[Any], findings: Findings):
        super().__init__()
        names = []
        for identity, entry in _entries("categories", entries, findings):
            self.index[identity] = len(names)
            name = str(entry.get("name", identity))
            self._name(name, len(names))
            names.append(one_line(name))
        self.names = tuple(names)


class Images(Keys):
    """The images, sorted by id: numbers, then texts.

    identities, file_names, sizes: one per image; "" and (0, 0) if the file states nothing usable.
    """

    def __init__(self, entries: Iterable[Any], findings: Findings):
        super().__init__()
        listed = _entries("images", entries, findings)
        found = [(identity, *_image(identity, entry, findings)) for identity, entry in listed]
        found.sort(key=lambda image: (isinstance(image[0], str), image[0]))
        self.identities = [identity for identity, _, _ in found]
        self.file_names = [name for _, name, _ in found]
        self.sizes = [size for _, _, size in found]
        self.index = {identity: index for index, identity in enumerate(self.identities)}
        self._has_names = False

    def find(self, value: Any) -> tuple[int, str] | None:
        """See `Keys.find`; a name is a file name, with or without folders and suffix."""
        if not self._has_names and isinstance(value, str):
            self._has_names = True
            for index, name in enumerate(self.file_names):
                path = PurePosixPath(name.replace("\\", "/"))
                for form in (name, path.name, path.stem):
                    self._name(form, index)
        return super().find(value)


def _entries(name: str, entries: Iterable[Any], findings: Findings) -> Iterator[tuple[Identity, Mapping[str, Any]]]:
    """Yield the entries that have a unique id, with it."""
    seen: set[Identity] = set()
    for position, entry in enumerate(entries):
        identity = read_identity(entry.get("id")) if isinstance(entry, Mapping) else None
        if not isinstance(entry, Mapping):
            findings.add("bad-id", position, f"'{name}' is not a list of objects: entry {position} is not one")
        elif identity is None:
            has = f"entry {position} of '{name}' has {entry.get('id')!r:.50}"
            findings.add("bad-id", position, f"every entry of '{name}' needs an integer as 'id': {has}")
        elif identity in seen:
            problem = f"'{name}' has the id {identity} twice"
            findings.add("bad-id", position, f"{problem}; give every entry its own (entry {position} repeats it)")
        else:
            seen.add(identity)
            if type(entry["id"]) is not type(identity):
                findings.add("unusual-entry", identity, f"entry {position} of '{name}' has the id {entry['id']!r}")
            yield identity, entry


def _image(identity: Identity, entry: Mapping[str, Any], findings: Findings) -> tuple[str, tuple[int, int]]:
    """Return (file name or "", (height, width) or (0, 0))."""
    name, stated = entry.get("file_name"), (entry.get("height"), entry.get("width"))
    height, width = map(read_side, stated)
    size = (0, 0) if height is None or width is None else (height, width)
    if size == (0, 0) or not isinstance(name, str) or not name:
        has = f"it has {name!r} and {stated[0]!r} x {stated[1]!r}"
        problem = "needs a 'file_name', and integers above zero as 'height' and 'width'"
        findings.add("image-entry", identity, f"image {identity}: {problem}, {has}")
    elif size[0] * size[1] > MAX_PIXELS:
        findings.add("image-entry", identity, f"image {identity}: has more than {MAX_PIXELS} pixels")
        size = (0, 0)
    elif any(type(side) is not int for side in stated):
        findings.add("unusual-entry", identity, f"image {identity}: size {stated[0]!r} x {stated[1]!r}")
    return name if isinstance(name, str) else "", size
