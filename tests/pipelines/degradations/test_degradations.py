"""What all six degradations promise."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from kgt.errors import UserError
from pipelines.degradations import (
    DEGRADATIONS,
    Crop,
    degrade_image,
    degrade_region,
    pair_rng,
    settings_of,
)
from pipelines.degradations.deblur.kernels import encode

PHOTO = np.ascontiguousarray(data.astronaut()[20:177, 150:353])
KERNEL = encode(np.tri(9, 14))
VARIANTS = [
    ("deblur", {"space": "encoded", "object": 0}),
    ("deblur", {"space": "linear", "object": 1}),
    ("deblur", {"blur": "kernel", "kernels": KERNEL}),
    ("jpeg", {}),
    ("jpeg", {"gray": True, "double": 1}),
    ("denoise", {}),
    ("denoise", {"noise": "camera", "gray": True}),
    ("weather", {"kind": "rain"}),
    ("weather", {"kind": "snow"}),
    ("weather", {"kind": "raindrop"}),
    ("demosaic", {"sigma": 5}),
    ("sr", {"scale": 3}),
]


@pytest.mark.parametrize(("task", "changes"), VARIANTS)
def test_a_pair_is_a_pure_function_of_its_names(task: str, changes: dict) -> None:
    crop = Crop(48, 36, 96, 108)
    asked = settings_of(task, changes)
    before = PHOTO.copy()
    first, again = (degrade_region(task, PHOTO, crop, asked, pair_rng(7, 1, task, "ab12", crop)) for _ in range(2))
    assert np.array_equal(first.clean, again.clean)
    assert np.array_equal(first.degraded, again.degraded)
    assert first.parameters == again.parameters == json.loads(json.dumps(first.parameters))
    assert np.array_equal(PHOTO, before)
    other = degrade_region(task, PHOTO, crop, asked, pair_rng(7, 2, task, "ab12", crop))
    assert task == "sr" or not np.array_equal(first.degraded, other.degraded)


@pytest.mark.parametrize(("task", "changes"), VARIANTS)
@pytest.mark.parametrize("side", [(157, 203), (16, 33)])
@pytest.mark.parametrize("gray", [False, True])
def test_shapes_and_types(task: str, changes: dict, side: tuple[int, int], gray: bool) -> None:
    image = np.ascontiguousarray(PHOTO[: side[0], : side[1], 0] if gray else PHOTO[: side[0], : side[1]])
    pair = degrade_image(task, image, settings_of(task, changes), np.random.default_rng(0))
    is_gray = task in ("jpeg", "denoise") and (gray or changes.get("gray", False))
    scale = changes.get("scale", 1)
    clean_side = tuple(length // scale * scale for length in side)
    assert pair.clean.dtype == np.uint8
    assert pair.clean.shape == (clean_side if is_gray else (*clean_side, 3))
    assert pair.degraded.dtype == (np.float32 if task == "denoise" else np.uint8)
    assert pair.degraded.shape[:2] == tuple(length // scale for length in side)
    assert pair.degraded.ndim == (2 if is_gray or task == "demosaic" else 3)
    assert np.isfinite(pair.degraded).all()


@settings(max_examples=60)
@given(
    case=st.one_of(
        st.fixed_dictionaries(
            {"quality": st.integers(5, 95), "gray": st.booleans(), "double": st.sampled_from([0, 1])}
        ).map(lambda changes: ("jpeg", changes)),
        st.sampled_from([2, 3, 4, [2, 3]]).map(lambda scale: ("sr", {"scale": scale})),
        st.sampled_from(["rggb", "gbrg"]).map(lambda pattern: ("demosaic", {"pattern": pattern})),
    ),
    place=st.tuples(*[st.floats(0, 1)] * 4),
    seed=st.integers(0, 1000),
)
def test_a_region_is_cut_from_the_degraded_whole(case: tuple, place: tuple, seed: int) -> None:
    task, changes = case
    asked = settings_of(task, changes)
    align = DEGRADATIONS[task].align(asked)
    grid = align if task != "jpeg" else 1

    def whole_cells(length: float) -> int:
        return int(length) // grid * grid

    height, width = whole_cells(grid + place[0] * (157 - grid)), whole_cells(grid + place[1] * (203 - grid))
    top, left = whole_cells(place[2] * (157 - height)), whole_cells(place[3] * (203 - width))
    part = degrade_region(task, PHOTO, Crop(top, left, height, width), asked, np.random.default_rng(seed))
    whole = degrade_image(task, PHOTO, asked, np.random.default_rng(seed))
    ratio = whole.clean.shape[0] // whole.degraded.shape[0]
    inside = np.s_[top : top + height, left : left + width]
    assert part.parameters == whole.parameters
    assert np.array_equal(part.clean, whole.clean[inside])
    small = np.s_[top // ratio : (top + height) // ratio, left // ratio : (left + width) // ratio]
    assert np.array_equal(part.degraded, whole.degraded[small])


@pytest.mark.parametrize(
    "changes",
    [
        {"path": 100, "object": 0},
        {"path": 60, "object": 1, "object_path": 80, "object_size": 0.7},
        {"blur": "kernel", "kernels": KERNEL},
    ],
)
@pytest.mark.parametrize("space", ["encoded", "linear"])
@pytest.mark.parametrize("crop", [Crop(300, 320, 96, 96), Crop(0, 200, 50, 130), Crop(0, 0, 512, 512)])
def test_blurring_a_region_sees_the_whole_frame(changes: dict, space: str, crop: Crop) -> None:
    """The camera turns about the photograph's axis, not the crop's, and the object keeps its place."""
    asked = settings_of("deblur", {"space": space, "shot": 1e-9, "read": 1e-9} | changes)
    image = data.astronaut()
    for seed in range(3):
        part = degrade_region("deblur", image, crop, asked, np.random.default_rng(seed))
        whole = degrade_image("deblur", image, asked, np.random.default_rng(seed))
        inside = np.s_[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        assert np.array_equal(part.clean, whole.clean[inside])
        difference = np.abs(part.degraded.astype(int) - whole.degraded[inside])
        assert difference.mean() < 0.02
        assert difference.max() <= 1


def test_pair_rng_is_keyed_by_every_name_and_stays_the_same() -> None:
    names = (1, 0, "jpeg", "ab", Crop(0, 0, 8, 8))
    assert pair_rng(*names).integers(2**32) == pair_rng(*names).integers(2**32)
    changed = [(2, 0, "jpeg", "ab", Crop(0, 0, 8, 8)), (1, 1, *names[2:]), (1, 0, "sr", *names[3:])]
    changed += [(*names[:3], "ac", names[4]), (*names[:4], Crop(0, 1, 8, 8))]
    first_numbers = {int(pair_rng(*other).integers(2**63)) for other in [names, *changed]}
    assert len(first_numbers) == 6
    # Published shards depend on this number: if it changes, so must the format version.
    assert int(pair_rng(*names).integers(2**32)) == 2765721275


def test_settings_are_checked_under_their_full_name() -> None:
    with pytest.raises(UserError, match=r"^unknown setting 'tasks.denoise.sigm': did you mean 'sigma'\?$"):
        settings_of("denoise", {"sigm": 3})
    assert settings_of("jpeg", {}, evaluation=True).quality.options == (10, 20, 30, 40)
    assert settings_of("jpeg", {"quality": 7}, evaluation=True).quality.options == (7,)
