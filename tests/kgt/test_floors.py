"""The floors: what may import what. kgt is a library of its own, and its small parts need no torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PLATFORM = {
    "ray",
    "mlflow",
    "deepspeed",
    "omegaconf",
    "boto3",
    "botocore",
    "webdataset",
    "albumentations",
    "cv2",
    "hydra",
}
LIBRARY = {"torch", "numpy", "numba", "llvmlite", "PIL", "safetensors", "triton", "kgt"} | sys.stdlib_module_names

WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ImportError(f"{{name}} is absent here")
sys.meta_path.insert(0, Absent())
"""

USES_THE_LIBRARY = """
import numpy as np, torch
from pathlib import Path
import kgt
torch.set_num_threads(1)
model = kgt.KGT(kgt.preset("kgt-tiny", "denoise"))
assert model(torch.rand(1, 3, 16, 16)).shape == (1, 3, 16, 16)
kgt.save_weights(model, Path(sys.argv[1]) / "w.safetensors", metadata={"task": "denoise"})
loaded, metadata = kgt.load_weights(Path(sys.argv[1]) / "w.safetensors")
image = np.arange(24 * 20 * 3, dtype=np.uint8).reshape(24, 20, 3)
from kgt.restore import restore
assert restore(loaded, image, task=metadata["task"]).shape == image.shape
from kgt import cli, registry
assert cli.main(["info", "kgt-tiny", "--task", "jpeg"]) == 0
from kgt.imaging import write_image
write_image(Path(sys.argv[1]) / "in.png", image)
picture = [str(Path(sys.argv[1]) / name) for name in ("in.png", "out.png", "w.safetensors")]
assert cli.main(["restore", *picture[:2], "--model", picture[2]]) == 0
(Path(sys.argv[1]) / "home").mkdir()
(Path(sys.argv[1]) / "home" / "mlflow.db").touch()
assert cli.main(["restore", *picture[:2], "--model", "models:/kgt-denoise@champion"]) == 2
"""

USES_THE_SMALL_PARTS = """
import numpy as np
import kgt
from kgt import home, tasks
from kgt.errors import UserError
from kgt.imaging import demosaic_malvar, imresize, mosaic, psnr, ssim
image = np.arange(24 * 20 * 3, dtype=np.uint8).reshape(24, 20, 3)
assert imresize(image, 1 / 2).shape == (12, 10, 3)
assert psnr(demosaic_malvar(mosaic(image)), image) > 0 and ssim(image, image) == 1
assert tasks.get_task("sr").shape == "columnar" and home.home().is_absolute()
from kgt import config
assert config.preset("kgt-s", "sr", 4).scale == 4
"""


def run(code: str, absent: set[str], root: Path, folder: Path) -> subprocess.CompletedProcess:
    source = WITHOUT.format(absent=sorted(absent)) + code
    environment = {"PATH": "/usr/bin:/bin", "KGT_HOME": str(folder / "home"), "PYTHONPATH": str(root)}
    return subprocess.run(
        [sys.executable, "-c", source, str(folder)], env=environment, capture_output=True, text=True, timeout=300
    )


def test_the_library_works_without_the_platform(root: Path, tmp_path: Path) -> None:
    done = run(USES_THE_LIBRARY, PLATFORM, root, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "needs MLflow: install it, or give a weights file" in done.stderr
    assert (tmp_path / "out.png").exists()


def test_the_small_parts_work_without_torch(root: Path, tmp_path: Path) -> None:
    done = run(USES_THE_SMALL_PARTS, {*PLATFORM, "torch", "numba", "safetensors"}, root, tmp_path)
    assert done.returncode == 0, done.stderr


def imported(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every (file, module) of absolute imports below a folder, those inside functions included."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                yield path, node.module
                yield from ((path, f"{node.module}.{alias.name}") for alias in node.names)


def test_the_library_imports_from_its_floor_alone(root: Path) -> None:
    strays = {(str(path.relative_to(root)), name.partition(".")[0]) for path, name in imported(root / "kgt")}
    strays = {(path, top) for path, top in strays if top not in LIBRARY}
    raised_by_mlflow = {("kgt/registry.py", name) for name in ("botocore", "sqlalchemy")}
    assert strays == {("kgt/registry.py", "mlflow")} | raised_by_mlflow


@pytest.mark.parametrize(("floor", "above"), [("pipelines", {"torch", "mlflow", "deepspeed", "training"})])
def test_the_pipelines_know_nothing_of_training(root: Path, floor: str, above: set[str]) -> None:
    found = list(imported(root / floor))
    assert found
    assert [(str(path), name) for path, name in found if name.partition(".")[0] in above] == []


def test_the_pipelines_take_from_the_library_what_needs_no_torch(root: Path) -> None:
    light = ("kgt.addresses", "kgt.tasks", "kgt.imaging", "kgt.errors", "kgt.home", "kgt.atomic")
    taken = {name for _, name in imported(root / "pipelines") if name.startswith("kgt.")}
    assert {name for name in taken if not name.startswith(light)} == set()
