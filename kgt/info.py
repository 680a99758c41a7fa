"""What a model costs at an image size: parameters, multiply-adds and memory of one forward pass, by formula."""

import math
from dataclasses import dataclass

import torch

from kgt.attention import Choice, choose
from kgt.config import KGTConfig, neighbours
from kgt.layers import PositionBias
from kgt.model import KGT
from kgt.selection import CHUNK, row_length
from kgt.windows import Windows

_FLOAT = 4


@dataclass(frozen=True)
class Cost:
    """Of one float32 forward pass without gradients.

    macs: multiply-adds of convolutions, linear layers, similarities, and attention over the kept neighbours; without
        the baseline, norms, softmax, and the zeros that heads are padded with.
    memory: bytes of the weights and of the most tensors alive at once. An allocator takes more: on a CPU the process
        grew by up to twice as much.
    attention: the implementation at the finest level.
    """

    parameters: int
    macs: int
    memory: int
    attention: Choice


@dataclass(frozen=True)
class _Part:
    """A part of the network: its multiply-adds, and the bytes alive at its peak."""

    macs: int
    memory: int


def cost(config: KGTConfig, size: tuple[int, int], k: int | None = None, device: torch.device | str = "cpu") -> Cost:
    """The cost of an input of `size` (H, W) with `k` neighbours, quoted for 1024 nodes (None: the configured)."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in KGT(config).parameters())
    nodes = Windows(*size, config.window).nodes
    k = config.topk if k is None else k
    attention = choose(device, torch.float32, nodes, neighbours(k, nodes), config.dim // config.heads[0])
    parts = (_columnar if config.shape == "columnar" else _u)(config, size, k, attention.name)
    memory = _FLOAT * parameters + max(part.memory for part in parts)
    return Cost(parameters, sum(part.macs for part in parts), memory, attention)


def _columnar(config: KGTConfig, size: tuple[int, int], k: int, attention: str) -> list[_Part]:
    height, width = size
    pixels, dim, up = height * width, config.dim, config.upsampler
    held = _FLOAT * pixels * (config.in_channels + dim)  # the input and the long skip
    parts = [_conv(config.in_channels, dim, pixels), _conv(dim, dim, pixels), _conv(dim, up, pixels)]
    for index, (layers, heads) in enumerate(zip(config.layers, config.heads, strict=True)):
        windows = Windows(height, width, config.window, shifted=index % 2 == 1)
        parts.append(_stage(config, dim, layers, heads, windows, k, attention, held))
    for step in {1: (), 2: (2,), 3: (3,), 4: (2, 2)}[config.scale]:
        parts.append(_conv(up, up * step * step, pixels))
        parts.append(_Part(0, 2 * _FLOAT * pixels * up * step * step))  # pixel-shuffle copies
        pixels *= step * step
    return [*parts, _conv(up, config.out_channels, pixels)]


def _u(config: KGTConfig, size: tuple[int, int], k: int, attention: str) -> list[_Part]:
    deepest = len(config.layers) - 1
    height, width = (-(-side >> deepest) << deepest for side in size)
    pixels, wide = [height * width >> 2 * level for level in range(deepest + 1)], 2 * config.dim
    held = _FLOAT * pixels[0] * config.in_channels  # the input, and the encoder's outputs so far
    parts = [_conv(config.in_channels, config.dim, pixels[0])]

    def stage(level: int, dim: int, layers: int, *, shifted: bool = False) -> None:
        windows = Windows(height >> level, width >> level, config.window, shifted)
        parts.append(_stage(config, dim, layers, config.heads[level], windows, k, attention, held))

    for level, dim in enumerate(config.widths[:-1]):
        stage(level, dim, config.layers[level])
        held += _FLOAT * pixels[level] * dim
        parts.append(_conv(dim, dim // 2, pixels[level]))
    stage(deepest, config.widths[-1], config.layers[-1])
    for level, dim in reversed(list(enumerate(config.widths[:-1]))):
        held -= _FLOAT * pixels[level] * dim
        parts.append(_conv(2 * dim, 4 * dim, pixels[level + 1]))
        if level:
            parts.append(_conv(2 * dim, dim, pixels[level], kernel=1))
        stage(level, dim if level else wide, config.layers[level], shifted=True)
    if config.refinement:
        stage(0, wide, config.refinement)
    return [*parts, _conv(wide, wide, pixels[0]), _conv(wide, config.out_channels, pixels[0])]


def _conv(inputs: int, outputs: int, pixels: int, kernel: int = 3) -> _Part:
    return _Part(kernel * kernel * inputs * outputs * pixels, _FLOAT * pixels * (inputs + outputs))


def _stage(
    config: KGTConfig, dim: int, layers: int, heads: int, windows: Windows, k: int, attention: str, held: int
) -> _Part:
    """`held` are the bytes that wait outside the stage."""
    pixels, nodes = windows.height * windows.width, windows.nodes
    everywhere = nodes * math.prod(windows.counts)
    kept = min(neighbours(k, nodes), nodes)
    offsets = math.prod(2 * side - 1 for side in windows.sides)
    layer = everywhere * dim * ((4 + 2 * config.ffn_ratio) * dim + 2 * kept) + offsets * PositionBias.HIDDEN * heads
    macs = layers * layer + everywhere * nodes * dim + _conv(dim, dim, pixels).macs
    # Of a layer's two halves, attention holds its input, q, k, v, their result and its projection; the feed-forward its
    # input, the hidden layer before and after the activation.
    live = everywhere * dim * max(6, 1 + 2 * config.ffn_ratio)
    # Dense attention's N² scores, before and after each of masking and softmax.
    scores = 2 * everywhere * heads * nodes if attention == "dense" else 0
    # While the graph is made: the nodes, their centred and their normalised copy, and a chunk of similarities.
    making = 3 * everywhere * dim + min(everywhere * nodes, CHUNK)
    indices = 2 * everywhere * row_length(kept, nodes)
    return _Part(macs, held + indices + _FLOAT * (pixels * dim + max(making, live + scores)))
