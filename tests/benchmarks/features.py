"""What attention meets in a model: nodes, queries, keys and values of briefly trained KGTs on held-out photographs.

A kind of features is `sr-clean`, `sr-noisy`, `denoise-clean`, `denoise-noisy` or `random`: a model of `SUBJECTS`, and
whether its input is clean or has Gaussian noise of σ = 25. A model is trained when first wanted, by the project's own
training step, and kept as a weights file under `$KGT_HOME/benchmarks`.
"""

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kgt.config import KGTConfig
from kgt.errors import UserError
from kgt.graph import draw_topk
from kgt.home import home
from kgt.imaging import list_images, psnr, read_image, to_rgb
from kgt.layers import VECTOR, Stage
from kgt.model import KGT
from kgt.weights import load_weights, save_weights
from kgt.windows import Windows
from pipelines.degradations import Crop, Pair, degrade_region, settings_of
from pipelines.sample import sample_photographs
from training.augment import planes
from training.losses import charbonnier
from training.schedule import learning_rate
from training.step import TorchEngine, train_step

KINDS = ("sr-clean", "sr-noisy", "denoise-clean", "denoise-noisy", "random")

_SIGMA = 25 / 255
_PATCH, _BATCH, _PEAK_RATE = 64, 2, 1e-3


@dataclass(frozen=True)
class Features:
    """The arguments of one attention, none with a gradient.

    nodes: (W, N, C), what the graph is made of. q, k, v: (W, h, N, d), d padded as the model pads it, in memory
        (W, N, 3, h, d). logit_scale: (h,). bias: (h, 2 · side − 1, 2 · side − 1). pixels: (W, N, 3), what the
        nodes show of the input.
    """

    nodes: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    logit_scale: Tensor
    bias: Tensor
    pixels: Tensor | None = None


@dataclass(frozen=True)
class Subject:
    """A model of the published widths, of few layers so that its training takes minutes on two cores.

    stage: the deepest one that sees what stages before it made; the features are those of its first layer.
    crop: side in pixels of the inputs whose map at that stage is 64 × 64.
    """

    task: str
    config: KGTConfig
    stage: str
    crop: int


SUBJECTS = {
    "sr": Subject(
        "sr",
        KGTConfig("columnar", dim=180, layers=(2, 2), heads=(6, 6), scale=2, baseline="bicubic"),
        stage="stages.1",
        crop=64,
    ),
    "denoise": Subject("denoise", KGTConfig("u", dim=64, layers=(2, 2), heads=(2, 4)), stage="latent", crop=128),
}


def features(kind: str, side: int, windows: int, *, steps: int) -> Features:
    """Of windows of `side` × `side` nodes (a divisor of 64), `windows` of them, spread over the photographs."""
    if kind == "random":
        return random_features(side, windows, heads=6, width=30)
    if 64 % side:
        raise UserError(f"windows of side {side}: features of a model are cut from maps of 64, so take a divisor")
    name, condition = kind.split("-")
    subject = SUBJECTS[name]
    model, _ = trained(name, steps)
    per_crop = (64 // side) ** 2
    x = _inputs(subject, crops=max(4, math.ceil(windows / per_crop)))
    if condition == "noisy":
        x = x + _SIGMA * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    stage: Stage = model.network.get_submodule(subject.stage)
    seen: list[Tensor] = []
    handle = stage.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        for crop in x:
            model(crop[None])
        handle.remove()
        cut = Windows(64, 64, side).partition
        nodes, pixels = cut(torch.cat(seen)), cut(F.avg_pool2d(x, subject.crop // 64))
        chosen = torch.linspace(0, len(nodes) - 1, windows).round().long()
        nodes, pixels = nodes[chosen], pixels[chosen]
        attention = stage.layers[0].attention
        q, k, v = attention.qkv(nodes)
        return Features(nodes, q, k, v, attention.logit_scale.detach(), attention.position((side, side)), pixels)


def random_features(side: int, windows: int, *, heads: int, width: int) -> Features:
    """Independent normal numbers: graphs without any structure. Heads of `width` channels, padded as the model does."""
    generator = torch.Generator().manual_seed(0)
    nodes = torch.randn(windows, side * side, heads * width, generator=generator)
    packed = torch.randn(windows, side * side, 3, heads, width, generator=generator)
    q, k, v = F.pad(packed, (0, -width % VECTOR)).transpose(1, 3).unbind(2)
    bias = torch.randn(heads, 2 * side - 1, 2 * side - 1, generator=generator)
    return Features(nodes, q, k, v, torch.full((heads,), math.log(10.0)), bias)


def trained(name: str, steps: int) -> tuple[KGT, dict[str, str]]:
    """The model of `SUBJECTS`, and what its training was and reached, in words; trained now or read from the cache."""
    folder = _photographs_folder()
    source = folder.name if folder else "built-in"
    path = home() / "benchmarks" / f"{name}-{source}-{steps}.safetensors"
    if not path.exists():
        print(f"training the {name} model for features: {steps} steps, kept as {path}", file=sys.stderr)
        model, about = _train(SUBJECTS[name], folder, steps)
        save_weights(model, path, metadata={"task": name, "photographs": source, "steps": str(steps), **about})
    return load_weights(path)


def _train(subject: Subject, folder: Path | None, steps: int) -> tuple[KGT, dict[str, str]]:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = KGT(subject.config)
    images = [to_rgb(read_image(path)) for path in (list_images(folder) if folder else sample_photographs("train"))]
    before = _psnr(subject, model)
    engine = TorchEngine(model, torch.optim.AdamW(model.parameters(), lr=_PEAK_RATE), clip=1.0)
    for step in range(steps):
        pairs = [_pair(subject, images[rng.integers(len(images))], rng) for _ in range(_BATCH)]
        degraded, clean = (
            torch.from_numpy(np.stack([planes(image, 3) for image in images_]))
            for images_ in ([pair.degraded for pair in pairs], [pair.clean for pair in pairs])
        )
        rate = learning_rate(step, peak=_PEAK_RATE, steps=steps, warmup=min(30, steps // 4))
        train_step(engine, degraded, clean, k=draw_topk(0, step), rate=rate, loss=charbonnier)
    after = _psnr(subject, model)
    print(f"  PSNR of held-out photographs {before:.2f} -> {after:.2f} dB", file=sys.stderr)
    return model, {"psnr_before": f"{before:.2f}", "psnr_after": f"{after:.2f}"}


def _pair(subject: Subject, image: np.ndarray, rng: np.random.Generator) -> Pair:
    """A training pair from anywhere in the image; denoising of σ from 0 to 50."""
    side = _PATCH * subject.config.scale
    settings = settings_of(subject.task, {})
    top, left = (int(rng.integers(length - side + 1)) // 2 * 2 for length in image.shape[:2])
    return degrade_region(subject.task, image, Crop(top, left, side, side), settings, rng)


def _psnr(subject: Subject, model: KGT) -> float:
    """Mean over held-out crops, in dB: super-resolution ×2, or denoising of σ = 25."""
    settings = settings_of(subject.task, {"sigma": 25} if subject.task == "denoise" else {})
    rng, found = np.random.default_rng(1), []
    side = 64 * subject.config.scale
    for image in _held_out():
        top, left = ((length - side) // 4 * 2 for length in image.shape[:2])
        pair = degrade_region(subject.task, image, Crop(top, left, side, side), settings, rng)
        with torch.no_grad():
            restored = model(torch.from_numpy(planes(pair.degraded, 3))[None])[0]
        found.append(psnr(_to_bytes(restored), pair.clean))
    return float(np.mean(found))


def _to_bytes(image: Tensor) -> np.ndarray:
    return (255 * image.clamp(0, 1)).round().to(torch.uint8).permute(1, 2, 0).numpy()


def _inputs(subject: Subject, crops: int) -> Tensor:
    """(crops, 3, side, side): clean crops of held-out photographs in turn, at places drawn once and for all."""
    rng, images = np.random.default_rng(2), _held_out()
    found = []
    for number in range(crops):
        image = images[number % len(images)]
        top, left = (int(rng.integers(length - subject.crop + 1)) for length in image.shape[:2])
        found.append(planes(image[top : top + subject.crop, left : left + subject.crop], 3))
    return torch.from_numpy(np.stack(found))


def _held_out() -> list[np.ndarray]:
    return [to_rgb(read_image(path)) for path in sample_photographs("val")]


def _photographs_folder() -> Path | None:
    """BSDS500's training photographs where `KGT_DATA` has them; else the built-in ones are trained on."""
    folder = Path(os.environ.get("KGT_DATA", "")) / "BSDS500_train"
    return folder if "KGT_DATA" in os.environ and folder.is_dir() else None
