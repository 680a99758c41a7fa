"""Images in tars: every one is found and read by its range, and no damage goes unnoticed."""

import io
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

import boto3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgt.errors import UserError
from pipelines.s3_store import S3Store
from pipelines.source_tars import list_tars
from pipelines.sources import list_sources

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
ENDS = (".png", ".jpg")


def tar_of(members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


names = st.builds(
    lambda stem, folder, end: f"{'long folder/' * folder}{stem}{end}",
    st.text("aé0._-", min_size=1, max_size=8).filter(lambda stem: stem[0] != "."),
    st.sampled_from([0, 1, 12]),
    st.sampled_from([".png", ".JPG", ".json", ""]),
)


@settings(max_examples=60)
@given(st.dictionaries(names, st.binary(max_size=3000), max_size=8), st.sampled_from(FORMATS[1:]))
def test_every_image_is_found_and_read(members: dict[str, bytes], form: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.tar"
        path.write_bytes(tar_of(members, form))
        found = list(list_tars(str(path), ENDS))
        images = {f"x.tar/{name}": data for name, data in members.items() if name.lower().endswith(ENDS)}
        assert [member.name for member in found] == list(images)
        for member in found:
            offset, size = member.span
            assert path.read_bytes()[offset : offset + size] == images[member.name]


WHOLE = tar_of({"a.png": b"x" * 900, "a.json": b"{}", f"{'long' * 40}.png": b"y" * 600, "b.png": b"z" * 40})


@settings(max_examples=80)
@given(st.integers(0, len(WHOLE.rstrip(b"\0")) // 512 * 512 + 511))
def test_a_tar_cut_off_anywhere_is_named(length: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.tar"
        path.write_bytes(WHOLE[:length])
        with pytest.raises(UserError, match=r"x\.tar: not a whole tar file"):
            list(list_tars(str(path), ENDS))


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_tar_is_named_or_its_ranges_are_inside(damage: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE)
    for place, value in damage:
        data[place] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.tar"
        path.write_bytes(data)
        try:
            found = list(list_tars(str(path), ENDS))
        except UserError as error:
            assert "x.tar: not a whole tar file" in str(error)  # noqa: PT017
        else:
            assert all(m.span[0] > 0 and sum(m.span) <= len(data) for m in found)


def test_what_is_no_plain_file_is_no_image(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo(f"kind {kind.decode()}.png")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("._photo.png"))
        tar.addfile(tarfile.TarInfo("a/../photo.png"))
    assert [member.name for member in list_tars(str(tmp_path / "x.tar"), ENDS)] == ["x.tar/photo.png"]


def test_two_files_of_one_name(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("a.png"))
        tar.addfile(tarfile.TarInfo("./a.png"))
    with pytest.raises(UserError, match=r"two files are named a\.png"):
        list(list_tars(str(tmp_path / "x.tar"), ENDS))


def test_a_header_that_declares_too_much(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 8 << 30
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(UserError, match="a header of 8589934592 bytes"):
        list(list_tars(str(tmp_path / "x.tar"), ENDS))


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **pax: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.pax_headers = size, kind, pax
    return info.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("hostile", "message"),
    [
        (header("a.txt", -512), "a size below nothing"),  # the next header would be this one
        (header("a.png", -1), "a size below nothing"),
        (header("a.txt", -512, tarfile.GNUTYPE_SPARSE), "a size below nothing"),
        (header("a.txt", size="-1536"), "a size below nothing"),
        (3000 * header("a", 0, tarfile.XGLTYPE), "recursion"),
        (header("../a.png"), r"\.\./a\.png leads out of it"),
        (header("b/../../a.png"), r"\.\./a\.png leads out of it"),
        (header("/etc/a.png"), r"/etc/a\.png leads out of it"),
    ],
)
def test_a_hostile_tar_is_refused(hostile: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(header("first") + hostile + bytes(4096))
    with pytest.raises(UserError, match=rf"x\.tar: not a whole tar file: .*{message}"):
        list(list_tars(str(tmp_path / "x.tar"), ENDS))


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_a_file_of_holes_is_longer_than_its_tar(form: str, tmp_path: Path) -> None:
    (tmp_path / "holes.png").touch()
    os.truncate(tmp_path / "holes.png", 1 << 20)
    (tmp_path / "photo.png").write_bytes(b"photo")
    command = ["tar", f"--format={form}", "--sparse", "-C", tmp_path, "-cf", tmp_path / "x.tar"]
    subprocess.run([*command, "holes.png", "photo.png"], check=True)
    assert [member.name for member in list_tars(str(tmp_path / "x.tar"), ENDS)] == ["x.tar/photo.png"]


def test_addresses_of_several_tars(tmp_path: Path) -> None:
    for number in range(3):
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{number:03d}.tar").write_bytes(tar_of({"./a.png": b"1", "b/c.png": b"2"}))

    def found(address: str) -> list[str]:
        return [source.name for source in list_sources(f"{tmp_path}/{address}", "CC0")]

    assert found("one/001.tar") == ["001.tar/a.png", "001.tar/b/c.png"]
    assert found("one/{001..002}.tar") == found("one/00[12].tar")
    assert found("*/000.tar") == [
        f"{folder}/000.tar/{name}" for folder in ("one", "two") for name in ("a.png", "b/c.png")
    ]
    assert len(set(found("{one,two}/*.tar"))) == 12
    for address, message in {
        "one/*x.tar": "no such tar",
        "one/{000..003}.tar": r"003\.tar: No such file",
        "one/{000.tar": "brace is not closed",
    }.items():
        with pytest.raises(UserError, match=message):
            found(address)


def test_a_limit_reads_no_further_tar(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(tar_of({"a.png": b"1", "b.png": b"2"}))
    (tmp_path / "1.tar").write_bytes(b"damaged")
    assert len(list_sources(f"{tmp_path}/*.tar", "", limit=2)) == 2
    with pytest.raises(UserError, match=r"1\.tar: not a whole tar"):
        list_sources(f"{tmp_path}/*.tar", "", limit=3)


def test_tars_in_a_bucket_are_read_in_small_parts(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {f"{n}.png": bytes([n]) * 200_000 for n in range(5)}
    for number in range(3):
        boto3.client("s3").put_object(Bucket=s3_bucket, Key=f"in/{number}.tar", Body=tar_of(members))
    boto3.client("s3").put_object(Bucket=s3_bucket, Key="in/empty.tar", Body=b"")
    fetched = []

    def counting(store: S3Store, key: str, offset: int, size: int) -> tuple[bytes, int]:
        fetched.append(size)
        return get_range(store, key, offset, size)

    get_range = S3Store.get_range
    monkeypatch.setattr(S3Store, "get_range", counting)
    sources = list_sources(f"s3://{s3_bucket}/in/{{0..2}}.tar", "CC0")
    assert sum(fetched) < 3 * 200_000
    assert [source.name for source in sources] == [f"{n}.tar/{name}" for n in range(3) for name in members]
    assert [source.read() for source in sources] == 3 * list(members.values())
    for name, message in {"none": "none.tar: no such tar", "empty": "empty.tar: not a whole tar file"}.items():
        with pytest.raises(UserError, match=message):
            list_sources(f"s3://{s3_bucket}/in/{name}.tar", "CC0")
