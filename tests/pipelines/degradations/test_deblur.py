"""Motion blur: the camera's trajectory, the object that moves by itself, the light that adds up."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from kgt.errors import UserError
from kgt.imaging import linear_to_srgb, srgb_to_linear, to_rgb
from pipelines.degradations import Crop, deblur, degrade_image, degrade_region, settings_of
from pipelines.degradations.deblur import light, moving, trajectory
from pipelines.degradations.deblur.grid import gather
from pipelines.degradations.deblur.trajectory import MOST, exposure
from pipelines.degradations.frame import Frame

ENCODED = {"space": "encoded"}
QUIET = {"shot": 1e-9, "read": 1e-9}
STILL = {"path": 0, "object": 0, **QUIET}
POINTS = np.stack([*(axis.ravel() for axis in np.meshgrid([0.0, 320, 639], [0.0, 240, 479])), np.ones(9)])
PHOTO = np.ascontiguousarray(data.astronaut()[20:177, 150:353])


def blurred(image: np.ndarray, seed: int = 0, **changes: object) -> np.ndarray:
    return degrade_image("deblur", image, settings_of("deblur", changes), np.random.default_rng(seed)).degraded


def paths(warps: np.ndarray) -> np.ndarray:
    """Where nine points of the frame come from in every sub-frame: (n, 2, 9)."""
    moved = warps @ POINTS
    return moved[:, :2] / moved[:, 2:]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    path=st.floats(1, 80),
    focal=st.floats(0.8, 2),
    drift=st.tuples(st.floats(-60, 60), st.floats(-60, 60)),
)
def test_no_pixel_moves_farther_than_the_path_nor_jumps(
    seed: int, path: float, focal: float, drift: tuple[float, float]
) -> None:
    warps, dwell, moments, spacing, object_spacing = exposure(
        np.random.default_rng(seed), Frame(480, 640), path, focal, drift
    )
    places = paths(warps)
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    carried = places - np.array(drift)[:, None] * moments[:, None, None]
    carried_steps = np.linalg.norm(np.diff(carried, axis=0), axis=1)
    assert steps.max() == pytest.approx(spacing, rel=0.01)
    assert max(steps.max(), carried_steps.max()) <= 1.02 * object_spacing
    assert object_spacing <= 1 or len(dwell) == MOST
    lengths = steps.sum(axis=0)
    assert lengths.max() <= 1.001 * path
    assert drift != (0, 0) or lengths.max() >= 0.6 * path  # a chord cuts the corners of a jerky path
    assert dwell.sum() == pytest.approx(1)
    assert dwell.min() > 0
    assert (np.diff(moments) > 0).all()
    assert (moments[0], moments[-1]) == (-0.5, 0.5)


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_the_target_is_the_view_at_mid_exposure(seed: int) -> None:
    """The sub-frames around time 0 are (nearly) the sharp image, with as much of the exposure before as after."""
    warps, dwell, moments, *_ = exposure(np.random.default_rng(seed), Frame(480, 640), 30.0, 1.2)
    middle = int(np.argmin(np.abs(moments)))
    assert np.linalg.norm(paths(warps[middle : middle + 1]) - POINTS[:2], axis=1).max() <= 1
    assert dwell[:middle].sum() < 0.5 + dwell[middle]
    assert dwell[middle + 1 :].sum() < 0.5 + dwell[middle]


def test_a_camera_that_stands_still_sees_one_view() -> None:
    warps, dwell, *_ = exposure(np.random.default_rng(0), Frame(480, 640), 0.0, 1.2)
    assert np.abs(paths(warps) - POINTS[:2]).max() < 1e-9
    assert dwell.sum() == pytest.approx(1)


def test_blur_differs_over_the_image() -> None:
    warps = exposure(np.random.default_rng(0), Frame(480, 640), 40.0, 1.0).warps
    extent = np.ptp(paths(warps), axis=0)
    assert np.linalg.norm(extent[:, 0] - extent[:, 8]) > 1


def test_a_point_of_light_leaves_the_trail_of_its_path() -> None:
    """Its mass is kept, and its middle is where the point was on average."""
    board = np.zeros((480, 640, 3), np.uint8)
    board[99:102, 199:202] = 255
    drawn = {"blur": "shake", "path": 80.0, "focal": 1.2, "space": "encoded", **QUIET}
    trail = deblur.degrade(board, np.random.default_rng(5), drawn)[..., 1].astype(float)
    frame = Frame(480, 640)
    shot = exposure(np.random.default_rng(5), frame, 80 * frame.unit(1280, 720), 1.2)
    seen = np.linalg.inv(shot.warps) @ (200, 100, 1)
    middle = shot.dwell @ (seen[:, :2] / seen[:, 2:])
    rows, columns = np.indices(trail.shape)
    assert trail.sum() == pytest.approx(board[..., 1].sum(), rel=0.03)
    assert (trail * columns).sum() / trail.sum() == pytest.approx(middle[0], abs=0.2)
    assert (trail * rows).sum() / trail.sum() == pytest.approx(middle[1], abs=0.2)


@settings(max_examples=15)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    gray=st.booleans(),
    space=st.sampled_from(["encoded", "linear"]),
    highlight=st.floats(1, 100),
    seed=st.integers(0, 99),
)
def test_without_motion_the_image_stays_as_it_is(
    height: int, width: int, gray: bool, space: str, highlight: float, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = image[..., 0] if gray else image
    still = STILL | {"object": seed % 2, "object_path": 0, "highlight": highlight, "space": space}
    asked = settings_of("deblur", still)
    pair = degrade_image("deblur", image, asked, np.random.default_rng(seed))
    assert pair.degraded.shape == (height, width, 3)
    assert np.abs(pair.degraded.astype(int) - pair.clean).max() <= 1


@pytest.mark.parametrize("highlight", [1, 1.7, 2.5, 4])
def test_without_motion_photographs_and_every_level_stay_as_they_are(highlight: float) -> None:
    still = STILL | {"space": "linear", "highlight": highlight}
    levels = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16), 4, axis=1)
    colours = np.random.default_rng(0).integers(240, 256, (40, 40, 3), dtype=np.uint8)
    for image in (levels, colours, data.astronaut(), data.coffee(), data.camera()):
        seen = blurred(image, **still).astype(int)
        assert np.abs(seen - to_rgb(image)).max() <= 1


@pytest.mark.parametrize("space", ["encoded", "linear"])
def test_a_flat_image_stays_as_it_is(space: str) -> None:
    flat = np.full((60, 80, 3), (200, 90, 20), np.uint8)
    for seed in range(4):
        assert np.abs(blurred(flat, seed, space=space, object=1, **QUIET).astype(int) - flat).max() <= 1


def test_highlights_outshine_their_surroundings_in_linear_light() -> None:
    """A small lamp leaves a bright trail: blurred in linear light with a highlight gain it is brighter than without."""
    dark = np.full((120, 160, 3), 30, np.uint8)
    dark[55:60, 75:80] = 255
    kinds = ({"space": "encoded"}, {"space": "linear", "highlight": 1}, {"space": "linear", "highlight": 4})
    trails = [blurred(dark, 4, path=100, object=0, **QUIET, **kind).astype(float).sum() for kind in kinds]
    assert trails[0] < trails[1] < trails[2]


@pytest.mark.parametrize("objects", [0.0, 1.0])
def test_fewer_sub_frames_of_a_long_path_show_the_same(objects: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a photograph of 12 megapixels a long path has more than `MOST` pixels; one step a pixel is the reference."""
    large = cv2.resize(data.astronaut(), (4096, 4096), interpolation=cv2.INTER_CUBIC)
    quiet = {"path": 60, "object": objects, "object_path": 40, "space": "encoded", "shot": 1e-9, "read": 1e-9}
    chosen, crop = settings_of("deblur", quiet), Crop(1500, 1800, 96, 96)
    capped, whole = [], []
    for made, most in ((capped, MOST), (whole, 10**6)):
        monkeypatch.setattr(trajectory, "MOST", most)
        for seed in range(3):
            made.append(degrade_region("deblur", large, crop, chosen, np.random.default_rng(seed)).degraded)
    difference = np.abs(np.stack(capped).astype(int) - np.stack(whole))
    assert difference.max() <= 3
    assert 0 < difference.mean() < 0.3


def test_read_noise_is_there() -> None:
    flat = np.full((100, 100, 3), 128, np.uint8)
    assert 2 < blurred(flat, shot=1e-3, read=1e-3).astype(float).std() < 8


def taken_apart(image: np.ndarray, seed: int, place: dict) -> moving.Layers | None:
    frame, outline = Frame(*image.shape[:2]), moving.outline(np.random.default_rng(seed))
    window = moving.window(image.shape, outline, frame, place)
    scene, background = (
        gather(image, np.s_[0 : frame.frame_height, 0 : frame.frame_width], 1, frame, ENCODED) for _ in "12"
    )
    return window and moving.layers(scene, background, window, outline, frame, place)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    x=st.floats(-0.2, 1.2),
    y=st.floats(-0.2, 1.2),
    size=st.floats(0.01, 1.5),
    path=st.floats(0, 60),
)
def test_object_and_background_give_the_sharp_scene_at_mid_exposure(
    seed: int, x: float, y: float, size: float, path: float
) -> None:
    place = {"object_x": x, "object_y": y, "object_size": size, "object_path": path, "object_angle": 30.0}
    layers = taken_apart(PHOTO, seed, place)
    if layers is None:
        assert not (0.1 < x < 0.9 and 0.1 < y < 0.9)
        return
    scene = light.gather(PHOTO, ENCODED)
    background, foreground, clear = layers.background.light, layers.foreground.light, layers.clear.light
    assert np.abs(background * clear + foreground - scene).max() < 1e-6
    outside = np.ones(scene.shape[:2], bool)
    outside[layers.window] = False
    assert (clear[outside] == 1).all()
    assert (foreground[outside] == 0).all()
    assert np.array_equal(background[outside], scene[outside])
    assert clear.min() >= 0
    assert clear.max() <= 1


def test_the_object_moves_by_itself_along_its_angle() -> None:
    """Vertical stripes: a still camera keeps them; the object smears them going sideways, not going down."""
    stripes = np.where(np.arange(400) // 8 % 2 == 0, 220, 40).astype(np.uint8)
    board = np.repeat(np.broadcast_to(stripes, (300, 400))[..., None], 3, axis=2)
    place = {"object_size": 0.5, "object_path": 60.0, "object_x": 0.5, "object_y": 0.5}
    drawn = {"blur": "shake", "path": 0.0, "focal": 1.2, "space": "encoded", **QUIET, **place}
    sideways = deblur.degrade(board, np.random.default_rng(1), drawn | {"object_angle": 0.0}).astype(float)
    down = deblur.degrade(board, np.random.default_rng(1), drawn | {"object_angle": 90.0}).astype(float)
    middle, corner = np.s_[140:160, 190:210], np.s_[:30, :60]
    assert sideways[middle].std() < 0.4 * board[middle].std()
    assert np.abs(down[middle] - board[middle]).max() <= 2
    assert np.array_equal(sideways[corner], board[corner])
    assert np.array_equal(down[corner], board[corner])


def test_what_the_object_uncovers_looks_like_its_surroundings() -> None:
    """A red object before a green wall: its trail mixes the two, and shows no other colour."""
    wall = np.full((300, 400, 3), (20, 200, 20), np.uint8)
    drawn = {"object_size": 0.4, "object_path": 80.0, "object_angle": 0.0, "object_x": 0.5, "object_y": 0.5}
    clear = taken_apart(wall, 2, drawn).clear.light
    wall[clear[..., 0] < 1] = (220, 20, 20)
    parameters = {"blur": "shake", "path": 0.0, "focal": 1.2, "space": "encoded", **QUIET, **drawn}
    seen = deblur.degrade(wall, np.random.default_rng(2), parameters).astype(int)
    assert np.abs(seen[..., 0] + seen[..., 1] - 230).max() <= 15
    uncovered = (clear[..., 0] == 0) & (seen[..., 1] > 60)
    assert uncovered.sum() > 200


def test_about_the_asked_share_of_pairs_has_an_object() -> None:
    asked = settings_of("deblur", {"object": 0.3})
    drawn = [deblur.draw(asked, np.random.default_rng(seed)) for seed in range(400)]
    own = {"object_path", "object_size", "object_angle", "object_x", "object_y"}
    having = [parameters for parameters in drawn if own & parameters.keys()]
    assert len(having) / len(drawn) == pytest.approx(0.3, abs=0.08)
    assert all(own <= parameters.keys() for parameters in having)
    assert not any("object" in parameters for parameters in drawn)
    never = settings_of("deblur", {"object": 0})
    assert not any(own & deblur.draw(never, np.random.default_rng(seed)).keys() for seed in range(50))


def test_only_what_counts_is_drawn() -> None:
    common = {"blur", "space", "shot", "read"}
    rng = np.random.default_rng(0)
    video = {"blur": "video", "space": "encoded"}
    assert deblur.draw(settings_of("deblur", video), rng).keys() == common
    linear = video | {"space": "linear"}
    assert deblur.draw(settings_of("deblur", linear), rng).keys() == common | {"highlight"}
    shake = {"space": "encoded", "object": 0}
    assert deblur.draw(settings_of("deblur", shake), rng).keys() == common | {"path", "focal"}


@settings(max_examples=20)
@given(
    frames=st.integers(1, 9),
    space=st.sampled_from(["encoded", "linear"]),
    seed=st.integers(0, 2**32),
    side=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_frames_are_averaged_in_their_space(frames: int, space: str, seed: int, side: tuple[int, int]) -> None:
    film = np.random.default_rng(seed).integers(0, 256, (frames, *side, 3), dtype=np.uint8)
    drawn = {"blur": "video", "space": space, "highlight": 1.0, **QUIET}
    mean = film.mean(axis=0) / 255
    if space == "linear":
        mean = linear_to_srgb(srgb_to_linear(film / 255).mean(axis=0))
    seen = deblur.average(list(film), np.random.default_rng(0), drawn)
    assert seen.dtype == np.uint8
    assert np.abs(seen - 255 * mean).max() <= 0.52
    assert np.array_equal(deblur.average([film[0]] * frames, np.random.default_rng(0), drawn), film[0])


def test_an_average_has_the_noise_of_one_exposure() -> None:
    flat = np.full((100, 100, 3), 128, np.uint8)
    drawn = {"blur": "video", "space": "encoded", "shot": 1e-3, "read": 1e-3}
    few, many = (deblur.average([flat] * count, np.random.default_rng(0), drawn) for count in (2, 11))
    assert np.array_equal(few, many)
    assert 2 < few.astype(float).std() < 8


def test_frames_are_needed_and_of_one_size(rng: np.random.Generator) -> None:
    with pytest.raises(UserError, match=r"^tasks.deblur.blur=video averages the frames of a video: .* frames="):
        blurred(PHOTO, blur="video")
    drawn = {"blur": "video", "space": "encoded", **QUIET}
    with pytest.raises(UserError, match=r"^frames of one size are averaged, not of 157x203 and 157x100$"):
        deblur.average([PHOTO, PHOTO[:, :100]], rng, drawn)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blur": "shak"}, "tasks.deblur.blur=shak: did you mean 'shake'?"),
        ({"path": -1}, "tasks.deblur.path=-1: out of range, 0 to 120 is allowed"),
        ({"focal": 0}, "tasks.deblur.focal=0: out of range, 0.3 to 20 is allowed"),
        ({"object": 2}, "tasks.deblur.object=2: out of range, 0 to 1 is allowed"),
        ({"object_path": "far"}, "tasks.deblur.object_path=far: a number is wanted"),
        ({"object_size": 0}, "tasks.deblur.object_size=0: out of range, 0.01 to 2 is allowed"),
        ({"space": "gamma"}, "tasks.deblur.space=gamma: known: encoded, linear"),
        ({"highlight": 0.5}, "tasks.deblur.highlight=0.5: out of range, 1 to 100 is allowed"),
        ({"shot": 0}, "tasks.deblur.shot=0: out of range, 1e-09 to 1 is allowed"),
        ({"read": 2}, "tasks.deblur.read=2: out of range, 1e-09 to 1 is allowed"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changes: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        settings_of("deblur", changes)
    assert str(error.value) == message
