"""Fixtures that more than one package's tests use."""

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]

hypothesis.settings.register_profile("kgt", deadline=None)  # timings decide no test
hypothesis.settings.load_profile("kgt")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout's root."""
    return ROOT


@pytest.fixture(scope="session")
def standard_images() -> Callable[[str], Path]:
    """Finds a folder of the standard image sets under `KGT_DATA`; skips the test, saying so, where it is absent."""

    def find(name: str) -> Path:
        base = Path(os.environ.get("KGT_DATA") or ROOT / ".." / "shared" / "data").resolve()
        if not (base / name).exists():
            pytest.skip(f"standard images absent: {base / name} (set KGT_DATA to the folder that holds {name}/)")
        return base / name

    return find


@pytest.fixture(autouse=True)
def kgt_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has its own embedded state and none of the caller's servers."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("KGT_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return home


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python code, with arguments, in a process and a folder of its own that has nothing of this environment."""

    def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    return run


@pytest.fixture
def drawn_seed() -> int:
    """Another one at every run; pytest shows it where a test fails, and KGT_SEED=… repeats it."""
    seed = int(os.environ.get("KGT_SEED") or secrets.randbelow(2**32))
    print(f"KGT_SEED={seed}")
    return seed


@pytest.fixture
def rng() -> np.random.Generator:
    """Reproducible randomness for tests."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A Ray of this test session's own, two cores wide, with the checkout on its workers' path."""
    import ray

    from pipelines import cluster

    cluster.connect(cores=2)
    yield
    ray.shutdown()
