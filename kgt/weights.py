"""A model as one safetensors file: its tensors, and its configuration in the file's metadata."""

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from kgt.atomic import write_atomically
from kgt.config import KGTConfig
from kgt.errors import UserError
from kgt.model import KGT

CONFIG_KEY = "kgt.config"


def save_weights(model: KGT, path: Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Writes the model, whole or not at all. `metadata` (by custom: `task`) is kept beside the configuration."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    described = {**(metadata or {}), CONFIG_KEY: json.dumps(model.config.to_dict(), sort_keys=True)}
    write_atomically(Path(path), _ordered(safetensors.torch.save(tensors, described)))


def load_weights(path: Path, *, device: torch.device | str = "cpu") -> tuple[KGT, dict[str, str]]:
    """The model, in evaluation mode on `device`, and the metadata that `save_weights` was given.

    Raises UserError if the file cannot be read, is no KGT, or does not hold what its configuration asks for.
    """
    if not Path(path).is_file():
        raise UserError(f"no such weights file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            config = _config(path, metadata)
            _check_tensors(path, config, {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()})  # noqa: SIM118
            model = KGT(config)
            model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"not a weights file (safetensors): {path}") from error
    except OSError as error:
        raise UserError(f"cannot read weights {path}: {error.strerror}") from error
    return model.to(device).eval(), metadata


def _ordered(data: bytes) -> bytes:
    """The same file with its header sorted: safetensors writes metadata in another order every time."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def _config(path: Path, metadata: dict[str, str]) -> KGTConfig:
    if CONFIG_KEY not in metadata:
        raise UserError(f"{path} holds tensors, but not those of a KGT: it names no '{CONFIG_KEY}'")
    try:
        values = json.loads(metadata.pop(CONFIG_KEY))
    except (ValueError, RecursionError):  # the first also of a number with thousands of digits
        values = None
    if not isinstance(values, dict):
        raise UserError(f"{path}: its '{CONFIG_KEY}' is not a JSON object")
    try:
        return KGTConfig.from_dict(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _check_tensors(path: Path, config: KGTConfig, found: dict[str, tuple[int, ...]]) -> None:
    """Before a byte is allocated: a file of no size may describe a model that fills the memory."""
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in KGT(config).state_dict().items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            there, wanted = (sizes.get(name, "absent") for sizes in (found, expected))
            raise UserError(f"{path} does not fit its own configuration: {name} is {there}, not {wanted}")
