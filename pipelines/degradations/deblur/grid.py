"""The light of a region on a grid that is as fine as the blur needs.

Where the sub-frames of an exposure lie several pixels apart, bilinear interpolation on a grid with that spacing joins
them to one trail. So the work on a crop does not grow with the photograph's pixels.
"""

from typing import NamedTuple

import cv2
import numpy as np

from pipelines.degradations.deblur import light
from pipelines.degradations.frame import Frame
from pipelines.degradations.values import Scalar

Slices = tuple[slice, slice]

_STRIP = 256  # rows of the region whose light is held at once in full


class Grid(NamedTuple):
    """`light`, float32 (h, w, 4): each the mean of `step` × `step` pixels of a region, from pixel `top`, `left` on."""

    light: np.ndarray
    step: int
    top: int
    left: int

    @property
    def matrix(self) -> np.ndarray:
        """The 3×3 homography from the region's pixels (x, y) to this grid's."""
        scale, half = 1 / self.step, 0.5 / self.step - 0.5
        return np.array([[scale, 0, half - self.left * scale], [0, scale, half - self.top * scale], [0, 0, 1]])

    def window(self, region: Slices) -> Slices:
        """The rows and columns of the grid that cover those of the region."""
        rows, columns = (
            slice(*np.clip([(part.start - start) // self.step, -((start - part.stop) // self.step)], 0, side))
            for part, start, side in zip(region, (self.top, self.left), self.light.shape, strict=False)
        )
        return rows, columns

    def places(self, window: Slices) -> tuple[np.ndarray, np.ndarray]:
        """Where the grid's rows and columns lie in the region: y (h, 1) and x (1, w), float32, in its pixels."""
        y, x = (
            (np.arange(part.start, part.stop, dtype=np.float32) + 0.5) * self.step - 0.5 + start
            for part, start in zip(window, (self.top, self.left), strict=True)
        )
        return y[:, None], x[None]


def gather(image: np.ndarray, window: Slices, step: int, frame: Frame, parameters: dict[str, Scalar]) -> Grid:
    """The light (see `light.gather`) of a `window` of `image`, uint8 (H, W, 3), a region of `frame`.

    The grid is the frame's own, whatever the region. Cells that reach beyond the image see it mirrored.
    """
    starts, counts, borders = [], [], []
    for part, offset, side in zip(window, (frame.frame_top, frame.frame_left), image.shape, strict=False):
        start = (part.start + offset) // step * step - offset
        count = -((start - part.stop) // step)
        starts.append(start)
        counts.append(count)
        borders += [max(0, -start), max(0, start + count * step - side)]
    (top, left), (height, width) = starts, counts
    image = image[max(top, 0) : top + height * step, max(left, 0) : left + width * step]
    if any(borders):
        image = cv2.copyMakeBorder(image, *borders, cv2.BORDER_REFLECT_101)
    if step == 1:
        return Grid(light.gather(np.ascontiguousarray(image), parameters), 1, top, left)

    means, rows = np.empty((height, width, 4), np.float32), max(1, _STRIP // step)
    for first in range(0, height, rows):
        part = means[first : first + rows]
        strip = np.ascontiguousarray(image[first * step : (first + rows) * step])
        cv2.resize(light.gather(strip, parameters), part.shape[1::-1], dst=part, interpolation=cv2.INTER_AREA)
    return Grid(means, step, top, left)
