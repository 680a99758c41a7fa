"""What a KGT's output is added to: the parameter-free restoration of its input. Equal to `kgt.imaging`, on tensors."""

import torch
import torch.nn.functional as F
from torch import Tensor


def reflect_pad(x: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Mirror (B, C, H, W) about its edge pixels as numpy's `reflect`, however often; a mosaic keeps its phase."""
    rows, columns = (
        _mirrored(torch.arange(-before, size + after, device=x.device), size)
        for before, after, size in ((top, bottom, x.shape[2]), (left, right, x.shape[3]))
    )
    return x[:, :, rows][:, :, :, columns]


def _mirrored(index: Tensor, size: int) -> Tensor:
    if size == 1:
        return torch.zeros_like(index)
    index = index.remainder(2 * (size - 1))
    return torch.minimum(index, 2 * (size - 1) - index)


def symmetric_pad(x: Tensor, margin: int) -> Tensor:
    """Mirror (B, C, H, W) about its edges, the edge pixels repeated, any number of times, as numpy's `symmetric`."""
    rows, columns = (torch.arange(-margin, size + margin, device=x.device).remainder(2 * size) for size in x.shape[2:])
    rows, columns = torch.minimum(rows, 2 * x.shape[2] - 1 - rows), torch.minimum(columns, 2 * x.shape[3] - 1 - columns)
    return x[:, :, rows][:, :, :, columns]


def upsample_bicubic(x: Tensor, scale: int) -> Tensor:
    """MATLAB's `imresize(x, scale)`, bicubic (Keys, a = −1/2): (B, C, H, W) → (B, C, H · scale, W · scale).

    torch's antialiased kernel is MATLAB's but for the edges, where MATLAB mirrors: so pad, resize and crop.
    """
    margin = 4
    padded = F.interpolate(symmetric_pad(x, margin), scale_factor=scale, mode="bicubic", antialias=True)
    cut = margin * scale
    return padded[..., cut:-cut, cut:-cut]


# Malvar, He & Cutler 2004, figure 2, in eighths.
_GREEN = ((0, 0, -1, 0, 0), (0, 0, 2, 0, 0), (-1, 2, 4, 2, -1), (0, 0, 2, 0, 0), (0, 0, -1, 0, 0))
_SAME_ROW = ((0, 0, 0.5, 0, 0), (0, -1, 0, -1, 0), (-1, 4, 5, 4, -1), (0, -1, 0, -1, 0), (0, 0, 0.5, 0, 0))
_OPPOSITE = ((0, 0, -1.5, 0, 0), (0, 2, 0, 2, 0), (-1.5, 0, 6, 0, -1.5), (0, 2, 0, 2, 0), (0, 0, -1.5, 0, 0))


def demosaic_malvar(mosaic: Tensor) -> Tensor:
    """Gradient-corrected linear interpolation of an RGGB mosaic: (B, 1, H, W) → (B, 3, H, W), not clipped."""
    same_row = torch.tensor(_SAME_ROW, dtype=mosaic.dtype, device=mosaic.device)
    green, opposite = (mosaic.new_tensor(kernel) for kernel in (_GREEN, _OPPOSITE))
    kernels = torch.stack([green, same_row, same_row.T, opposite])[:, None] / 8
    height, width = mosaic.shape[2:]
    at_green, row_wise, column_wise, across = F.conv2d(reflect_pad(mosaic, 2, 2, 2, 2), kernels).unbind(1)
    raw = mosaic[:, 0]
    odd_row = torch.arange(height, device=mosaic.device)[:, None] % 2 == 1
    odd_column = torch.arange(width, device=mosaic.device) % 2 == 1
    # RGGB: red at even rows and columns, blue at odd ones, green at the rest.
    red = torch.where(odd_row, torch.where(odd_column, across, column_wise), torch.where(odd_column, row_wise, raw))
    green = torch.where(odd_row == odd_column, at_green, raw)
    blue = torch.where(odd_row, torch.where(odd_column, raw, row_wise), torch.where(odd_column, column_wise, across))
    return torch.stack([red, green, blue], 1)
