"""Bits of a Key-Graph turned round, gathered and listed."""

import triton
import triton.language as tl


@triton.jit
def transpose(bits, out, nodes, words):
    """Bits 32 a … of rows 32 b … become bits 32 b … of rows 32 a …: a program is one such square of one window."""
    a, b, window = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    lane = tl.arange(0, 32)
    row, column = b * 32 + lane, a * 32 + lane
    word = tl.load(bits + (window * nodes + row) * words + a, mask=row < nodes, other=0)
    turned = tl.sum(((word[None, :] >> lane[:, None]) & 1) << lane[None, :], 1)
    tl.store(out + (window * nodes + column) * words + b, turned, mask=column < nodes)
