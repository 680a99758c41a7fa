"""The attention and model benchmarks run, at their smallest, and what they compare computes the same."""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from kgt.errors import UserError
from kgt.graph import key_graph
from tests.benchmarks import attention, model
from tests.benchmarks.dispatch import sweep
from tests.benchmarks.features import random_features
from tests.benchmarks.goals import attention_goals
from tests.benchmarks.harness import Timing, interleave
from tests.benchmarks.memory import peak_memory
from tests.benchmarks.peers import both, detached, implementations, peers, problem
from tests.benchmarks.trials import trials


@pytest.fixture
def run_benchmark(root: Path, kgt_home: Path, tmp_path: Path) -> Callable[..., dict]:
    """Runs a script of this folder on one thread and returns the JSON that it writes."""

    def run(script: str, *arguments: str) -> dict:
        found = tmp_path / "found.json"
        command = [sys.executable, str(root / "tests" / "benchmarks" / script), "--threads", "1", "--json", str(found)]
        environment = {name: value for name, value in os.environ.items() if name != "KGT_DATA"}
        done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(found.read_text())

    return run


def test_attention_of_a_model_and_of_random_numbers(run_benchmark: Callable[..., dict]) -> None:
    smallest = ("--sides", "8", "--k", "128", "--nodes", "128", "--runs", "1", "--steps", "1", "--alone")
    found = run_benchmark("attention.py", *smallest, "--features", "sr-clean", "random")
    assert [(row["features"], row["implementation"]) for row in found["rows"]] == [
        (kind, name) for kind in ("sr-clean", "random") for name in ("dense", "gather", "sparse")
    ]
    assert all(row["fwd"]["median"] > 0 and row["fwd+bwd"]["runs"] == 1 for row in found["rows"])
    assert [graph["k"] for graph in found["graphs"]] == [128, 128]
    assert found["models"]["sr"]["steps"] == "1"
    assert 0 < found["graphs"][0]["union/N"] <= 1


def test_a_model_in_inference_and_training(run_benchmark: Callable[..., dict]) -> None:
    smallest = ("--models", "kgt-tiny", "--sizes", "16", "--k", "64", "--runs", "1", "--alone")
    found = run_benchmark("model.py", *smallest, "--modes", "eager", "checkpointed")
    assert [(row["pass"], row["mode"]) for row in found["rows"]] == [
        ("inference", "eager"),
        ("training step", "eager"),
        ("training step", "checkpointed"),
    ]
    for row in found["spent"]:
        shares = {name: share for name, share in row.items() if isinstance(share, float)}
        assert sum(shares.values()) == pytest.approx(1)
        assert shares["attention, graph"] > 0
        assert shares["linear"] > 0
        assert shares["convolution"] > 0


def test_the_loader_beside_webdataset_and_steps(run_benchmark: Callable[..., dict]) -> None:
    smallest = ("--task", "denoise", "--pairs", "24", "--crop", "64", "--patch", "16", "--batch", "2", "--runs", "1")
    found = run_benchmark(
        "loader.py", *smallest, "--loader-threads", "0", "2", "--models", "kgt-tiny", "--steps", "1", "--demand", "50"
    )
    assert [(row["store"], row["reader"]) for row in found["rows"]] == [
        (store, reader)
        for store in ("file", "s3")
        for reader in ("webdataset", "loader, 0 threads", "loader, 2 threads")
    ]
    for row in found["rows"]:
        assert row["pairs"] >= 24
        assert row["x demand"] == pytest.approx(row["pairs/s"] / 50)
    (fed,) = found["steps"]
    assert (fed["model"], fed["task"]) == ("kgt-tiny", "denoise")
    assert 0 <= fed["waited, %"] < 100
    assert "processes running" in found["load"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("script", [attention, model])
def test_a_device_that_is_not_there_is_refused(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["script", "--device", "cuda"])
    with pytest.raises(UserError, match="take --device cpu"):
        script.main()


def test_peers_that_compute_the_same_agree_with_ours() -> None:
    found = random_features(4, 3, heads=2, width=30)
    given = problem(found, key_graph(found.nodes, 5), torch.device("cpu"), torch.float32)
    # Others would be compiled first, for half a minute.
    quick = (peer for peer in peers(given) if peer.name != "FlexAttention" and peer.version != "compiled")
    contenders = [*implementations(given), *quick]
    same = {peer.name: peer for peer in contenders if peer.same}
    assert same.keys() == {"dense", "gather", "sparse", "SDPA masked"}
    results = {name: peer.attend(*given.leaves) for name, peer in same.items()}
    wanted = torch.autograd.grad(results["dense"], given.leaves, given.grad)
    for name, result in results.items():
        torch.testing.assert_close(result, results["dense"], atol=1e-5, rtol=1e-5)
        if name != "dense":
            for got, want in zip(torch.autograd.grad(result, given.leaves, given.grad), wanted, strict=True):
                torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_unmasked_attention_is_that_of_the_complete_graph_without_bias() -> None:
    found = random_features(4, 3, heads=2, width=30)
    given = problem(found, key_graph(found.nodes, 16), torch.device("cpu"), torch.float32)
    q, k, v, scale, bias = given.leaves
    expected = implementations(given)[0].attend(q, k, v, scale, torch.zeros_like(bias))
    unmasked = [peer for peer in peers(given) if not peer.same]
    assert unmasked
    for peer in unmasked:
        torch.testing.assert_close(peer.attend(*peer.leaves), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["FlexAttention", "SDPA masked"])
def test_compiled_peers_agree_with_ours(name: str) -> None:
    found = random_features(4, 3, heads=2, width=30)
    given = problem(found, key_graph(found.nodes, 5), torch.device("cpu"), torch.float32)
    compiled, dense = [peer for peer in peers(given) if peer.name == name][-1], implementations(given)[0]
    torch.testing.assert_close(compiled.attend(*detached(compiled)), dense.attend(*detached(dense)))
    if compiled.trains:
        for got, want in zip(both(compiled, given.grad)(), both(dense, given.grad)(), strict=True):
            torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_goals_say_where_they_are_worst() -> None:
    swept = sweep(torch.device("cpu"), torch.float32, runs=1, sides=(4,), widths=(32,))
    assert [row["k"] for row in swept] == [1, 2, 4, 8, 16]
    assert all(0 < row["× fwd"] <= 1 for row in swept)
    rows = [
        {"features": kind, "N": 1024, "k": 64, "implementation": name, "ours": False, "× fwd": 1.0, "× fwd+bwd": ratio}
        for kind, name, ratio in (
            ("sr-clean", "dense", 20.0),
            ("sr-clean", "SDPA masked", 14.0),
            ("random", "dense", 2.0),
        )
    ]
    goals = {goal["goal"]: goal for goal in attention_goals(rows, swept, "cpu")}
    at_64 = goals["N = 1024, k = 64: masked dense / ours, fwd+bwd"]
    assert (at_64["measured"], at_64["verdict"]) == (14.0, "missed")
    assert at_64["where"] == "sr-clean, N 1024, k 64, SDPA masked"
    assert goals["any N and k: masked dense / ours, fwd+bwd"]["verdict"] == "met"
    assert not any("k = 128" in goal for goal in goals)


def test_goals_of_a_gpu_take_each_size_by_itself() -> None:
    def row(nodes: int, name: str, seconds: float | None, memory: float | None) -> dict:
        taken = Timing(seconds, seconds, seconds, 1) if seconds else None
        ratio = seconds / 0.002 if seconds else None
        row = {"features": "sr-clean", "N": nodes, "k": 64, "implementation": name, "ours": name == "triton"}
        return row | {"fwd": taken, "× fwd": ratio, "× fwd+bwd": ratio, "MiB fwd+bwd": memory}

    rows = [
        row(4096, "dense", 0.4, 4000.0),
        row(4096, "triton", 0.002, 100.0),
        row(1024, "dense", 0.1, 1000.0),
        row(1024, "triton", 0.002, 25.0),
        row(1024, "FlexAttention", None, None),
        row(1024, "SDPA masked", 0.003, 800.0),
        row(1024, "SDPA unmasked, flash", 0.004, 10.0),
        row(1024, "SDPA unmasked, cudnn", None, None),
    ]
    goals = {goal["goal"]: (goal["measured"], goal["verdict"]) for goal in attention_goals(rows, [], "cuda")}
    assert goals == {
        "N = 1024, k = 64: best peer / ours, fwd+bwd": (1.5, "missed"),
        "N = 1024, k = 64: unmasked SDPA / ours, fwd": (2.0, "met"),
        "N = 4096: memory of masked dense / ours, fwd+bwd": (40.0, "met"),
    }
    assert not any(goal["goal"].startswith("N = 4096") for goal in attention_goals(rows[1:], [], "cuda"))


def test_one_that_runs_out_of_memory_is_noted_and_the_others_go_on() -> None:
    def fail() -> None:
        raise torch.OutOfMemoryError("Tried to allocate 9 TiB.\nMore.")

    found = trials({"large": fail, "small": lambda: None}, "cpu", runs=2, patience=1.0)
    assert found["large"].failure == "OutOfMemoryError: Tried to allocate 9 TiB."
    assert found["large"].seconds is None
    assert found["small"].seconds.runs == 2
    assert found["small"].failure == ""


@pytest.mark.parametrize("breaks", [False, True])
def test_a_model_that_cannot_be_compiled_whole_says_so(breaks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubling(torch.nn.Module):
        def forward(self, x: torch.Tensor, k: int) -> torch.Tensor:
            if breaks:
                torch._dynamo.graph_break()
            return 2 * x

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    x = torch.ones(1, 3, 4, 4)
    call, note = model.noted_call("inference", model.Autocast(Doubling(), torch.float32), "compiled", x, x, 64)
    call()
    assert note.startswith("in pieces: Unsupported: ") if breaks else note == ""


def test_slow_calls_are_timed_once() -> None:
    calls: list[str] = []
    taken = interleave(
        {"quick": lambda: calls.append("quick"), "slow": lambda: calls.append("slow")}, runs=2, patience=-1
    )
    assert calls == ["quick", "slow"] * 2
    assert isinstance(taken["slow"], Timing)
    assert taken["slow"].runs == 1


def test_peak_memory_is_that_of_the_call() -> None:
    def hold(megabytes: int) -> None:
        torch.ones(megabytes << 18).add_(1)

    hold(1)
    assert 60 << 20 < peak_memory(lambda: hold(64), "cpu") < 80 << 20
    assert peak_memory(lambda: None, "cpu") < 8 << 20
