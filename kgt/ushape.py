"""The U-shaped KGT: an encoder and a decoder joined by skips, then a refinement. For all but super-resolution."""

import torch
from torch import Tensor, nn

from kgt.config import KGTConfig
from kgt.layers import Stage


class UShape(nn.Module):
    """Levels of halved resolution and doubled channels, sampled by convolutions and pixel-(un)shuffle as in Restormer.

    The finest decoder stage and the refinement stay twice as wide as the finest encoder stage: its skip is joined
    by concatenation alone. Encoder, latent and refinement windows are plain, decoder windows half-shifted, so that both
    kinds meet at every level.
    """

    def __init__(self, config: KGTConfig) -> None:
        super().__init__()
        widths, layers, heads = config.widths, config.layers, config.heads
        wide = 2 * config.dim
        self.head = nn.Conv2d(config.in_channels, config.dim, 3, padding=1)
        self.encoder, self.down = nn.ModuleList(), nn.ModuleList()
        self.up, self.join, self.decoder = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths[:-1]):
            self.encoder.append(Stage(width, layers[level], heads[level], config, shifted=False))
            self.down.append(Downsample(width))
            self.up.append(Upsample(2 * width))
            self.join.append(nn.Conv2d(2 * width, width, 1, bias=False) if level else nn.Identity())
            self.decoder.append(Stage(width if level else wide, layers[level], heads[level], config, shifted=True))
        self.latent = Stage(widths[-1], layers[-1], heads[-1], config, shifted=False)
        self.refinement = nn.ModuleList()
        if config.refinement:
            self.refinement.append(Stage(wide, config.refinement, heads[0], config, shifted=False))
        self.body = nn.Conv2d(wide, wide, 3, padding=1)
        self.tail = nn.Conv2d(wide, config.out_channels, 3, padding=1)

    def forward(self, x: Tensor, k: int) -> Tensor:
        """(B, in, H, W) → (B, out, H, W); H and W are multiples of 2 to the number of levels less one."""
        x = self.head(x)
        skips = []
        for encoder, down in zip(self.encoder, self.down, strict=True):
            x = encoder(x, k)
            skips.append(x)
            x = down(x)
        x = self.latent(x, k)
        for up, join, decoder in reversed(list(zip(self.up, self.join, self.decoder, strict=True))):
            x = decoder(join(torch.cat([up(x), skips.pop()], 1)), k)
        refined = x
        for stage in self.refinement:
            refined = stage(refined, k)
        return self.tail(x + self.body(refined))


class Downsample(nn.Sequential):
    """Half the resolution, twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__(nn.Conv2d(dim, dim // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2))


class Upsample(nn.Sequential):
    """Twice the resolution, half the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__(nn.Conv2d(dim, 2 * dim, 3, padding=1, bias=False), nn.PixelShuffle(2))
