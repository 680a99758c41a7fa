"""Where the crops of an image may lie: on a lattice or a grid, and not where there is nothing to see."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipelines import detail
from pipelines.detail import BLOCK


@dataclass(frozen=True)
class Places:
    """The top left corners of the crops of `side` pixels that an image of `height` × `width` can give.

    Corners are at multiples of `align`; with `step`, on a grid of that spacing, the image's last rows and columns
    covered by crops that overlap their neighbours. `detail` is the survey's packed map of the image's blocks. Crops of
    whose blocks more than `max_flatness` are flat are left out.
    """

    height: int
    width: int
    side: int
    align: int
    step: int | None = None
    detail: bytes = b""
    max_flatness: float = 1.0

    def __len__(self) -> int:
        """How many there are."""
        return self._ends[-1] if self._ends.size else 0

    def draw(self, rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
        """`count` different ones as (top, left), each as likely. Raises ValueError if there are fewer."""
        numbers = rng.choice(len(self), size=count, replace=False, shuffle=False)
        return [self._place(int(number)) for number in numbers]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """All of them."""
        return map(self._place, range(len(self)))

    # Corners from which a crop touches the same blocks are alike, and those of one such band follow each other. So a
    # table of bands by bands counts the places, and finds the nth, without a list of the millions a photograph has.

    @cached_property
    def _rows(self) -> "_Bands":
        return _Bands.of(self.height, self)

    @cached_property
    def _columns(self) -> "_Bands":
        return _Bands.of(self.width, self)

    @cached_property
    def _ends(self) -> np.ndarray:
        """The number of places up to and with each pair of bands, row bands first."""
        each = np.outer(self._rows.counts, self._columns.counts)
        if self.detail and self.max_flatness < 1:
            each = np.where(self._flatness() <= self.max_flatness, each, 0)
        return np.cumsum(each)

    def _flatness(self) -> np.ndarray:
        """The share of flat blocks for each pair of bands."""
        blocks = ~detail.unpack(self.detail, self.height, self.width)
        flat = np.pad(blocks.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
        (top, bottom), (left, right) = self._rows.blocks, self._columns.blocks
        inside = flat[np.ix_(bottom, right)] - flat[np.ix_(top, right)] - flat[np.ix_(bottom, left)]
        inside += flat[np.ix_(top, left)]
        return inside / np.outer(bottom - top, right - left)

    def _place(self, number: int) -> tuple[int, int]:
        pair = int(np.searchsorted(self._ends, number, side="right"))
        row_band, column_band = divmod(pair, len(self._columns.counts))
        within = number - (int(self._ends[pair - 1]) if pair else 0)
        row, column = divmod(within, int(self._columns.counts[column_band]))
        return self._rows.corner(row_band, row), self._columns.corner(column_band, column)


@dataclass(frozen=True)
class _Bands:
    """One axis: its corners, each band's first one and how many it has, and the blocks [first, last) they touch."""

    corners: np.ndarray
    firsts: np.ndarray
    counts: np.ndarray
    blocks: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, length: int, places: Places) -> "_Bands":
        last = length - places.side
        if last < 0:
            nothing = np.zeros(0, np.int64)
            return cls(nothing, nothing, nothing, (nothing, nothing))
        last -= last % places.align
        if places.step is None:
            corners = np.arange(0, last + 1, places.align)
        else:
            step = max(places.align, places.step - places.step % places.align)
            corners = np.unique([*range(0, last + 1, step), last])
        begins, ends = corners // BLOCK, (corners + places.side - 1) // BLOCK + 1
        firsts = np.flatnonzero(np.diff(begins, prepend=-1) + np.diff(ends, prepend=-1))
        counts = np.diff(firsts, append=len(corners))
        return cls(corners, firsts, counts, (begins[firsts], ends[firsts]))

    def corner(self, band: int, number: int) -> int:
        return int(self.corners[self.firsts[band] + number])
