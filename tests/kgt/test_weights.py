import json
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from kgt.config import preset
from kgt.errors import UserError
from kgt.model import KGT
from kgt.weights import CONFIG_KEY, load_weights, save_weights


@pytest.fixture(scope="module")
def model() -> KGT:
    torch.manual_seed(0)
    model = KGT(preset("kgt-tiny", "demosaic"))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model


def test_a_model_comes_back_as_it_was(model: KGT, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "weights.safetensors"
    save_weights(model, path, metadata={"task": "demosaic"})
    loaded, metadata = load_weights(path)
    assert metadata == {"task": "demosaic"}
    assert loaded.config == model.config
    assert not loaded.training
    x = torch.rand(1, 1, 20, 24)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
    assert os.listdir(path.parent) == [path.name]


def test_the_same_model_makes_the_same_file(model: KGT, tmp_path: Path) -> None:
    metadata = {letter: letter for letter in "dcba"}
    save_weights(model, tmp_path / "a", metadata=metadata)
    save_weights(model, tmp_path / "b", metadata=dict(sorted(metadata.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_write_keeps_the_old_weights(model: KGT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        save_weights(model, path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]


def written(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> Path:
    safetensors.torch.save_file(tensors, path, metadata)
    return path


def test_what_is_no_weights_file_is_named(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("not tensors, whatever the name says")
    with pytest.raises(UserError, match=r"not a weights file \(safetensors\): .*notes\.txt"):
        load_weights(other)
    with pytest.raises(UserError, match=r"no such weights file: .*absent"):
        load_weights(tmp_path / "absent")
    with pytest.raises(UserError, match="no such weights file"):
        load_weights(tmp_path)


def test_tensors_of_something_else_are_refused(model: KGT, tmp_path: Path) -> None:
    tensors = model.state_dict()
    config = json.dumps(model.config.to_dict())
    path = tmp_path / "weights"
    with pytest.raises(UserError, match="not those of a KGT"):
        load_weights(written(path, tensors, {}))
    with pytest.raises(UserError, match="unknown model setting 'dims': did you mean 'dim'"):
        load_weights(written(path, tensors, {CONFIG_KEY: config.replace('"dim"', '"dims"')}))
    for odd in ("{", "null", "[1]", "3", "[" * 100_000, '{"dim": ' + "1" * 5000 + "}"):
        with pytest.raises(UserError, match="is not a JSON object"):
            load_weights(written(path, tensors, {CONFIG_KEY: odd}))
    name = next(iter(tensors))
    with pytest.raises(UserError, match=rf"does not fit its own configuration: {name} is absent"):
        load_weights(written(path, {key: value for key, value in tensors.items() if key != name}, {CONFIG_KEY: config}))
    with pytest.raises(UserError, match=r"stray is \(3,\), not absent"):
        load_weights(written(path, {**tensors, "stray": torch.zeros(3)}, {CONFIG_KEY: config}))
    with pytest.raises(UserError, match=r"is \(1,\), not"):
        load_weights(written(path, {**tensors, name: torch.zeros(1)}, {CONFIG_KEY: config}))


def test_a_small_file_cannot_ask_for_a_model_that_fills_the_memory(tmp_path: Path) -> None:
    config = preset("kgt-u", "denoise").to_dict() | {"dim": 4096}
    path = written(tmp_path / "weights", {"x": torch.zeros(1)}, {CONFIG_KEY: json.dumps(config)})
    with pytest.raises(UserError, match="does not fit its own configuration"):
        load_weights(path)  # its latent level alone has 32768 channels
    config |= {"layers": [1] * 64, "heads": [1] * 64}
    path = written(tmp_path / "weights", {"x": torch.zeros(1)}, {CONFIG_KEY: json.dumps(config)})
    with pytest.raises(UserError, match="two to eight levels"):
        load_weights(path)


def test_a_pickle_is_not_read_whatever_its_name_says(tmp_path: Path) -> None:
    class Planted:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "it ran",)

    for save in (lambda path: path.write_bytes(pickle.dumps(Planted())), lambda path: torch.save(Planted(), path)):
        path = tmp_path / "weights.safetensors"
        save(path)
        with pytest.raises(UserError, match="not a weights file"):
            load_weights(path)
    assert not (tmp_path / "it ran").exists()
