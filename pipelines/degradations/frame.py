"""Where a region lies in its photograph: what makes blur and weather differ over the image."""

import math
from dataclasses import asdict, dataclass

import numpy as np

from pipelines.degradations.values import Scalar

WHOLE = (slice(None), slice(None))  # a region's rows and columns, all of them


@dataclass(frozen=True)
class Frame:
    """A photograph of `frame_height` × `frame_width` pixels and the place of a region's first pixel in it."""

    frame_height: int
    frame_width: int
    frame_top: int = 0
    frame_left: int = 0

    @classmethod
    def of(cls, region: np.ndarray, parameters: dict[str, Scalar]) -> "Frame":
        """As recorded in a pair's parameters; a region without a record is its own whole photograph."""
        if "frame_height" not in parameters:
            return cls(*region.shape[:2])
        return cls(*(int(parameters[name]) for name in cls.__dataclass_fields__))

    def parameters(self) -> dict[str, Scalar]:
        """For a pair's record."""
        return asdict(self)

    def unit(self, width: int, height: int) -> float:
        """Pixels here for one pixel of a photograph of `width` × `height`, by the diagonals."""
        return math.hypot(self.frame_height, self.frame_width) / math.hypot(width, height)

    def inside(self, region: np.ndarray, margin: int) -> tuple[slice, slice]:
        """The rows and columns of `region` that its degradation gets right: `margin` pixels off where it was cut.

        The photograph's own borders are no cuts.
        """
        starts = self.frame_top, self.frame_left
        whole = self.frame_height, self.frame_width
        rows, columns = (
            slice(margin if start > 0 else 0, side - (margin if start + side < total else 0))
            for start, side, total in zip(starts, region.shape[:2], whole, strict=True)
        )
        return rows, columns
