"""How arms of several seeds are compared."""

from pathlib import Path

import pytest

from kgt.errors import UserError
from tests.benchmarks.ablation import compare, networks
from training.evaluation import Row


def rows(*psnr: float) -> list[Row]:
    ks = (64, 512)
    return [Row("denoise", "set", "", "m", 5, 20.0, 0.4, one, 0.9, 1.0, k) for k, one in zip(ks, psnr, strict=True)]


def test_an_arm_is_compared_seed_by_seed() -> None:
    found = compare({"a": {"0": rows(30, 31), "1": rows(32, 33)}, "b": {"0": rows(30.5, 31), "1": rows(32.7, 32.8)}})
    assert [(row["arm"], row["k"]) for row in found] == [("a", 64), ("a", 512), ("b", 64), ("b", 512)]
    assert [row["psnr"] for row in found] == pytest.approx([31, 32, 31.6, 31.9])
    assert [row["gain"] for row in found] == pytest.approx([0, 0, 0.6, -0.1])
    assert found[2]["of the seeds"] == pytest.approx([0.5, 0.7])
    # t of 97.5 % with one degree of freedom, times the standard error 0.1
    assert found[2]["95 %"] == pytest.approx(12.706 * 0.1, rel=1e-4)


def test_of_one_seed_nothing_follows() -> None:
    assert compare({"a": {"0": rows(30, 31)}, "b": {"0": rows(31, 31)}})[2]["95 %"] is None


def finished(folder: Path, name: str) -> Path:
    (folder / name / "denoise").mkdir(parents=True)
    (folder / name / "denoise" / "weights.safetensors").touch()
    return folder / name


def test_runs_are_arms_and_seeds(tmp_path: Path) -> None:
    given = [finished(tmp_path, name) for name in ("top-k-0", "top-k-1", "dot-1", "dot-0")]
    assert list(networks(given)) == [("top-k", "0"), ("top-k", "1"), ("dot", "1"), ("dot", "0")]


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    a, b = finished(tmp_path, "a-0"), finished(tmp_path, "b-1")
    with pytest.raises(UserError, match=r"b has seeds \['1'\], and a \['0'\]: give the same"):
        networks([a, b])
    with pytest.raises(UserError, match="no finished run"):
        networks([a, tmp_path / "c-0"])
    with pytest.raises(UserError, match="a folder <arm>-<seed> of its own"):
        networks([a, a])
    with pytest.raises(UserError, match="a folder <arm>-<seed> of its own"):
        networks([finished(tmp_path, "a0")])
