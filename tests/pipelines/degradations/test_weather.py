"""Rain, snow and drops: what each does to a picture that is easy to reason about."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgt.errors import UserError
from kgt.imaging import srgb_to_linear
from pipelines.degradations import Crop, degrade_image, degrade_region, settings_of, weather
from pipelines.degradations.frame import Frame
from pipelines.degradations.weather import depth, outlines, rain, raindrop, snow, streaks

RAIN = {"angle": 12.0, "airlight": 0.6, "fog": 1.5, "streaks": 12.0}


def weathered(image: np.ndarray, seed: int = 0, **changes: object) -> np.ndarray:
    return degrade_image("weather", image, settings_of("weather", changes), np.random.default_rng(seed)).degraded


def test_the_veil_takes_contrast_most_in_the_distance(photo: np.ndarray, rng: np.random.Generator) -> None:
    board = np.where((np.indices((200, 300)).sum(axis=0) // 4 % 2 == 0)[..., None], 220, 30).astype(np.uint8)
    board = np.repeat(board, 3, axis=2)
    veiled = weathered(board, kind="rain", streaks=0, fog=2, airlight=0.6).astype(float)
    top, bottom = veiled[:40].std(), veiled[-40:].std()
    assert top < bottom < board.std()
    assert veiled[:40].mean() == pytest.approx(0.6 * 255, abs=20)


@settings(max_examples=25)
@given(
    kind=st.sampled_from(["rain", "snow", "raindrop"]),
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    place=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    frame=st.tuples(st.integers(90, 1500), st.integers(90, 1500)),
    seed=st.integers(0, 1000),
)
def test_every_region_of_every_photograph_can_be_weathered(
    kind: str, shape: tuple[int, int], place: tuple[float, float], frame: tuple[int, int], seed: int
) -> None:
    image = np.random.default_rng(seed).integers(256, size=(*shape, 3), dtype=np.uint8)
    top, left = (int(share * (side - part)) for share, side, part in zip(place, frame, shape, strict=True))
    lies = Frame(*frame, top, left)
    parameters = weather.draw(settings_of("weather", {"kind": kind}), np.random.default_rng(seed))
    first, again = (weather.KINDS[kind].render(image, np.random.default_rng(seed), parameters, lies) for _ in range(2))
    assert first.shape == image.shape
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert np.array_equal(first, again)


@settings(max_examples=25)
@given(fog=st.floats(0, 2.3), airlight=st.floats(0.25, 0.8), seed=st.integers(0, 1000))
def test_transmission_and_veil_stay_in_their_ranges(fog: float, airlight: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = rng.random((60, 80, 3), dtype=np.float32)
    far = depth.plausible_depth(scene, rng, Frame(240, 320, 60, 80), horizon=0.3, slope=4)
    assert far.dtype == np.float32
    assert depth.NEAREST <= far.min() <= far.max() <= depth.FARTHEST
    veiled = rain.veil(scene, far, fog, airlight)
    transmission = (veiled - np.float32(airlight)) / (scene - np.float32(airlight))
    told = np.abs(scene - np.float32(airlight)) > 0.05
    assert transmission[told].min() > 0.10
    assert transmission[told].max() <= np.exp(-depth.NEAREST * fog) + 1e-4


def test_rain_is_its_formula_for_a_supplied_depth(photo: np.ndarray) -> None:
    scene = photo.astype(np.float32) / 255
    near_to_far = np.linspace(0.2, 1, photo.shape[1], dtype=np.float32)[None].repeat(photo.shape[0], axis=0)
    frame = Frame(*photo.shape[:2])
    wet = rain.render(photo, np.random.default_rng(5), RAIN, frame, depth=near_to_far)
    layers = streaks.streaks(np.random.default_rng(5), photo.shape[:2], RAIN["angle"], frame.unit(720, 480))
    t = np.exp(-RAIN["fog"] * near_to_far)[..., None]
    expected = t * (scene + RAIN["streaks"] / 255 * layers[..., None]) + (1 - t) * RAIN["airlight"]
    assert wet.dtype == np.float32
    assert np.abs(wet - expected).max() < 1e-5


def test_depth_grows_toward_the_horizon_of_the_frame(photo: np.ndarray) -> None:
    """A region knows its place: one from the photograph's foot is nearer than the same pixels at its top."""
    scene = photo.astype(np.float32) / 255
    height, width = 4 * photo.shape[0], 2 * photo.shape[1]
    tops = (0, height - photo.shape[0])
    means = np.array(
        [
            [
                depth.plausible_depth(
                    scene, np.random.default_rng(seed), Frame(height, width, top, 0), horizon=0.3, slope=2.5
                ).mean()
                for seed in range(8)
            ]
            for top in tops
        ]
    )
    assert (means[0] > means[1] + 0.2).all()


def test_noise_is_stationary() -> None:
    """Of mean 0 and standard deviation 1 at every pixel, also where the field is smaller than a cell."""
    for shape, cell in (((40, 30), 11.0), ((12, 9), 50.0)):
        fields = np.stack([depth.smooth_noise(np.random.default_rng(seed), shape, cell) for seed in range(400)])
        assert fields.dtype == np.float32
        assert np.abs(fields.mean(axis=0)).max() < 0.3
        assert fields.std(axis=0) == pytest.approx(1, abs=0.25)
        assert np.abs(np.diff(fields, axis=1)).max() < 8 / cell


@pytest.mark.parametrize("angle", [-70.0, -25.0, 0.0, 25.0])
def test_streaks_fall_along_the_wind(angle: float, rng: np.random.Generator) -> None:
    layer = streaks.streaks(rng, (300, 280), angle, 1.0)
    assert layer.shape == (300, 280)
    assert layer.dtype == np.float32
    assert layer.min() >= 0
    assert layer.std() == pytest.approx(1, abs=0.15)
    down, right = np.gradient(cv2.GaussianBlur(layer, (0, 0), 1.5))
    # The structure tensor's weakest direction is that of the streaks.
    tensor = np.array([[np.sum(down * down), np.sum(down * right)], [np.sum(down * right), np.sum(right * right)]])
    along = np.linalg.eigh(tensor)[1][:, 0]
    assert np.degrees(np.arctan(along[1] / along[0])) == pytest.approx(angle, abs=4)


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (321, 481), (480, 720), (1080, 1920), (3072, 4096)])
def test_rain_is_as_sparse_on_photographs_of_any_size(size: tuple[int, int]) -> None:
    """The streaks' mean in their standard deviations, 2.3–2.5 in published pairs of 480×720: no wash where pixels are
    wider than streaks."""
    shape = tuple(min(side, 300) for side in size)
    unit = Frame(*size).unit(720, 480)
    layers = [streaks.streaks(np.random.default_rng(seed), shape, 10.0, unit) for seed in range(12)]
    deviation = np.sqrt(np.mean([layer.var() for layer in layers]))
    assert deviation == pytest.approx(1, abs=0.15)
    assert np.mean(layers) / deviation == pytest.approx(2.25, abs=0.35)


def test_streaks_are_as_many_at_the_borders_as_inside(rng: np.random.Generator) -> None:
    mean = np.mean([streaks.streaks(rng, (90, 120), 20.0, 0.5) for _ in range(40)], axis=0)
    for border in (mean[:10], mean[-10:], mean[:, :10], mean[:, -10:]):
        assert border.mean() == pytest.approx(mean.mean(), rel=0.1)


def test_weather_is_as_likely_on_the_left_as_on_the_right() -> None:
    """Pairs are augmented by horizontal flips: weather of mirrored scenes must have mirrored statistics."""
    gray = np.full((64, 80, 3), 90, np.uint8)
    for kind in ("rain", "snow", "raindrop"):
        mean = np.mean([weathered(gray, seed, kind=kind) for seed in range(60)], axis=(0, 3))
        assert mean[:, :40].mean() == pytest.approx(mean[:, 40:].mean(), abs=4), kind
    winds = [
        weather.draw(settings_of("weather", {"kind": "rain"}), np.random.default_rng(s))["angle"] for s in range(400)
    ]
    assert np.mean(winds) == pytest.approx(0, abs=3)


@pytest.mark.parametrize("kind", ["snow", "raindrop"])
def test_weather_is_the_same_wherever_a_crop_lies(kind: str) -> None:
    """What falls on a crop does not know where in the photograph it is (fog does, see the depth)."""
    gray = np.full((240, 320, 3), 60, np.uint8)
    asked = settings_of("weather", {"kind": kind, **({"fog": 0} if kind == "snow" else {})})

    def brightness(top: int, left: int) -> float:
        crop = Crop(top, left, 64, 64)
        return np.mean(
            [degrade_region("weather", gray, crop, asked, np.random.default_rng(s)).degraded for s in range(60)]
        )

    corner, middle = brightness(0, 0), brightness(88, 128)
    assert middle > 62
    assert corner == pytest.approx(middle, rel=0.12)


def test_rain_only_adds_light_where_there_is_no_fog(photo: np.ndarray) -> None:
    wet = weathered(photo, kind="rain", fog=0, streaks=15)
    assert (wet >= photo).all()
    assert (wet > photo).mean() > 0.3


@pytest.mark.parametrize("unit", [0.2, 1.0, 4.0])
def test_snow_covers_its_share_of_photographs_of_any_size(unit: float) -> None:
    for share in (0.03, 0.15, 0.9):
        rng = np.random.default_rng(0)
        side = 64 if unit < 1 else 200
        covers = [snow.flakes(rng, (side, side), share, 10.0, unit) for _ in range(8 if unit < 4 else 40)]
        assert min(cover.min() for cover in covers) >= 0
        assert max(cover.max() for cover in covers) <= 1
        assert np.mean(covers) == pytest.approx(share, rel=0.15)


@settings(max_examples=40)
@given(diameter=st.floats(0.1, 30), squeeze=st.floats(0.6, 1), opacity=st.floats(0.1, 1), seed=st.integers(0, 1000))
def test_a_flake_covers_its_area(diameter: float, squeeze: float, opacity: float, seed: int) -> None:
    """However small, wherever between the pixels: that of its polygon, by its corners."""
    rng = np.random.default_rng(seed)
    radii = diameter / 2 * rng.uniform(0.45, 1.25, size=(1, 9))
    places = 32 + rng.random((25, 1, 2))
    turn = np.arange(9) * 2 * np.pi / 9
    x, y = radii[0] * np.cos(turn), squeeze * radii[0] * np.sin(turn)
    area = np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2
    drawn = [outlines.let_through((65, 65), place, radii, np.array([squeeze]), np.array([opacity])) for place in places]
    assert np.mean([np.sum(1 - clear) for clear in drawn]) == pytest.approx(opacity * area, rel=0.12)


def test_snow_whitens(photo: np.ndarray) -> None:
    dark = photo // 3
    snowy = weathered(dark, kind="snow", fog=0, flakes=0.15)
    assert snowy.mean() > dark.mean() + 5
    assert snowy.max() > 180


def test_snow_is_as_white_as_recorded(photo: np.ndarray) -> None:
    snowy = weathered(photo // 4, kind="snow", white=0.5, fog=0, flakes=0.5)
    assert 110 < snowy.max() <= 128


@pytest.mark.parametrize(
    ("kind", "drawn"),
    [
        ("rain", ["angle", "airlight", "fog", "horizon", "slope", "streaks"]),
        ("snow", ["angle", "fog", "horizon", "slope", "flakes", "white"]),
        ("raindrop", ["drops", "defocus", "bend", "sky", "sun_y", "sun_x"]),
    ],
)
def test_every_drawn_setting_is_recorded_and_counts(kind: str, drawn: list[str], photo: np.ndarray) -> None:
    """With a setting at one end of its range or at the other, all else equal, the pictures differ."""
    ranges = {name: getattr(weather.Settings(), name) for name in drawn}
    # Many drops and flakes: a small picture without any shows nothing of their settings.
    middle = {name: (ends.low + ends.high) / 2 for name, ends in ranges.items()} | {"drops": 150, "flakes": 0.1}
    for name, ends in ranges.items():
        pictures = []
        for end in (ends.low, ends.high):
            asked = settings_of("weather", {"kind": kind} | middle | {name: end})
            pair = degrade_image("weather", photo, asked, np.random.default_rng(0))
            assert pair.parameters == {"kind": kind} | {other: middle[other] for other in drawn} | {name: end}
            pictures.append(pair.degraded)
        assert not np.array_equal(*pictures), name


def test_drops_show_what_lies_beyond_the_crop() -> None:
    """A margin covers the farthest view of the largest drop, however defocused: none is mirrored at a cut."""
    for defocus, bend in ((2, 2), (8, 5), (20, 5)):
        parameters = {"kind": "raindrop", "drops": 50, "defocus": defocus, "bend": bend}
        farthest = bend * 60 * np.sin(np.radians(50)) + 2 * np.hypot(1, 2.5) * defocus
        assert weather.margin(parameters, (480, 720)) >= farthest
        assert weather.margin(parameters, (960, 1440)) == pytest.approx(
            2 * weather.margin(parameters, (480, 720)), abs=2
        )
    with pytest.raises(UserError, match="defocus=50: out of range, 0 to 20"):
        settings_of("weather", {"defocus": 50})


@pytest.mark.parametrize("kind", ["rain", "snow", "raindrop"])
def test_weather_of_a_crop_follows_its_surroundings_and_no_more(kind: str) -> None:
    """What lies beyond the margin changes nothing; a crop without weather is the photograph's."""
    rng = np.random.default_rng(0)
    image = rng.integers(256, size=(500, 620, 3), dtype=np.uint8)
    crop = Crop(220, 290, 48, 64)
    asked = settings_of("weather", {"kind": kind, "defocus": 2, "bend": 2, "drops": 400})
    parameters = weather.draw(asked, np.random.default_rng(1))
    around = weather.margin(parameters, image.shape[:2])
    changed = np.zeros_like(image)
    seen = np.s_[max(0, 220 - around) : 268 + around, max(0, 290 - around) : 354 + around]
    changed[seen] = image[seen]
    pairs = [degrade_region("weather", picture, crop, asked, np.random.default_rng(1)) for picture in (image, changed)]
    assert np.array_equal(pairs[0].degraded, pairs[1].degraded)
    assert not np.array_equal(pairs[0].degraded, pairs[0].clean)


def test_glass_without_drops_is_clear(photo: np.ndarray) -> None:
    assert np.abs(weathered(photo, kind="raindrop", drops=0).astype(int) - photo).max() <= 1


def test_a_drop_flips_the_view_and_leaves_the_rest() -> None:
    """Upper half dark, lower half bright: inside a drop on the border the view is flipped; so is left and right."""
    scene = np.zeros((200, 200, 3), np.float32)
    scene[100:] = 0.8
    water = np.zeros((2, 200, 200), np.float32)
    raindrop.pour(water, 100, 100, 40)
    surface, radius = raindrop.surface_of(water)
    assert surface[100, 100] == surface.max() > 0
    assert surface[100, 145] == 0
    assert radius[100, 100] == pytest.approx(40)
    assert surface[145, 100] > surface[55, 100] == 0  # it sags

    for turned in (False, True):
        seen = scene.swapaxes(0, 1) if turned else scene
        view, matte = raindrop.refract(
            np.ascontiguousarray(seen), surface, radius, bend=4.0, defocus=1.0, sky=0.0, sun=(5.0, 5.0)
        )
        assert matte[:40].max() < 1e-3
        assert matte[100, 100] == pytest.approx(1, abs=1e-5)
        dark, bright = ((100, 125), (100, 75)) if turned else ((125, 100), (75, 100))
        assert view[bright][0] > view[dark][0] + 0.2


@settings(max_examples=25)
@given(spheres=st.lists(st.tuples(st.floats(-20, 80), st.floats(-20, 80), st.floats(0.5, 30)), min_size=1, max_size=12))
def test_drops_merge_into_one_smooth_surface(spheres: list[tuple[float, float, float]]) -> None:
    water = np.zeros((2, 60, 60), np.float32)
    for row, column, size in spheres:
        raindrop.pour(water, row, column, size)
    surface, radius = raindrop.surface_of(water)
    assert np.isfinite(surface).all()
    assert surface.min() >= 0
    assert radius.max() <= max(1.0, *(size for _, _, size in spheres)) * 1.001
    assert surface.max() <= 1.001 * radius.max()


def test_dry_glass_shows_the_scene_in_focus(photo: np.ndarray) -> None:
    """The drops alone are computed on coarser pixels."""
    wet = weathered(photo, 3, kind="raindrop", drops=30, defocus=8)
    untouched = (wet == photo).all(axis=2)
    assert 0.1 < untouched.mean() < 1
    assert np.abs(srgb_to_linear(wet / 255) - srgb_to_linear(photo / 255)).max() > 0.05
