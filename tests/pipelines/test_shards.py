"""The shard format: exact there and back, the same bytes always, readable by others, and not to be fooled."""

import contextlib
import io
import json
import pickle
import struct
import tarfile

import numpy as np
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from pipelines import shards
from pipelines.shards import Pair, ShardError, decode_pair, encode_pair, read_shard, write_shard

sides = st.integers(1, 24)
keys = st.text("abcXYZ019-_", min_size=1, max_size=20)


def images(dtype: type) -> st.SearchStrategy[np.ndarray]:
    shapes = st.tuples(sides, sides) | st.tuples(sides, sides, st.just(3))
    elements = (
        st.floats(-0.96875, 1.96875, width=32, allow_subnormal=False) if dtype is np.float32 else st.integers(0, 255)
    )
    return shapes.flatmap(lambda shape: arrays.arrays(dtype, shape, elements=elements))


def tar_of(*samples: dict) -> bytes:
    file = io.BytesIO()
    write_shard(samples, file)
    return file.getvalue()


def read(data: bytes) -> list[Pair]:
    return [decode_pair(sample) for sample in read_shard(io.BytesIO(data))]


@given(keys, images(np.uint8), images(np.uint8) | images(np.float32))
def test_pairs_come_back(key: str, clean: np.ndarray, degraded: np.ndarray) -> None:
    (pair,) = read(tar_of(encode_pair(key, clean, degraded, {"parameters": {"sigma": 0.1}})))
    assert pair.key == key
    assert np.array_equal(pair.clean, clean)
    assert pair.clean.dtype == np.uint8
    assert pair.degraded.shape == degraded.shape
    assert pair.degraded.dtype == degraded.dtype
    if degraded.dtype == np.uint8:
        assert np.array_equal(pair.degraded, degraded)
    else:
        assert np.abs(pair.degraded - degraded).max() < 0.007 / 255
    assert pair.meta["parameters"] == {"sigma": 0.1}


def test_noise_beyond_white_and_black_is_kept() -> None:
    degraded = np.array([[-0.8, 1.7], [-3.0, 5.0]], np.float32)
    (pair,) = read(tar_of(encode_pair("a", np.zeros((2, 2), np.uint8), degraded, {})))
    assert np.allclose(pair.degraded, [[-0.8, 1.7], [-1.0, 2.0]], atol=1e-4)


def test_the_bytes_depend_on_the_pairs_alone(rng: np.random.Generator) -> None:
    clean, degraded = rng.integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    first = tar_of(encode_pair("a", clean, degraded, {"b": 1, "a": 2}))
    again = tar_of(encode_pair("a", clean.copy(), np.asfortranarray(degraded), {"a": 2, "b": 1}))
    assert first == again
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == ["a.clean.webp", "a.degraded.webp", "a.json"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}


@pytest.mark.parametrize("channels", [(), (3,)])
def test_webdataset_and_pillow_are_enough(channels: tuple, rng: np.random.Generator, tmp_path: object) -> None:
    clean = rng.integers(0, 256, (20, 30, *channels), dtype=np.uint8)
    noisy = (clean / 255 + rng.normal(0, 0.2, clean.shape)).astype(np.float32)
    path = tmp_path / "shard.tar"
    path.write_bytes(tar_of(encode_pair("a", clean, noisy, {"task": "denoise"})))

    (sample,) = wds.WebDataset(str(path), shardshuffle=False)
    assert sample["__key__"] == "a"
    assert json.loads(sample["json"])["task"] == "denoise"
    (clean_name,) = (name for name in sample if name.startswith("clean."))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(sample[clean_name]))), clean)
    planes = np.asarray(Image.open(io.BytesIO(sample["degraded.tiff"])))
    values = planes.reshape(-1, 20, 30).astype(np.float64) * 3 / 65535 - 1
    expected = noisy if channels == () else noisy.transpose(2, 0, 1)
    assert np.abs(values - expected).max() < 0.01 / 255
    assert np.array_equal(decode_pair(sample).clean, clean)


def forged(*members: tuple[tarfile.TarInfo, bytes], kind: int = tarfile.USTAR_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def member(name: str, data: bytes = b"x", **attributes: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info, data


@pytest.mark.parametrize(
    "tar",
    [
        forged(member("../a.json")),
        forged(member("/etc/a.json")),
        forged(member("a/b.json")),
        forged(member("a.clean.pickle", pickle.dumps(1))),
        forged(member("a.clean.pth")),
        forged(member("a.clean.webp", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
        forged(member("a.clean.webp", b"", type=tarfile.DIRTYPE)),
        forged(member("a" * 150 + ".json"), kind=tarfile.GNU_FORMAT),
        forged(member("é.json"), kind=tarfile.PAX_FORMAT),
        forged(member("a.json"), member("a.json")),
        forged(member("a.json"), member("a.clean.webp")),
        forged(member("a.json", b" " * (shards.MAX_JSON_BYTES + 1))),
        b"not a tar" * 100,
        b"",
        bytes(100),
    ],
)
def test_hostile_tars_are_refused(tar: bytes) -> None:
    with pytest.raises(ShardError):
        list(read_shard(io.BytesIO(tar)))


def test_a_member_that_claims_to_be_huge_is_not_read() -> None:
    info = tarfile.TarInfo("a.clean.webp")
    info.size = 1 << 40
    header = info.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(ShardError, match="too large"):
        list(read_shard(io.BytesIO(header + bytes(1024))))


def test_a_key_may_appear_once() -> None:
    image = np.zeros((4, 4), np.uint8)
    one, other = (encode_pair(key, image, image, {}) for key in "ab")
    with pytest.raises(ShardError, match="twice"):
        list(read_shard(io.BytesIO(tar_of(one, other, one))))


@given(st.data())
@settings(max_examples=300)
def test_damage_ends_in_one_kind_of_error(data: st.DataObject) -> None:
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)
    noisy = rng.random((8, 9, 3), dtype=np.float32)
    tar = bytearray(tar_of(encode_pair("a", clean, clean, {}), encode_pair("b", clean, noisy, {})))
    for _ in range(data.draw(st.integers(1, 4))):
        tar[data.draw(st.integers(0, len(tar) - 1))] = data.draw(st.integers(0, 255))
    tar = tar[: data.draw(st.integers(0, len(tar)))] if data.draw(st.booleans()) else tar
    with contextlib.suppress(ShardError):
        read(bytes(tar))


def out_of_reach() -> bytes:
    """A TIFF whose pixels begin at 2^64 - 1, as the eight bytes (type 16) say that their offset leads to."""
    noisy = np.full((8, 9, 3), 2, np.float32)
    tiff = encode_pair("a", noisy.astype(np.uint8), noisy, {})["degraded.tiff"]
    return tiff.replace(struct.pack("<HH", 273, 4), struct.pack("<HH", 273, 16))


@pytest.mark.parametrize(
    "change",
    [
        {"clean.webp": b"RIFF"},
        {"degraded.tiff": b"II*\0"},
        {"degraded.tiff": out_of_reach()},
        {"json": b"{"},
        {"json": b"[]"},
        {"json": b"[" * 100_000},
        {"json": b'{"format": 2, "layout": "u8"}'},
        {"json": b'{"format": 1, "layout": "fixed16x7"}'},
        {"json": b'{"format": 1, "layout": "u8"}'},
        {"json": b'{"format": 1}'},
        {"clean.exe": b""},
    ],
)
def test_pairs_that_are_none(change: dict) -> None:
    sample = encode_pair("a", np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.float32), {})
    with pytest.raises(ShardError):
        decode_pair(sample | change)


def test_an_image_of_too_many_pixels_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    sample = encode_pair("a", image, image, {})
    monkeypatch.setattr(shards, "MAX_PIXELS", 64 * 64 - 1)
    with pytest.raises(ShardError, match="64x64 pixels are too many"):
        decode_pair(sample)


def test_a_png_under_another_name_is_not_decoded() -> None:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ShardError):
        decode_pair(encode_pair("a", image, image, {}) | {"clean.webp": file.getvalue()})


def test_other_kinds_of_arrays_are_a_mistake() -> None:
    with pytest.raises(TypeError, match="uint16"):
        encode_pair("a", np.zeros((4, 4), np.uint16), np.zeros((4, 4), np.uint8), {})
