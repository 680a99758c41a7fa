"""KGT, the Key-Graph Transformer (arXiv 2402.02634): a baseline plus what the network adds to it."""

import torch
from torch import Tensor, nn

from kgt.baselines import demosaic_malvar, reflect_pad, upsample_bicubic
from kgt.columnar import Columnar
from kgt.config import KGTConfig
from kgt.layers import Stage
from kgt.ushape import UShape


class KGT(nn.Module):
    """Restores images of any size.

    Three choices of ours, so that a short training begins well: the last convolution starts at zero, so an untrained
    model returns its baseline (the input, for super-resolution its bicubic upsampling, for demosaicking its Malvar
    interpolation); the other convolutions keep the variance of what they are given; the network sees mid-gray as zero.
    With torch's own start and black as zero, kgt-tiny gained nothing over bicubic in 185 steps; so, 0.3 dB in 93.
    """

    def __init__(self, config: KGTConfig) -> None:
        super().__init__()
        self.config = config
        self.network = (Columnar if config.shape == "columnar" else UShape)(config)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.zeros_(self.network.tail.weight)

    def forward(self, x: Tensor, k: int | None = None) -> Tensor:
        """(B, in, H, W) → (B, out, H · scale, W · scale), both with 1 for white and neither clipped.

        k: neighbours a node, quoted for 1024 nodes; None: the configured `topk`. Sizes that the levels do not halve
        evenly are mirrored up to such and cropped again.
        """
        config = self.config
        multiple = 1 << (len(config.layers) - 1) if config.shape == "u" else 1
        height, width = x.shape[2:]
        padded = reflect_pad(x, 0, -height % multiple, 0, -width % multiple)
        # Channels last is how windows are cut without a copy, and what the convolutions are fastest in.
        centred = (padded - 0.5).contiguous(memory_format=torch.channels_last)
        residual = self.network(centred, config.topk if k is None else k)
        return self._baseline(x) + residual[..., : height * config.scale, : width * config.scale]

    def checkpoint_activations(self, on: bool = True) -> None:
        """Whether training keeps the input of every layer alone and computes the layer again in the backward pass.

        The same numbers for less memory and, about, one more forward pass (Chen et al. 2016, arXiv 1604.06174).
        """
        for module in self.modules():
            if isinstance(module, Stage):
                module.checkpointing = on

    def _baseline(self, x: Tensor) -> Tensor:
        match self.config.baseline:
            case "input":
                return x
            case "bicubic":
                return upsample_bicubic(x, self.config.scale)
            case "malvar":
                return demosaic_malvar(x)
