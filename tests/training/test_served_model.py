"""A registered version as others use it: MLflow's own loader and its server, without this checkout's `training`."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest

from kgt import cli
from kgt.config import preset
from kgt.home import home, tracking_uri
from kgt.imaging import read_image, write_image
from kgt.model import KGT
from kgt.restore import restore
from kgt.weights import save_weights
from tests.ports import free_port
from training import tracking

pytestmark = pytest.mark.usefixtures("mlflow_database")


def register(folder: Path, task: str) -> KGT:
    """The model, whose registered version is the champion."""
    weights = folder / "weights.safetensors"
    model = KGT(preset("kgt-tiny", task, 2 if task == "sr" else 1)).eval()
    model.network.tail.weight.data.normal_(std=0.01)
    save_weights(model, weights, metadata={"task": task})
    version = tracking.register(task, tracking.start_run("run"), weights, tags={}, card="")
    tracking.set_alias(task, "champion", version)
    return model


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, KGT]]:
    """The address of `mlflow models serve` with a denoiser, and that model."""
    model = register(tmp_path, "denoise")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", "models:/kgt-denoise@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where it looks for its uvicorn
    environment = os.environ | {"MLFLOW_TRACKING_URI": tracking_uri(), "PATH": path}
    with open(tmp_path / "log", "wb") as log:
        server = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        for _ in range(600):
            assert server.poll() is None, (tmp_path / "log").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except (urllib.error.URLError, TimeoutError):
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/invocations", model
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


@pytest.mark.slow
def test_mlflow_serves_images(served: tuple[str, KGT], rng: np.random.Generator) -> None:
    address, model = served
    images = rng.integers(0, 256, (2, 21, 33, 3), dtype=np.uint8)
    request = urllib.request.Request(
        address, json.dumps({"inputs": images.tolist()}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        restored = np.array(json.load(answer)["predictions"], np.uint8)
    np.testing.assert_array_equal(restored, [restore(model, image, task="denoise") for image in images])
    wrong = urllib.request.Request(address, b'{"inputs": [[1, 2]]}', {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(wrong, timeout=60)
    assert refused.value.code == 400


@pytest.mark.parametrize(("task", "channels"), [("denoise", (3,)), ("demosaic", ()), ("sr", (3,))])
def test_a_loaded_version_restores_batches_of_any_size(
    task: str, channels: tuple[int, ...], tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = register(tmp_path, task)
    assert not [path for path in home().rglob("*") if path.suffix in (".pkl", ".pt", ".pth")], "what runs when loaded"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri())
    monkeypatch.setattr("kgt.restore.WHOLE_PIXELS", 1000)  # as if the larger ones were too large for one piece
    monkeypatch.setattr("kgt.restore.TILE", 64)
    loaded = mlflow.pyfunc.load_model(f"models:/kgt-{task}@champion")
    for size in ((1, 17, 31), (2, 70, 48)):
        images = rng.integers(0, 256, (*size, *channels), dtype=np.uint8)
        restored = loaded.predict(images)
        assert restored.dtype == np.uint8
        np.testing.assert_array_equal(restored, [restore(model, image, task=task) for image in images])
    assert loaded.predict(loaded.input_example).shape[-1] == 3
    with pytest.raises(mlflow.MlflowException, match="Failed to enforce schema"):
        loaded.predict(images.astype(np.float32))


def test_kgt_restore_takes_the_champion(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture
) -> None:
    model = register(tmp_path, "denoise")
    noisy = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    write_image(tmp_path / "noisy.png", noisy)
    asked = ["restore", str(tmp_path / "noisy.png"), str(tmp_path / "out.png"), "--model"]
    assert cli.main([*asked, "models:/kgt-denoise@champion"]) == 0
    np.testing.assert_array_equal(read_image(tmp_path / "out.png"), restore(model, noisy, task="denoise"))
    assert cli.main([*asked, "models:/kgt-denoise@challenger"]) == 2
    assert "model 'kgt-denoise' has no alias 'challenger': it has champion" in capsys.readouterr().err
