"""A training that starts from another's weights."""

from pathlib import Path

import pytest
import torch

from kgt.config import preset
from kgt.errors import UserError
from kgt.model import KGT
from kgt.weights import save_weights
from training import jobs
from training.config import read_configs
from training.warmstart import take_over


def weights(path: Path, task: str, scale: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    model = KGT(preset("kgt-tiny", task, scale))
    save_weights(model, path)
    return model.state_dict()


def test_another_task_gives_everything(tmp_path: Path) -> None:
    given = weights(tmp_path / "w.safetensors", "jpeg")
    model = KGT(preset("kgt-tiny", "denoise"))
    line = take_over(model, tmp_path / "w.safetensors", "models:/kgt-jpeg@champion")
    assert line == f"starts from models:/kgt-jpeg@champion: {len(given)} of {len(given)} tensors taken"
    assert all(torch.equal(value, given[name]) for name, value in model.state_dict().items())


def test_another_scale_gives_all_but_what_depends_on_it_and_says_so(tmp_path: Path) -> None:
    given = weights(tmp_path / "w.safetensors", "sr", 2)
    model = KGT(preset("kgt-tiny", "sr", 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    line = take_over(model, tmp_path / "w.safetensors", "w")
    assert "\n" not in line
    named = [name for name in before if f" {name}" in f"{line},".replace(";", ",")]
    assert named
    for name, value in model.state_dict().items():
        assert (name in line) == (name not in given or given[name].shape != value.shape)
        assert torch.equal(value, before[name] if name in line else given[name])


def test_weights_of_nothing_alike_are_refused(tmp_path: Path) -> None:
    weights(tmp_path / "w.safetensors", "denoise")
    with pytest.raises(UserError, match=r"init=w: none of its parameters fits"):
        take_over(torch.nn.Linear(3, 3), tmp_path / "w.safetensors", "w")


def test_what_init_names_is_copied_when_the_run_begins(denoise_store: str, tmp_path: Path, out: Path) -> None:
    file = tmp_path / "w.safetensors"
    weights(file, "denoise")
    first = file.read_bytes()
    settings = ["task=denoise", f"store={denoise_store}", f"out={out}", "patch=32", "batch_size=4", f"init={file}"]
    jobs.commit(jobs.prepare(read_configs(settings, "")))
    file.unlink()
    jobs.commit(jobs.prepare(read_configs(settings, "")))
    assert (out / "denoise" / "init.safetensors").read_bytes() == first
    (job,) = jobs.prepare(read_configs(settings, ""))
    assert job.start.address == f"file://{out}/denoise/init.safetensors"  # where promotion finds it, from wherever
    other = [f"out={out}-2", f"init={job.start.address}"]  # as `recreate` gives it
    jobs.commit(jobs.prepare(read_configs([*settings[:2], *settings[3:5], *other], "")))
    assert Path(f"{out}-2/denoise/init.safetensors").read_bytes() == first
    with pytest.raises(UserError, match="holds a run with init="):
        jobs.prepare(read_configs([*settings, "init="], ""))


@pytest.mark.parametrize(
    ("init", "says"),
    [
        ("none.safetensors", "no such weights file"),
        ("file:///none/none.safetensors", "init=file:///none/none.safetensors: no such weights file"),
        ("file:///none/", "init=file:///none/: no such weights file"),
        (f"{__file__}/w", "w: no such weights file"),
        (__file__, r"not a weights file \(safetensors\): init=.*test_warmstart\.py"),
        ("models:/kgt-denoise@champion", "no model is registered yet"),
    ],
)
def test_an_init_that_cannot_be_is_one_line_before_anything_is_written(
    denoise_store: str, out: Path, init: str, says: str
) -> None:
    settings = ["task=denoise", f"store={denoise_store}", f"out={out}", "patch=32", "batch_size=4", f"init={init}"]
    with pytest.raises(UserError, match=says):
        jobs.prepare(read_configs(settings, ""))
    assert not out.exists()
