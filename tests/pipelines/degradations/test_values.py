"""Settings as a user writes them: what is read, drawn, refused, recorded."""

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgt.errors import UserError
from pipelines.degradations.values import (
    Choice,
    Range,
    Values,
    draw,
    each,
    fixed,
    idle,
    numbers,
    override,
    plain,
    special,
    truth,
    when,
    words,
)


@dataclass(frozen=True)
class Settings:
    quality: Values = field(default=Range(10, 40, whole=True), metadata=numbers(1, 100, whole=True))
    gain: Values = field(default=Range(0.01, 1.0, log=True), metadata=numbers(1e-6, 10, log=True))
    kind: Values = field(default=Choice(("rain", "snow")), metadata=words("rain", "snow"))
    gray: Values = field(default=fixed(False), metadata=truth())


@dataclass(frozen=True)
class Conditional:
    noise: Values = field(default=Choice(("gaussian", "camera")), metadata=words("gaussian", "camera", "none"))
    sigma: Values = field(default=Range(0.0, 50.0), metadata=numbers(0, 255) | when("noise", "gaussian"))


def split(raw: object, name: str) -> Choice:
    """Words with a dash between them, or the list that they were read as."""
    if not isinstance(raw, (str, list)):
        raise UserError(f"{name}={raw}: words are wanted")
    return Choice(tuple(raw.split("-") if isinstance(raw, str) else raw))


@dataclass(frozen=True)
class Special:
    text: Values = field(default=fixed(""), metadata=special(split))


WHOLE = st.integers(1, 100)
QUALITIES = (
    WHOLE
    | st.lists(WHOLE, min_size=1, max_size=4)
    | st.tuples(WHOLE, WHOLE).map(lambda ends: {"min": min(ends), "max": max(ends)})
    | st.dictionaries(WHOLE, st.floats(0.1, 9), min_size=1, max_size=4)
)


def allowed(written: object) -> set[int]:
    if isinstance(written, dict) and "min" in written:
        return set(range(written["min"], written["max"] + 1))
    return set(written) if isinstance(written, (list, dict)) else {written}


@given(QUALITIES, st.integers(0, 2**32))
def test_draws_are_what_was_written(written: object, seed: int) -> None:
    settings = override(Settings(), {"quality": written})
    drawn = draw(settings, np.random.default_rng(seed))
    assert drawn["quality"] in allowed(written)
    assert type(drawn["quality"]) is int
    assert json.loads(json.dumps(drawn)) == drawn


@given(QUALITIES)
def test_the_record_reads_back_as_the_same_settings(written: object) -> None:
    settings = override(Settings(), {"quality": written, "kind": {"rain": 2, "snow": 1}, "gray": {True: 1, False: 3}})
    record = json.loads(json.dumps(plain(settings)))
    assert override(Settings(), record) == settings


def test_weights_are_kept(rng: np.random.Generator) -> None:
    choice = override(Settings(), {"kind": {"rain": 3, "snow": 1}}).kind
    share = np.mean([choice.draw(rng) == "rain" for _ in range(4000)])
    assert share == pytest.approx(0.75, abs=0.03)
    assert override(Settings(), {"kind": {"rain": 0, "snow": 1}}).kind.draw(rng) == "snow"


def test_a_logarithmic_range_spreads_over_its_decades(rng: np.random.Generator) -> None:
    drawn = np.array([Settings().gain.draw(rng) for _ in range(4000)])
    assert drawn.min() >= 0.01
    assert drawn.max() <= 1.0
    assert np.mean(drawn < 0.1) == pytest.approx(0.5, abs=0.03)


def test_fixed_values_take_no_randomness() -> None:
    rng = np.random.default_rng(1)
    assert fixed(3).draw(rng) == 3
    assert rng.random() == np.random.default_rng(1).random()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qualty": 10}, "unknown setting 'tasks.jpeg.qualty': did you mean 'quality'?"),
        ({"quality": 0}, "tasks.jpeg.quality=0: out of range, 1 to 100 is allowed"),
        ({"quality": 10.5}, "tasks.jpeg.quality=10.5: a whole number is wanted"),
        ({"quality": "ten"}, "tasks.jpeg.quality=ten: a whole number is wanted"),
        ({"quality": True}, "tasks.jpeg.quality=True: a whole number is wanted"),
        ({"quality": []}, "tasks.jpeg.quality=[]: a choice needs at least one value"),
        ({"quality": {"min": 40, "max": 10}}, "tasks.jpeg.quality: min 40 is above max 10"),
        ({"quality": {"min": 0, "max": 10}}, "tasks.jpeg.quality.min=0: out of range, 1 to 100 is allowed"),
        (
            {"quality": {10: 0}},
            "tasks.jpeg.quality: a choice with weights needs one weight above 0, and a finite sum of them",
        ),
        (
            {"quality": {10: 1e308, 20: 1e308}},
            "tasks.jpeg.quality: a choice with weights needs one weight above 0, and a finite sum of them",
        ),
        ({"gain": float("nan")}, "tasks.jpeg.gain=nan: a number is wanted"),
        ({"kind": "rian"}, "tasks.jpeg.kind=rian: did you mean 'rain'?"),
        ({"kind": {"rain": -1}}, "tasks.jpeg.kind.rain=-1: out of range, 0 to inf is allowed"),
        ({"gray": 1}, "tasks.jpeg.gray=1: true or false is wanted"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changes: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        override(Settings(), changes, "tasks.jpeg.")
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"sigma": 3}, []),
        ({"noise": "gaussian", "sigma": 3}, []),
        ({"noise": "camera"}, []),
        ({"noise": "camera", "sigma": 3}, ["sigma has no effect with noise=camera"]),
        ({"noise": ["camera", "none"], "sigma": 3}, ["sigma has no effect with noise=camera,none"]),
        ({"noise": {"gaussian": 0, "camera": 1}, "sigma": 3}, ["sigma has no effect with noise=camera"]),
    ],
)
def test_what_no_draw_makes_count_is_told(changes: dict, reasons: list[str]) -> None:
    assert idle(override(Conditional(), changes), changes) == reasons


def test_each_choice_is_a_row() -> None:
    settings = override(Settings(), {"quality": [10, 20], "gain": 0.5, "gray": [False, True], "kind": "rain"})
    rows = dict(each(settings))
    assert list(rows) == [f"quality={q} gray={g}" for q in (10, 20) for g in ("false", "true")]
    assert draw(rows["quality=20 gray=true"], np.random.default_rng(0)) == {
        "quality": 20,
        "gain": 0.5,
        "kind": "rain",
        "gray": True,
    }
    assert [label for label, _ in each(override(settings, {"quality": 10, "gray": False}))] == [""]
    assert next(label for label, _ in each(settings, {"gain", "kind"})) == "quality=10 gain=0.5 kind=rain gray=false"
    ranged = override(settings, {"gain": {"min": 0.25, "max": 1}, "quality": 10, "gray": False})
    assert [label for label, _ in each(ranged, {"gain"})] == ["gain=0.25-1"]


def test_a_special_setting_reads_its_own_form_and_what_that_became() -> None:
    read = override(Special(), {"text": "a-b"})
    assert read.text == Choice(("a", "b"))
    assert override(Special(), json.loads(json.dumps(plain(read)))) == read
    with pytest.raises(UserError, match=r"^tasks\.it\.text=3: words are wanted$"):
        override(Special(), {"text": 3}, "tasks.it.")


def test_labels_shorten_long_texts_and_keep_them_apart() -> None:
    long = ["kernel:9x9:" + "A" * 500 + end for end in ("b1c2d3e4", "f5a6b7c8")]
    labels = [label for label, _ in each(override(Special(), {"text": long}))]
    assert labels == ["text=kernel:9x9:AAA…b1c2d3e4", "text=kernel:9x9:AAA…f5a6b7c8"]
