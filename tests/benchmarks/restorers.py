"""Public Transformer restorers of kgt-s's size, with random weights: what a model is compared with.

Both have SwinIR-M's widths (Liang et al. 2021): 180 channels, 6 stages of 6 layers, 6 heads, windows of 8, ×4.
"""

import sys
from importlib.util import find_spec

from torch import Tensor, nn

_WIDTHS = {"embed_dim": 180, "depths": [6] * 6, "num_heads": [6] * 6, "window_size": 8, "mlp_ratio": 2.0, "upscale": 4}
_SAME = {"img_size": 64, "img_range": 1.0, "upsampler": "pixelshuffle", "drop_path_rate": 0.0}


class Swin2SR(nn.Module):
    """That of the package transformers (Conde et al. 2022): cosine attention and continuous position bias, as ours."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution

        config = Swin2SRConfig(**_WIDTHS, upsampler="pixelshuffle", drop_path_rate=0.0)
        self.body = Swin2SRForImageSuperResolution(config)

    def forward(self, x: Tensor, k: int) -> Tensor:
        """(B, 3, H, W) → (B, 3, 4 · H, 4 · W); k is ignored."""
        return self.body(x).reconstruction


class SwinIR(nn.Module):
    """That of the package spandrel: SwinIR-M for classical super-resolution."""

    def __init__(self) -> None:
        super().__init__()
        from spandrel.architectures.SwinIR import SwinIR as Architecture

        self.body = Architecture(**_WIDTHS, **_SAME)

    def forward(self, x: Tensor, k: int) -> Tensor:
        """(B, 3, H, W) → (B, 3, 4 · H, 4 · W); k is ignored."""
        return self.body(x)


def restorers() -> dict[str, nn.Module]:
    """Those whose package is installed, by name; says which are not."""
    packages = {"transformers": Swin2SR, "spandrel": SwinIR}
    absent = [package for package in packages if find_spec(package) is None]
    if absent:
        print(
            f"without {' and '.join(absent)} there is less to compare with: pip install -e '.[benchmarks]'",
            file=sys.stderr,
        )
    return {kind.__name__: kind() for package, kind in packages.items() if package not in absent}
