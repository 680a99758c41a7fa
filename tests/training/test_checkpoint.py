"""Checkpoints: whole or absent, checked on loading."""

import json
import threading
from pathlib import Path

import pytest

from pipelines.storage import Store, open_store
from training import checkpoint
from training.checkpoint import CheckpointError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"file://{tmp_path / 'store'}")


def save(store: Store, tmp_path: Path, step: int, *, ranks: int = 2, fail: int | None = None, writer: str = "") -> None:
    """Every rank's part, from threads that meet as the processes of a group do. `fail`: this rank dies before it."""
    gathered: list = [None] * ranks
    barrier = threading.Barrier(ranks if fail is None else ranks - 1)

    def one(rank: int) -> None:
        folder = tmp_path / f"{step}-{rank}{writer}"
        (folder / "state").mkdir(parents=True)
        (folder / "state" / f"part_{rank}.pt").write_bytes(f"{step}:{rank}{writer}".encode() * 100)

        def gather(value: object) -> list | None:
            gathered[rank] = value
            barrier.wait(60)
            if fail is not None:
                raise ConnectionError("a peer is gone")
            return gathered if rank == 0 else None

        try:
            checkpoint.save(store, "sr", step, folder, {"ema_updates": step}, rank=rank, gather=gather)
        except ConnectionError:
            assert fail is not None

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(ranks) if rank != fail]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_what_was_saved_by_all_ranks_comes_back(store: Store, tmp_path: Path) -> None:
    assert checkpoint.latest(store, "sr") is None
    save(store, tmp_path, 20)
    save(store, tmp_path, 100)
    found = checkpoint.latest(store, "sr")
    assert (found.step, found.state) == (100, {"ema_updates": 100})
    checkpoint.fetch(store, found, tmp_path / "back")
    assert {path.name: path.read_bytes() for path in (tmp_path / "back" / "state").iterdir()} == {
        "part_0.pt": b"100:0" * 100,
        "part_1.pt": b"100:1" * 100,
    }


def test_without_its_marker_a_checkpoint_does_not_exist(store: Store, tmp_path: Path) -> None:
    save(store, tmp_path, 20)
    save(store, tmp_path, 30, fail=1)
    assert any("00000030" in key for key in store.list("sr/"))
    assert checkpoint.latest(store, "sr").step == 20


def test_another_writer_of_the_same_step_spoils_nothing(store: Store, tmp_path: Path) -> None:
    """A second driver of the run, or a worker that was replaced and whose last write arrives late."""
    save(store, tmp_path, 20)
    save(store, tmp_path, 20, fail=1, writer="of another")
    checkpoint.fetch(store, checkpoint.latest(store, "sr"), tmp_path / "back")
    assert (tmp_path / "back" / "state" / "part_0.pt").read_bytes() == b"20:0" * 100
    save(store, tmp_path, 20, writer="of a third")
    checkpoint.fetch(store, checkpoint.latest(store, "sr"), tmp_path / "new")
    assert (tmp_path / "new" / "state" / "part_1.pt").read_bytes() == b"20:1of a third" * 100


@pytest.mark.parametrize("damage", ["altered", "shorter", "gone"])
def test_a_spoilt_part_is_found_on_loading(store: Store, tmp_path: Path, damage: str) -> None:
    save(store, tmp_path, 20)
    found = checkpoint.latest(store, "sr")
    path = tmp_path / "store" / found.parts[0].key
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if damage == "shorter" else b"x" + data[1:])
    with pytest.raises(CheckpointError, match=r"delete .*/sr/checkpoints/00000020 to go on"):
        checkpoint.fetch(store, found, tmp_path / "back")


def test_a_spoilt_marker_is_an_error_not_a_new_start(store: Store, tmp_path: Path) -> None:
    save(store, tmp_path, 20)
    store.put("sr/checkpoints/00000020/COMMITTED.json", b"{")
    with pytest.raises(CheckpointError, match=r"no marker .*delete .*/sr/checkpoints/00000020 to go on"):
        checkpoint.latest(store, "sr")


@pytest.mark.parametrize(
    "key",
    [
        "sr/checkpoints/00000020/0/0123456789abcdef/../../../../../../escaped",
        "sr/checkpoints/00000020/0/0123456789abcdef/state/.hidden",
        "sr/checkpoints/00000020/0/0123456789abcdef//etc/passwd",
        "sr/checkpoints/00000020/0/0123456789abcdef/a\n",
        "sr/checkpoints/00000020/0/state/part_0.pt",
        "sr/checkpoints/00000010/0/0123456789abcdef/state/part_0.pt",
        "jpeg/checkpoints/00000020/0/0123456789abcdef/state/part_0.pt",
        "sr/weights.safetensors",
        7,
    ],
)
def test_a_marker_that_names_what_is_not_its_own_is_refused(store: Store, tmp_path: Path, key: object) -> None:
    save(store, tmp_path, 20)
    name = "sr/checkpoints/00000020/COMMITTED.json"
    marker = json.loads(store.get(name))
    marker["parts"][1]["key"] = key
    store.put(name, json.dumps(marker).encode())
    with pytest.raises(CheckpointError, match=r"not of this checkpoint|no marker"):
        checkpoint.latest(store, "sr")


def test_pruning_keeps_the_newest_and_sweeps_what_was_never_committed(store: Store, tmp_path: Path) -> None:
    save(store, tmp_path, 10)
    save(store, tmp_path, 15, fail=1)
    for step in (20, 30, 40):
        save(store, tmp_path, step)
    save(store, tmp_path, 50, fail=1)
    checkpoint.prune(store, "sr", 2, besides=[10])
    assert checkpoint.committed(store, "sr") == [10, 30, 40]
    checkpoint.prune(store, "sr", 2)
    assert checkpoint.committed(store, "sr") == [30, 40]
    assert {key.split("/")[2] for key in store.list("sr/checkpoints/")} == {"00000030", "00000040", "00000050"}
