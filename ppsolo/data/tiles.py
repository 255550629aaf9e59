"""Tiles of a large picture: their size and their places."""

from typing import NamedTuple

from ppsolo.errors import ConfigError

LEAST_TILE = 32  # pixels
DEFAULT_OVERLAP = 128  # or half a tile where that is less
MOST_OVERLAP = 0.75  # of a tile: each pixel is then in 16 tiles; more would cost much and add nothing


class Tiling(NamedTuple):
    """Square tiles of `size` pixels; neighbours share `overlap` pixels."""

    size: int
    overlap: int

    def places(self, picture: tuple[int, int]) -> list[tuple[int, int, int, int]]:
        """Return the tiles of a picture of (height, width), row by row: top, left, bottom, right.

        Every tile is a full square, so the last ones overlap more. A side shorter than a tile has one tile.

        >>> Tiling(100, 20).places((90, 200))
        [(0, 0, 90, 100), (0, 80, 90, 180), (0, 100, 90, 200)]
        """
        rows, columns = (self._starts(side) for side in picture)
        return [
            (top, left, min(top + self.size, picture[0]), min(left + self.size, picture[1]))
            for top in rows
            for left in columns
        ]

    def _starts(self, side: int) -> list[int]:
        last = max(side - self.size, 0)
        return [*range(0, last, self.size - self.overlap), last]


def largest_overlap(tile: int) -> int:
    """Return the largest overlap of tiles with sides of `tile` pixels, in pixels."""
    return int(MOST_OVERLAP * tile)


def checked_tiling(tile: int | None, overlap: int | None = None) -> Tiling | None:
    """Return the tiling for these options; None without tiles. overlap: None for the default.

    Raises ConfigError for impossible sizes, and for an overlap without tiles.
    """
    if tile is None:
        if overlap is not None:
            raise ConfigError(f"overlap is {overlap}, and there are no tiles: give tile too")
        return None
    if tile < LEAST_TILE:
        raise ConfigError(f"tile is {tile}: give at least {LEAST_TILE} pixels")
    if overlap is None:
        overlap = min(DEFAULT_OVERLAP, tile // 2)
    most = largest_overlap(tile)
    if not 0 <= overlap <= most:
        raise ConfigError(f"overlap is {overlap}: give 0 to {most} pixels, {MOST_OVERLAP:g} of a tile of {tile}")
    return Tiling(tile, overlap)
