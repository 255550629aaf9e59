"""Joins the instances of overlapping tiles into the instances of the picture; objects cut by a seam become whole."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ppsolo.results.instances import Instances
from ppsolo.results.runs import Box, Runs, bounding_box, cut, cut_out, from_rle, move, shared_area, to_rle, union

# Two masks show the same object if they share this part of their pixels.
SAME = 0.5
_TRUSTED = 0.3  # a mask replaces a piece of another tile only with at least this share of the piece's score
_BORDER = 2  # pixels: a mask this close to a seam is cut by it
_CELL = 512  # pixels: pieces are looked up by squares of this size
_NO_TILE = (0, 0, 0, 0)  # tile of a joined object


@dataclass(eq=False)
class _Piece:
    """One instance of one tile, at its place in the picture. number: the order in which pieces were added."""

    runs: Runs
    box: Box
    score: float
    label: int
    tile: Box
    number: int
    is_cut: bool  # whether a seam cuts it: it touches a border of its tile inside the picture
    area: int = field(init=False)

    def __post_init__(self) -> None:
        self.area = self.runs.area


class SeamJoiner:
    """Takes the instances of one tile after another and returns the instances of the whole picture.

    An object that is whole in one tile replaces its pieces in other tiles. An object that is whole in no tile becomes
    the union of its pieces. All masks are runs of pixels: no array of the picture's size is ever made.

    >>> import numpy as np
    >>> from ppsolo.results.instances import Instances
    >>> whole = np.zeros([1, 4, 10], bool)
    >>> whole[0, 1:3, 2:8] = True
    >>> joiner = SeamJoiner((4, 10), class_names=["bar"], category_ids=[1])
    >>> for left, right in ((0, 6), (4, 10)):
    ...     part = Instances.from_masks(
    ...         whole[:, :, left:right], scores=[0.9], labels=[0], class_names=["bar"], category_ids=[1]
    ...     )
    ...     joiner.add(part, top=0, left=left)
    >>> found = joiner.instances()
    >>> len(found), bool((found.masks == whole).all())
    (1, True)
    """

    def __init__(self, size: tuple[int, int], *, class_names: Sequence[str], category_ids: Sequence[int]):
        """size: (height, width) of the picture."""
        self.size = size
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)
        self._pieces: list[_Piece] = []

    def add(self, instances: Instances, *, top: int, left: int) -> None:
        """Add the instances of a tile; `top` and `left` are its first row and column in the picture."""
        height, width = instances.size
        tile = (top, left, top + height, left + width)
        for rle, score, label in zip(instances.rles, instances.scores, instances.labels, strict=True):
            runs = move(from_rle(rle), height=height, to_height=self.size[0], top=top, left=left)
            box = bounding_box(runs, height=self.size[0])
            if len(runs.starts):
                is_cut, number = self._is_cut(box, tile), len(self._pieces)
                self._pieces.append(_Piece(runs, box, float(score), int(label), tile, number, is_cut))

    def instances(self) -> Instances:
        """Return the instances of the picture, best score first."""
        whole = self._without_copies([piece for piece in self._pieces if not piece.is_cut])
        pieces = _not_shown_by(whole, [piece for piece in self._pieces if piece.is_cut])
        groups = self._groups(pieces)
        joined = [self._joined(group) for group in groups if len(group) > 1]
        single = _not_shown_by(joined, [group[0] for group in groups if len(group) == 1])
        found = [(piece.runs, piece.score, piece.label) for piece in (*whole, *joined, *single)]
        found.sort(key=lambda one: -one[1])
        return Instances(
            rles=[to_rle(runs, self.size) for runs, _, _ in found],
            scores=np.array([score for _, score, _ in found], np.float32),
            labels=np.array([label for _, _, label in found], np.int64),
            size=self.size,
            class_names=self.class_names,
            category_ids=self.category_ids,
        )

    def _is_cut(self, box: Box, tile: Box) -> bool:
        """Whether the box is close to a border of its tile that is not a border of the picture."""
        before = any(low > 0 and b < low + _BORDER for low, b in zip(tile[:2], box[:2], strict=True))
        sides = zip(tile[2:], box[2:], self.size, strict=True)
        return before or any(high < side and b > high - _BORDER for high, b, side in sides)

    def _without_copies(self, pieces: list[_Piece]) -> list[_Piece]:
        """Return each whole object once: if two tiles show it, the one with the better score."""
        kept: list[_Piece] = []
        places = _Places([])
        for piece in sorted(pieces, key=lambda piece: -piece.score):
            others = places.near(piece.box, apart_from=piece.tile)
            if not any(other.label == piece.label and _overlap(other, piece) >= SAME for other in others):
                kept.append(piece)
                places.add(piece)
        return kept

    def _groups(self, pieces: list[_Piece]) -> list[list[_Piece]]:
        """Return a list of pieces for each object. Pieces belong together if they agree where their tiles overlap.

        Pairs that are sure and agree well are joined first, and an object takes one piece of each tile: two neighbours
        stay two, although an unsure piece may cover both.
        """
        places = _Places(pieces)
        pairs = [
            (self._agreement(piece, other) * min(piece.score, other.score), piece, other)
            for piece in pieces
            for other in places.near(piece.box, apart_from=piece.tile)
            if other.number < piece.number
        ]
        pairs = [pair for pair in pairs if pair[0] > 0]
        pairs.sort(key=lambda pair: -pair[0])
        group_of = {id(piece): [piece] for piece in pieces}
        for _, piece, other in pairs:
            one, two = group_of[id(piece)], group_of[id(other)]
            if one is not two and not {each.tile for each in one} & {each.tile for each in two}:
                one += two
                group_of.update((id(each), one) for each in two)
        return list({id(group): group for group in group_of.values()}.values())

    def _agreement(self, one: _Piece, other: _Piece) -> float:
        """Intersection over union of two pieces in what both tiles see; 0 where they are not the same object."""
        y1, x1 = max(one.tile[0], other.tile[0]), max(one.tile[1], other.tile[1])
        y2, x2 = min(one.tile[2], other.tile[2]), min(one.tile[3], other.tile[3])
        if y1 >= y2 or x1 >= x2 or min(one.score, other.score) < _TRUSTED * max(one.score, other.score):
            return 0.0
        here, there = (cut(piece.runs, (y1, x1, y2, x2), height=self.size[0]) for piece in (one, other))
        shared = shared_area(here, there)
        same = shared / max(here.area + there.area - shared, 1)
        return same if same >= SAME else 0.0

    def _joined(self, group: list[_Piece]) -> _Piece:
        """Join the pieces of an object: their union, mean score by area, and the label with the largest share."""
        shares: dict[int, float] = defaultdict(float)
        for piece in group:
            shares[piece.label] += piece.area * piece.score
        runs = union([self._own_part(piece, group) for piece in group])
        if not len(runs.starts):
            runs = union([piece.runs for piece in group])
        score = sum(shares.values()) / sum(piece.area for piece in group)
        label = max(shares, key=lambda label: shares[label])
        return _Piece(
            runs, bounding_box(runs, height=self.size[0]), score, label, _NO_TILE, group[0].number, is_cut=False
        )

    def _own_part(self, piece: _Piece, group: list[_Piece]) -> Runs:
        """The piece without the pixels that lie nearer to the middle of the tile of another piece."""
        runs = piece.runs
        for other in group:
            if other is not piece:
                y1, y2 = _nearer(other.tile[0::2], piece.tile[0::2])
                x1, x2 = _nearer(other.tile[1::2], piece.tile[1::2])
                runs = cut_out(runs, (y1, x1, y2, x2), height=self.size[0])
        return runs


class _Places:
    """Pieces, found by their place."""

    def __init__(self, pieces: Iterable[_Piece]):
        self._cells: dict[tuple[int, int], list[_Piece]] = defaultdict(list)
        for piece in pieces:
            self.add(piece)

    def add(self, piece: _Piece) -> None:
        for cell in _cells(piece.box):
            self._cells[cell].append(piece)

    def near(self, box: Box, *, apart_from: Box) -> list[_Piece]:
        """Return the pieces of tiles other than `apart_from` whose boxes intersect the box."""
        found = {id(piece): piece for cell in _cells(box) for piece in self._cells.get(cell, ())}
        return [piece for piece in found.values() if piece.tile != apart_from and _meet(piece.box, box)]


def _nearer(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, int]:
    """Return the part of the overlap of two tiles, along one axis, that is nearer to the middle of the first one."""
    low, high = max(one[0], other[0]), min(one[1], other[1])
    middle = (low + high) // 2
    if one[0] == other[0]:
        return low, high
    return (middle, high) if one[0] > other[0] else (low, middle)


def _cells(box: Box) -> list[tuple[int, int]]:
    y1, x1, y2, x2 = (side // _CELL for side in (box[0], box[1], box[2] - 1, box[3] - 1))
    return [(y, x) for y in range(y1, y2 + 1) for x in range(x1, x2 + 1)]


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _overlap(one: _Piece, other: _Piece) -> float:
    """Intersection over union."""
    shared = shared_area(one.runs, other.runs)
    return shared / (one.area + other.area - shared)


def _not_shown_by(objects: list[_Piece], pieces: list[_Piece]) -> list[_Piece]:
    """Return the pieces that no object replaces. An object of another tile does if it covers most of the piece."""
    places = _Places(objects)

    def is_shown(piece: _Piece) -> bool:
        return any(
            other.score >= _TRUSTED * piece.score and shared_area(other.runs, piece.runs) >= SAME * piece.area
            for other in places.near(piece.box, apart_from=piece.tile)
        )

    return [piece for piece in pieces if not is_shown(piece)]
