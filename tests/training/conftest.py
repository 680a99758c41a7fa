"""Small published versions of shards, made without a cluster."""

import gzip
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipelines import versions
from pipelines.degradations import degrade_image, pair_rng, settings_of
from pipelines.degradations.values import plain
from pipelines.manifest import ShardEntry
from pipelines.shards import encode_pair, write_shard
from pipelines.storage import open_store
from tests.manifests import manifest_of
from tests.training import promoting
from tests.training.mlflow_server import Server

os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed is tested on models in main memory, also where there is a GPU


def smooth_image(rng: np.random.Generator, side: int) -> np.ndarray:
    """uint8 (side, side, 3): a few random waves, so that there is something to restore."""
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [np.sin(2 * np.pi * (rng.uniform(1, 5) * x + rng.uniform(1, 5) * y + rng.random())) for _ in range(6)]
    channels = [sum(w * rng.uniform(-1, 1) for w in waves) for _ in range(3)]
    image = np.stack([(c - c.min()) / (c.max() - c.min()) for c in channels], axis=2)
    return np.rint(image * 255).astype(np.uint8)


MakeShards = Callable[..., str]


@pytest.fixture(scope="session")
def make_shards(tmp_path_factory: pytest.TempPathFactory) -> MakeShards:
    """Publishes a version of a task's shards in a fresh (or given) folder; the store's URL."""

    def make(
        task: str,
        *,
        shards: int = 4,
        samples: int = 6,
        side: int = 48,
        store: str = "",
        paired: bool = False,
        val_fraction: float = 0.05,
        photographs: str = "",
        **settings: object,
    ) -> str:
        url = store or f"file://{tmp_path_factory.mktemp('store')}"
        target = open_store(url)
        chosen = settings_of(task, settings)
        known = len(versions.list_versions(target, task))
        entries = []
        for number in range(shards + 1):
            split = "train" if number < shards else "val"
            name = f"{split}-{number:032x}"
            pairs = []
            for index in range(samples):
                rng = pair_rng(0, 0, task, f"{number}:{index}", (0, 0, side, side))
                pair = degrade_image(task, smooth_image(rng, side), chosen, rng)
                meta = {"parameters": pair.parameters}
                pairs.append(encode_pair(f"{number:02d}-{index:02d}", pair.clean, pair.degraded, meta))
            file = io.BytesIO()
            write_shard(pairs, file)
            data = file.getvalue()
            target.put(versions.pool_key(task, name), data)
            digest = hashlib.sha256(data).hexdigest()
            entries.append(ShardEntry(name, split, known + 1, samples, len(data), digest, 0.0, 0.0))
        recipe = {"settings": plain(chosen), "crop": side, "paired": paired, "val_fraction": val_fraction}
        manifest = manifest_of(task, known + 1, entries, **recipe)
        digests = [hashlib.md5(f"{photographs}{number}".encode()).hexdigest() for number in range(4)]
        images = "\n".join(json.dumps({"digest": digest}) for digest in digests)
        target.put(manifest.sources["images_key"], gzip.compress(images.encode()))
        versions.publish(target, manifest)
        return url

    return make


@pytest.fixture(scope="session")
def denoise_store(make_shards: MakeShards) -> str:
    """Four shards of six denoising pairs, 48 pixels a side, σ 25, and one for validation."""
    return make_shards("denoise", sigma=25)


@pytest.fixture(scope="session")
def empty_mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new MLflow database. MLflow takes seconds to make one."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def mlflow_database(empty_mlflow_database: Path, kgt_home: Path) -> None:
    """The test's KGT_HOME has a database already."""
    shutil.copy(empty_mlflow_database, kgt_home / "mlflow.db")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run's folder."""
    return tmp_path / "a run"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    made = Server()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.url)
    yield made
    made.die()


@pytest.fixture
def images(tmp_path: Path) -> str:
    """Five photographs, as the commands that measure models are told of them."""
    promoting.write_photos(tmp_path / "photos")
    return f"images={tmp_path / 'photos'}"


@pytest.fixture
def register(tmp_path: Path, mlflow_database: None, denoise_store: str) -> promoting.Register:
    """See promoting.register."""
    return partial(promoting.register, tmp_path, denoise_store)
