"""The columnar KGT: stages at the input's resolution, then an upsampler. For super-resolution (paper, fig. 2b)."""

from torch import Tensor, nn

from kgt.config import KGTConfig
from kgt.layers import ChannelNorm, Stage


class Columnar(nn.Module):
    """conv → norm → stages → norm → conv, a skip around these, then the upsampler and last convolution of SwinIR."""

    def __init__(self, config: KGTConfig) -> None:
        super().__init__()
        self.head = nn.Conv2d(config.in_channels, config.dim, 3, padding=1)
        self.norm_in = ChannelNorm(config.dim)
        self.stages = nn.ModuleList(
            Stage(config.dim, layers, heads, config, shifted=index % 2 == 1)
            for index, (layers, heads) in enumerate(zip(config.layers, config.heads, strict=True))
        )
        self.norm_out = ChannelNorm(config.dim)
        self.body = nn.Conv2d(config.dim, config.dim, 3, padding=1)
        self.upsampler = Upsampler(config.dim, config.upsampler, config.scale)
        self.tail = nn.Conv2d(config.upsampler, config.out_channels, 3, padding=1)

    def forward(self, x: Tensor, k: int) -> Tensor:
        """(B, in, H, W) → (B, out, H · scale, W · scale)."""
        x = self.head(x)
        deep = self.norm_in(x)
        for stage in self.stages:
            deep = stage(deep, k)
        return self.tail(self.upsampler(x + self.body(self.norm_out(deep))))


class Upsampler(nn.Sequential):
    """conv to `width` channels, LeakyReLU, conv and pixel-shuffle (×4: twice ×2)."""

    def __init__(self, dim: int, width: int, scale: int) -> None:
        super().__init__(nn.Conv2d(dim, width, 3, padding=1), nn.LeakyReLU())
        for step in {1: (), 2: (2,), 3: (3,), 4: (2, 2)}[scale]:
            self.append(nn.Conv2d(width, width * step * step, 3, padding=1))
            self.append(nn.PixelShuffle(step))
