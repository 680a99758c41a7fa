"""Whether a model is fit to be in front of users, whatever its PSNR: hostile images, and what it costs."""

import time

import numpy as np

from kgt.info import cost
from kgt.model import KGT
from kgt.restore import NotFiniteError, restore

_SIDE = 128
_REPEATS = 5


def hostile_images(task: str) -> dict[str, np.ndarray]:
    """What breaks careless code, by name: uint8 (H, W, 3), for demosaic (H, W); for denoise an unclipped one too."""
    rng = np.random.default_rng(0)
    board = np.indices((64, 64)).sum(axis=0) % 2 * np.uint8(255)
    images = {
        "black": np.zeros((64, 64, 3), np.uint8),
        "white": np.full((64, 64, 3), 255, np.uint8),
        "a single pixel": np.full((1, 1, 3), 200, np.uint8),
        "a line": rng.integers(0, 256, (1, 67, 3), dtype=np.uint8),
        "a column": rng.integers(0, 256, (67, 1, 3), dtype=np.uint8),
        "odd sides": rng.integers(0, 256, (37, 53, 3), dtype=np.uint8),
        "a checkerboard": np.repeat(board.astype(np.uint8)[..., None], 3, axis=2),
        "noise alone": rng.integers(0, 256, (65, 64, 3), dtype=np.uint8),
    }
    if task == "denoise":
        images["noise beyond black and white"] = rng.choice([-1.0, 2.0], (64, 64, 3)).astype(np.float32)
    if task == "demosaic":
        return {name: np.ascontiguousarray(image[..., 0]) for name, image in images.items()}
    return images


def trouble_with_hostile_images(network: KGT, task: str) -> str | None:
    """What is wrong with the model's answer to one of them; None if it answers all with finite images of their size."""
    for name, image in hostile_images(task).items():
        try:
            restored = restore(network, image, task=task)
        except NotFiniteError:
            return f"its output for {name} ({image.shape[1]}x{image.shape[0]}) is not finite"
        wanted = tuple(side * network.config.scale for side in image.shape[:2])
        if restored.shape != (*wanted, 3):
            return f"its output for {name} is {restored.shape}, not {(*wanted, 3)}"
    return None


def latency_ratio(ours: KGT, theirs: KGT, task: str, k: int | None) -> float:
    """Seconds of our model over seconds of theirs, for an image of 128² on the device that they are on.

    The best of a few times each, taken in turns: what else the machine does meets both alike.
    """
    image = np.random.default_rng(0).integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
    image = np.ascontiguousarray(image[..., 0]) if task == "demosaic" else image
    best = [np.inf, np.inf]
    for repeat in range(_REPEATS + 1):
        for index, network in enumerate((ours, theirs)):
            start = time.perf_counter()
            restore(network, image, task=task, k=k)
            if repeat:  # the first is for what is compiled or chosen at a first call
                best[index] = min(best[index], time.perf_counter() - start)
    return best[0] / best[1]


def memory_ratio(ours: KGT, theirs: KGT, k: int | None) -> float:
    """Bytes of our model over bytes of theirs, weights and activations of an image of 128², by formula.

    Resident memory says as much of an allocator's history as of a model.
    """
    device = next(ours.parameters()).device
    mine, other = (cost(network.config, (_SIDE, _SIDE), k, device).memory for network in (ours, theirs))
    return mine / other
