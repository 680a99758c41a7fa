"""Both stores keep the same promises: whole objects, conditions that hold or raise, clear words in trouble."""

import errno
import gzip
import hashlib
import json
import os
import pickle
import threading
import time
import tracemalloc
from contextlib import ExitStack
from pathlib import Path

import boto3
import pytest
from botocore.stub import Stubber

from kgt.errors import UserError
from pipelines import s3_store, storage
from pipelines.storage import (
    Absent,
    Conflict,
    Malformed,
    Matches,
    Missing,
    Store,
    Unavailable,
    check_writable,
    open_store,
    read_records,
)
from tests.pipelines.faults import EVER, Act, Change, CutAnswer, FaultProxy, Forget, Lose


def test_objects_come_back_as_they_went(store: Store, tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    file = tmp_path / "data"
    file.write_bytes(data)
    store.put("a/b.bin", b"small")
    etag = store.put("a/c.bin", file)
    assert store.get("a/b.bin") == b"small"
    with store.open("a/c.bin") as stream:
        assert stream.read(10) + stream.read() == data
    stat = store.head("a/c.bin")
    assert (stat.size, stat.etag) == (len(data), etag)
    assert stat.sha256 in (None, hashlib.sha256(data).hexdigest())
    assert list(store.list("a/")) == ["a/b.bin", "a/c.bin"]
    with open(file, "rb") as opened:
        opened.seek(5)
        store.put("a/c.bin", opened)
    assert store.get("a/c.bin") == data
    assert list(store.list("nothing/")) == []


def test_a_missing_object_is_missing(store: Store) -> None:
    assert store.head("no/such") is None
    with pytest.raises(Missing):
        store.get("no/such")
    store.delete("no/such")


def test_lists_come_back_record_by_record(store: Store) -> None:
    records = [{"digest": f"{number:032x}"} for number in range(2000)]
    data = "".join(f"{json.dumps(record)}\n" for record in records).encode()
    store.put("list.jsonl", data)
    store.put("list.jsonl.gz", gzip.compress(data))
    assert list(read_records(store, "list.jsonl")) == list(read_records(store, "list.jsonl.gz")) == records
    with pytest.raises(Missing):
        list(read_records(store, "none.jsonl.gz"))


@pytest.mark.parametrize(
    ("data", "trouble"),
    [
        (b"{}\n[]\n", "no record"),
        (b"{}\nx\n", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": 1}\n' * 200_000, "it is larger than 1 MiB"),
        (bytes(2 << 20), "a line of it is larger than 1 MiB"),
    ],
    ids=["list", "text", "deep", "many", "long"],
)
def test_a_hostile_list_is_refused(
    file_store: Store, data: bytes, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "MAX_LIST_BYTES", 1 << 20)
    file_store.put("list.jsonl", data)
    file_store.put("list.jsonl.gz", gzip.compress(data))
    for key in ("list.jsonl", "list.jsonl.gz"):
        with pytest.raises(Malformed, match=trouble):
            list(read_records(file_store, key))


@pytest.mark.parametrize("kept", [slice(0, -20), slice(1, None), slice(0, 12)])
def test_a_damaged_gzip_file_is_refused(file_store: Store, kept: slice) -> None:
    file_store.put("list.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 9)[kept])
    with pytest.raises(Malformed, match="no whole gzip file"):
        list(read_records(file_store, "list.jsonl.gz"))


def test_a_gzip_bomb_fills_no_memory(file_store: Store) -> None:
    file_store.put("list.jsonl.gz", gzip.compress(bytes(64 << 20)))
    tracemalloc.start()
    with pytest.raises(Malformed, match="larger than"):
        list(read_records(file_store, "list.jsonl.gz"))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 8 << 20


def test_conditions(store: Store) -> None:
    first = store.put("x", b"1", condition=Absent())
    with pytest.raises(Conflict):
        store.put("x", b"2", condition=Absent())
    second = store.put("x", b"3", condition=Matches(first))
    assert second != first
    with pytest.raises(Conflict):
        store.put("x", b"4", condition=Matches(first))
    assert store.get("x") == b"3"
    store.delete("x")
    assert store.head("x") is None


@pytest.mark.parametrize("condition", ["absent", "matches"])
def test_of_many_writers_at_once_one_wins(store: Store, condition: str) -> None:
    etag = store.put("x", b"old") if condition == "matches" else None
    start, outcomes = threading.Barrier(8), []

    def write(number: int) -> None:
        start.wait()
        try:
            store.put("x", str(number).encode(), condition=Matches(etag) if etag else Absent())
            outcomes.append(number)
        except Conflict:
            pass

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 1
    assert store.get("x") == str(outcomes[0]).encode()


def test_stores_travel_between_processes(store: Store) -> None:
    store.put("x", b"1")
    assert pickle.loads(pickle.dumps(store)).get("x") == b"1"


def test_a_writable_store_passes_the_check_and_keeps_nothing_of_it(store: Store) -> None:
    check_writable(store)
    assert list(store.list("")) == []


@pytest.mark.parametrize("key", ["../x", "/x", "a/../x", "a//b", ".hidden", "a/.tmp/b", "", "a\0b"])
def test_keys_stay_inside_the_store(store: Store, key: str) -> None:
    for change in (lambda: store.put(key, b""), lambda: store.head(key), lambda: store.delete(key)):
        with pytest.raises(ValueError, match="not a key"):
            change()


@pytest.mark.parametrize(("number", "raised"), [(errno.EACCES, UserError), (errno.EIO, OSError)])
def test_a_folder_that_cannot_be_read_is_not_an_empty_one(
    number: int, raised: type, file_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    file_store.put("a/b", b"")
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(raised, match=os.strerror(number)):
        list(file_store.list("a/"))


def test_nothing_is_left_of_a_write_that_fails(file_store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        file_store.put("x", tmp_path / "no such file")
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("/tmp/x", "unknown scheme"),
        ("ftp://host/x", "unknown scheme"),
        ("file://relative/x", "absolute path"),
        ("s3://", "bucket is missing"),
    ],
)
def test_addresses_that_are_none(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_store(url)


def test_the_default_store_is_under_kgt_home(kgt_home: Path) -> None:
    assert open_store("").url == f"file://{kgt_home}/shards"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        check_writable(open_store(f"file://{tmp_path}/file/store"))


def test_a_bucket_that_is_not_there(s3_bucket: str) -> None:
    with pytest.raises(UserError, match="there is no bucket 'other'"):
        check_writable(open_store("s3://other/x"))


def test_an_endpoint_that_refuses(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3_store._client.cache_clear()
    with pytest.raises(Unavailable, match="Could not connect"):
        open_store(f"s3://{s3_bucket}/x").get("x")


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [("SlowDown", 503, Unavailable), ("InternalError", 500, Unavailable), ("AccessDenied", 403, UserError)],
)
def test_what_may_pass_by_itself_is_told_apart(s3_bucket: str, code: str, status: int, kind: type) -> None:
    with Stubber(s3_store._client()) as stub:
        stub.add_client_error("get_object", code, http_status_code=status)
        with pytest.raises(UserError, match=f"the endpoint says {code}") as caught:
            open_store(f"s3://{s3_bucket}/x").get("x")
    assert caught.type is kind


@pytest.mark.parametrize(("name", "value"), [("AWS_ENDPOINT_URL", "localhost:9000"), ("AWS_PROFILE", "no-such")])
def test_variables_that_describe_no_client(
    s3_bucket: str, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    s3_store._client.cache_clear()
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    for ask in (lambda store: store.put("x", b""), lambda store: list(store.list("x/"))):
        with pytest.raises(UserError, match=f"{value}.*check AWS_PROFILE"):
            ask(open_store(f"s3://{s3_bucket}/x"))


@pytest.mark.parametrize("address", ["http://me:hidden@127.0.0.1:9", "http://me:hidden@-"])
def test_a_password_in_the_configuration_file_is_not_repeated(
    s3_bucket: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(f"[default]\nendpoint_url = {address}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    s3_store._client.cache_clear()
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(UserError, match="endpoint_url in AWS's configuration file holds a password") as caught:
        open_store(f"s3://{s3_bucket}/x").get("x")
    assert "hidden" not in str(caught.value)


def test_s3_keeps_the_checksum_and_is_readable_by_any_client(s3_bucket: str) -> None:
    open_store(f"s3://{s3_bucket}/a/b").put("c/d.bin", b"data")
    found = boto3.client("s3").head_object(Bucket=s3_bucket, Key="a/b/c/d.bin", ChecksumMode="ENABLED")
    assert found["Metadata"]["sha256"] == hashlib.sha256(b"data").hexdigest()
    assert found["ChecksumSHA256"]


def test_many_objects_are_read_at_once_without_a_word(s3_bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    """As by a training worker, which has one open for each of its streams, 48 at most."""
    store = open_store(f"s3://{s3_bucket}/x")
    store.put("shard", bytes(3 << 20))
    with ExitStack() as opened:
        streams = [opened.enter_context(store.open("shard")) for _ in range(48)]
        for stream in streams:
            stream.read(1)
        for stream in streams:
            stream.read()
    assert [record.getMessage() for record in caplog.records if record.name.startswith("urllib3")] == []


def test_a_folder_that_cannot_be_made_is_the_users_to_mend() -> None:
    with pytest.raises(UserError, match="cannot be written: No such file or directory"):
        open_store("file:///proc/no such folder").put("a", b"1")


@pytest.mark.parametrize("condition", [None, Absent()], ids=["any", "absent"])
def test_a_put_is_looked_for(condition: object, proxy: FaultProxy, bucket: Store) -> None:
    for fault in (Forget(), Lose()):
        proxy.add("PUT", "/x$", fault)
        with pytest.raises(Unavailable, match="acknowledged x but does not hold it"):
            bucket.put("x", b"1", condition=condition)
    proxy.add("PUT", "/x$", CutAnswer())
    etag = bucket.put("x", b"1", condition=condition)
    assert (bucket.get("x"), bucket.head("x").etag) == (b"1", etag), "stored at the first, unheard, attempt"


def test_an_overwrite_that_is_lost_is_noticed(proxy: FaultProxy, bucket: Store) -> None:
    etag = bucket.put("x", b"old")
    for condition in (None, Matches(etag)):
        proxy.add("PUT", "/x$", Forget())
        with pytest.raises(Unavailable):
            bucket.put("x", b"new", condition=condition)
        proxy.clear()
    assert bucket.get("x") == b"old"


@pytest.mark.parametrize("newer", [b"2", b"1"], ids=["different", "equal"])
def test_a_newer_object_of_another_writer_is_no_loss(newer: bytes, proxy: FaultProxy, bucket: Store) -> None:
    proxy.add("HEAD", "/x$", Act(lambda: bucket.put("x", newer)))
    with pytest.raises(Conflict):
        bucket.put("x", b"1", condition=Absent())
    assert bucket.get("x") == newer
    proxy.clear()
    proxy.add("HEAD", "/y$", Act(lambda: bucket.put("y", b"1")))
    assert bucket.put("y", b"1") == bucket.head("y").etag


def test_of_a_missing_object_nothing_can_match(bucket: Store) -> None:
    with pytest.raises(Conflict):
        bucket.put("x", b"1", condition=Matches('"0"'))
    with pytest.raises(Missing):
        bucket.get("x")


def test_an_object_is_read_on_where_the_connection_broke(proxy: FaultProxy, bucket: Store) -> None:
    data = os.urandom(3 << 20)
    bucket.put("x", data)
    for sent in (0, 1 << 20, 1000):
        proxy.add("GET", "/x$", CutAnswer(sent))
    assert bucket.get("x") == data
    proxy.add("GET", "/x$", CutAnswer(100), times=EVER)
    with pytest.raises(Unavailable, match="does not answer"):
        bucket.get("x")


def test_an_object_that_is_read_for_hours_may_break_often(proxy: FaultProxy, bucket: Store) -> None:
    data = os.urandom(10 << 20)
    bucket.put("x", data)
    proxy.add("GET", "/x$", CutAnswer((1 << 20) + 1), times=9)
    with bucket.open("x") as stream:
        assert b"".join(iter(lambda: stream.read(1 << 16), b"")) == data


def test_an_answer_that_was_altered_on_its_way_may_be_asked_for_again(proxy: FaultProxy, bucket: Store) -> None:
    """A part of an object, too: it is the network's fault, not the user's."""
    bucket.put("x", b"data")
    proxy.add("GET", "/x$", Change(bytes.upper, checked=True), times=EVER)
    for read in (lambda: bucket.get("x"), lambda: bucket.get_range("x", 0, 4)):
        with pytest.raises(Unavailable, match="gave other bytes of x than were put there"):
            read()
    proxy.clear()
    assert bucket.get_range("x", 0, 4) == (b"data", 4)


def test_spools_of_killed_processes_are_removed(file_store: Store, tmp_path: Path) -> None:
    file_store.put("a", b"1")
    abandoned, working = (tmp_path / "store" / ".tmp" / name for name in ("abandoned", "working"))
    for path, age in ((abandoned, 48 * 3600.0), (working, 600.0)):
        path.write_bytes(b"half a sha")
        os.utime(path, (time.time() - age,) * 2)
    file_store.put("b", b"2")
    assert (abandoned.exists(), working.exists()) == (False, True)
