"""Degraded images are as bad as the published ones, by their input PSNR."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kgt.imaging import psnr
from tests.benchmarks.realism import GOPRO, RAIN, RAINDROP, Published, drawn, rain_fields

# What the published sets' inputs are known to span in full, dB.
KNOWN = {"GoPro": (20.3, 26), "OutdoorRain": (10, 17), "RainDrop": (14, 21)}


@pytest.mark.parametrize(
    ("task", "changes", "published", "draws"),
    [
        ("deblur", {}, GOPRO, 6),
        ("weather", {"kind": "rain"}, RAIN, 20),
        ("weather", {"kind": "raindrop"}, RAINDROP, 20),
    ],
)
def test_input_psnr_spans_that_of_published_pairs(
    task: str, changes: dict, published: Published, draws: int, standard_images: Callable[[str], Path]
) -> None:
    """Ours of the same clean images go from their 10 % quantile or lower to their 90 % quantile or higher, and half of
    ours lie on either side of a value inside the range that the whole set is known for."""
    pairs = published.pairs(standard_images("pairs").parent)
    low, high = np.quantile([psnr(*pair) for pair in pairs], (0.1, 0.9))
    ours = [psnr(degraded, clean) for _, clean in pairs for degraded in drawn(task, changes, clean, draws)]
    ten, median, ninety = np.quantile(ours, (0.1, 0.5, 0.9))
    assert ten <= low
    assert high <= ninety
    assert KNOWN[published.folder][0] < median < KNOWN[published.folder][1]


def test_rain_is_made_as_the_published_rain_is(standard_images: Callable[[str], Path]) -> None:
    """The fit finds what we drew, and the published pairs' values lie inside our ranges."""
    pairs = RAIN.pairs(standard_images("pairs").parent)
    chosen = {"kind": "rain", "airlight": 0.4, "fog": 1.6, "streaks": 13}
    ours = rain_fields([(next(drawn("weather", chosen, clean, 1)), clean) for _, clean in pairs])
    theirs = rain_fields(pairs)
    assert ours["airlight A"] == pytest.approx([0.4] * len(pairs), abs=0.02)
    for name, tolerance in {"transmission": 0.15, "mean of S": 0.03, "σ of t S, 1/255": 2}.items():
        assert np.median(ours[name]) == pytest.approx(np.median(theirs[name]), abs=tolerance), name


def test_snow_is_about_as_bad_as_snow100k(standard_images: Callable[[str], Path]) -> None:
    """No published pairs at hand: inputs of Snow100K-L are reported near 18 dB on average."""
    cleans = [clean for _, clean in RAIN.pairs(standard_images("pairs").parent)]
    ours = [psnr(image, clean) for clean in cleans for image in drawn("weather", {"kind": "snow"}, clean, 6)]
    assert 15 < np.median(ours) < 21
