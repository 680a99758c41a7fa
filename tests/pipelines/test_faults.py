"""Faults of networks, stores, disks, clocks and people: nothing lost, nothing silently wrong, each end in one line."""

import itertools
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest

from pipelines.storage import Store, open_store
from tests.pipelines.faults import (
    EVER,
    Act,
    CutAnswer,
    CutRequest,
    Delay,
    Fault,
    FaultProxy,
    Forget,
    Hold,
    IgnoreConditions,
    Lose,
    Refuse,
    Vanish,
)
from tests.pipelines.runs import Commands, Ended, contents

ASKED = ["task=[jpeg,sr]", "crop=64", "crops=4", "shards_min=3"]
SHARD, RECORD = r"/pool/.*\.tar$", r"/pool/.*\.json$"
MANIFEST, CURRENT = r"/versions/v", r"/CURRENT$"
DAY = 24 * 3600.0


@pytest.fixture(scope="module")
def spools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands have their temporary files."""
    return tmp_path_factory.mktemp("spools")


@pytest.fixture(scope="module")
def command(root: Path, proxied: tuple[FaultProxy, dict[str, str]], spools: Path) -> Iterator[Commands]:
    """Runs commands on a Ray whose workers reach S3 through the proxy."""
    commands = Commands(root, proxied[1] | {"TMPDIR": str(spools), "RAY_TMPDIR": tempfile.gettempdir()})
    yield commands
    commands.close()


@pytest.fixture
def run(command: Commands, photos: Path) -> Callable[[Store], Ended]:
    """Runs synthesize.py into a store."""
    return lambda store: command("synthesize", f"source={photos}", f"store={store.url}", *ASKED)


@pytest.fixture(scope="module")
def calm_once() -> dict[str, dict[str, bytes]]:
    return {}


@pytest.fixture
def calm(run: Callable[[Store], Ended], calm_once: dict, tmp_path: Path) -> dict[str, bytes]:
    """What a run without a fault leaves. Shards have their names from the photographs' contents, not their folder."""
    if not calm_once:
        store = open_store(f"file://{tmp_path}/calm")
        assert run(store).code == 0
        calm_once.update(contents(store))
    return calm_once


@pytest.mark.parametrize(
    ("method", "path", "fault"),
    [
        ("GET|PUT|HEAD", "", Refuse(503)),
        ("PUT", SHARD, Refuse(500, "InternalError")),
        ("GET|PUT|HEAD", "", Delay(0.3)),
        ("PUT", SHARD, CutRequest(1000)),
        ("PUT", "", CutRequest(0)),
        ("PUT", SHARD, CutAnswer()),
        ("PUT", f"{RECORD}|{MANIFEST}|{CURRENT}|/probe-", CutAnswer()),
    ],
    ids=["503", "500", "slow", "reset in a shard", "reset before a body", "a shard's answer lost", "answers lost"],
)
def test_a_passing_fault_changes_no_byte(
    method: str,
    path: str,
    fault: Fault,
    run: Callable[[Store], Ended],
    proxy: FaultProxy,
    bucket: Store,
    calm: dict[str, bytes],
) -> None:
    proxy.add(method, path, fault, every=4, times=EVER)
    ended = run(bucket)
    assert (ended.code, "error:" in ended.said) == (0, False), ended.said
    assert fault.happened >= 2
    proxy.clear()
    assert contents(bucket) == calm


def test_a_lost_write_of_a_worker_is_made_again(
    run: Callable[[Store], Ended], proxy: FaultProxy, bucket: Store, calm: dict[str, bytes]
) -> None:
    lost = [proxy.add("PUT", f"/jpeg{SHARD}", Forget()), proxy.add("PUT", f"/sr{RECORD}", Lose())]
    ended = run(bucket)
    assert ended.code == 0, ended.said
    assert [fault.happened for fault in lost] == [1, 1]
    assert contents(bucket) == calm


@pytest.mark.parametrize(
    ("path", "fault", "message"),
    [
        (MANIFEST, Forget(), "acknowledged jpeg/versions/v000001.json but does not hold it|sr/versions"),
        (CURRENT, Lose(), "CURRENT but does not hold it"),
        ("/rejects.jsonl", Forget(), "rejects.jsonl but does not hold it"),
        (MANIFEST, Refuse(403, "AccessDenied"), "the endpoint says AccessDenied"),
        ("/probe-", CutRequest(0), "does not answer"),
    ],
    ids=["manifest", "CURRENT", "rejects", "denied", "no answer"],
)
def test_a_fault_that_stays_ends_in_one_line_and_the_same_command_goes_on(
    path: str,
    fault: Fault,
    message: str,
    run: Callable[[Store], Ended],
    proxy: FaultProxy,
    bucket: Store,
    calm: dict[str, bytes],
) -> None:
    proxy.add("PUT", path, fault, times=EVER)
    ended = run(bucket)
    assert ended.code == 2
    assert re.search(message, ended.error)
    assert calm.items() >= contents(bucket).items(), "nothing half-written"
    proxy.clear()
    assert run(bucket).code == 0
    assert contents(bucket) == calm


@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
def test_a_store_that_ignores_conditions_is_refused_before_anything_is_written(
    header: str, run: Callable[[Store], Ended], proxy: FaultProxy, bucket: Store
) -> None:
    proxy.add("PUT", "", IgnoreConditions(header), times=EVER)
    ended = run(bucket)
    assert ended.code == 2
    assert "ignores conditional writes" in ended.error
    assert contents(bucket) == {}
    assert proxy.count("GET", "/pool/") == 0


@pytest.mark.parametrize(("moment", "there"), [("survey", 0), ("versions", 1)], ids=["before", "with"])
def test_a_shard_removed_before_or_with_the_manifest_is_not_published(
    moment: str, there: int, run: Callable[[Store], Ended], proxy: FaultProxy, bucket: Store, calm: dict[str, bytes]
) -> None:
    held = proxy.add("PUT", f"/jpeg/{moment}/", Hold())
    with_answer = Answering(run, bucket)
    assert held.arrived.wait(120)
    bucket.delete(next(bucket.list("jpeg/pool/")).replace(".json", ".tar"))
    held.release()
    ended = with_answer()
    assert ended.code == 2
    assert "was removed while the run was going on: run it again" in ended.error
    assert len(list(bucket.list("jpeg/versions/"))) == there
    assert bucket.head("jpeg/CURRENT") is None
    assert run(bucket).code == 0
    assert contents(bucket) == calm


@pytest.mark.parametrize(
    ("kind", "damage"),
    [("file", "truncated"), ("file", "swapped"), ("file", "flipped bit"), ("s3", "flipped bit"), ("s3", "copy")],
)
def test_a_damaged_shard_of_an_unfinished_run_is_made_again(
    kind: str,
    damage: str,
    run: Callable[[Store], Ended],
    bucket: Store,
    file_store: Store,
    calm: dict[str, bytes],
) -> None:
    store = bucket if kind == "s3" else file_store
    shards = sorted((key for key in calm if key.endswith(".tar")), key=lambda key: len(calm[key]))
    for key, data in calm.items():
        if "/pool/" in key:  # as after a kill before the manifest
            store.put(key, data)
    one, other = next(pair for pair in itertools.pairwise(shards) if len(calm[pair[0]]) == len(calm[pair[1]]))
    if damage == "copy":  # the checksum that the endpoint keeps is copied, too
        at = {"Bucket": bucket.bucket, "Key": bucket.prefix + one}
        boto3.client("s3").copy_object(CopySource={**at, "Key": bucket.prefix + other}, **at)
    else:
        flipped = calm[one][:5000] + bytes([calm[one][5000] ^ 1]) + calm[one][5001:]
        overwrite(store, one, {"truncated": calm[one][:-2000], "swapped": calm[other], "flipped bit": flipped}[damage])
    ended = run(store)
    assert ended.code == 0, ended.said
    assert f"{len(shards) - 1} of {len(shards)} shards were there already" in ended.said
    assert contents(store) == calm


def test_a_hostile_tar_in_the_pool_is_told(
    command: Commands, run: Callable[[Store], Ended], bucket: Store, calm: dict[str, bytes]
) -> None:
    assert run(bucket).code == 0
    victim = next(key for key in calm if key.endswith(".tar"))
    hostile = calm[victim].replace(calm[victim][:20], b"../../../etc/passwd\0", 1)
    overwrite(bucket, victim, hostile)
    ended = command("datasets", "verify", f"store={bucket.url}")
    assert ended.code == 2
    assert f"1 of 8 shards in {bucket.url} are not what was published: {victim} (" in ended.error


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_a_source_deleted_between_survey_and_synthesis(
    where: str, command: Commands, proxy: FaultProxy, bucket: Store, photos: Path, calm: dict[str, bytes]
) -> None:
    files = sorted(photos.rglob("*.png"))
    source = photos
    if where == "bucket":
        client = boto3.client("s3")
        for path in files:
            client.upload_file(str(path), bucket.bucket, f"photos/{path.name}")
        source = f"s3://{bucket.bucket}/photos"
        gone = proxy.add("GET", f"/photos/{files[2].name}$".replace(" ", "(%20| )"), Vanish(), nth=2, times=EVER)
    else:
        gone = proxy.add("GET", RECORD, Act(files[2].unlink))  # the first that a shard's task asks for
    ended = command("synthesize", f"source={source}", f"store={bucket.url}", *ASKED)
    assert gone.happened
    assert ended.code == 2
    assert re.search(f"source .*{files[2].name} disappeared while the run was going on: run it again", ended.error)
    assert not any("/versions/" in key or "CURRENT" in key for key in bucket.list(""))
    assert calm.items() >= contents(bucket).items()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text.replace('"samples": ', '"samples": 1'), "damaged|not the manifest"),
        (lambda text: text.replace('"seed": 0', '"seed": 1'), "damaged|not the manifest"),
        (lambda text: text[: len(text) // 2], "damaged"),
    ],
    ids=["a shard", "the recipe", "cut off"],
)
def test_an_edited_manifest_stops_every_command(
    edit: Callable[[str], str], message: str, command: Commands, run: Callable[[Store], Ended], file_store: Store
) -> None:
    assert run(file_store).code == 0
    key = "jpeg/versions/v000001.json"
    original = file_store.get(key)
    file_store.put(key, edit(original.decode()).encode())
    before = contents(file_store)
    at = f"store={file_store.url}"
    asked = [run(file_store), *(command("datasets", verb, at, "task=jpeg") for verb in ("show", "verify", "prune"))]
    for ended in asked:
        assert ended.code == 2
        assert re.search(message, ended.error)
    assert contents(file_store) == before
    file_store.put(key, original)
    assert command("datasets", "verify", at).code == 0


def test_a_damaged_pointer_is_made_again_when_it_is_deleted(
    run: Callable[[Store], Ended], file_store: Store, calm: dict[str, bytes]
) -> None:
    assert run(file_store).code == 0
    file_store.put("jpeg/CURRENT", b"v000001")
    assert "jpeg/CURRENT is damaged: delete it, and run synthesize.py again" in run(file_store).error
    file_store.delete("jpeg/CURRENT")
    ended = run(file_store)
    assert (ended.code, ended.said.count("nothing to do")) == (0, 2)
    assert contents(file_store) == calm


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path, int], None]]:
    """Mounts a disk of so many KiB at a folder, or gives the one that is mounted there that size."""
    mounted = []

    def sized(folder: Path, kib: int) -> None:
        options = f"size={kib}k" + (",remount" if folder in mounted else "")
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "kgt", folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"this user may not mount a small disk: {done.stderr.strip()}")
        mounted.append(folder)

    yield sized
    for folder in set(mounted):
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_store_ends_in_one_line_and_goes_on_when_there_is_room(
    small_disk: Callable[[Path, int], None],
    run: Callable[[Store], Ended],
    file_store: Store,
    tmp_path: Path,
    calm: dict[str, bytes],
) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    small_disk(folder, 160)
    ended = run(file_store)
    assert ended.code == 2
    assert re.search(rf"store {file_store.url} cannot be written: No space left on device \({folder}", ended.error)
    left = contents(file_store)
    assert 0 < len(left) < len(calm)
    assert calm.items() >= left.items(), "nothing half-written"
    small_disk(folder, 100_000)
    assert run(file_store).code == 0
    assert contents(file_store) == calm


def test_a_full_folder_for_temporary_files_is_named(
    small_disk: Callable[[Path, int], None],
    run: Callable[[Store], Ended],
    file_store: Store,
    spools: Path,
    calm: dict[str, bytes],
) -> None:
    small_disk(spools, 16)
    ended = run(file_store)
    assert ended.code == 2
    assert f"the folder for temporary files, {spools}, is full (No space left on device)" in ended.error
    assert "set TMPDIR" in ended.error
    assert list(file_store.list("")) == list(spools.iterdir()) == []
    small_disk(spools, 100_000)
    assert run(file_store).code == 0
    assert contents(file_store) == calm


class Answering:
    """A run in the background; call it for how it ended."""

    def __init__(self, run: Callable[[Store], Ended], store: Store) -> None:
        self._ended: list[Ended] = []
        self._thread = threading.Thread(target=lambda: self._ended.append(run(store)))
        self._thread.start()

    def __call__(self) -> Ended:
        self._thread.join(120)
        return self._ended[0]


def overwrite(store: Store, key: str, data: bytes) -> None:
    """Put another object there, as other programs do: without this project's checksum."""
    if store.url.startswith("file://"):
        Path(store.url.removeprefix("file://"), key).write_bytes(data)
    else:
        boto3.client("s3").put_object(Bucket=store.bucket, Key=store.prefix + key, Body=data)
