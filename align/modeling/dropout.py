"""Dropout whose noise is cheap to draw on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_of_torch = functional.dropout


@contextmanager
def quick_dropout() -> Iterator[None]:
    """Within it, `torch.nn.functional.dropout`, and with it every `nn.Dropout`, is `dropout` below.

    Torch draws the noise of a dropout on most CPUs one number at a time, in double precision. That was nearly half of
    a small classifier's training step (`benchmarks/dynahate.md`). The function itself is replaced, as a backward pass
    that computes activations again (gradient checkpointing) has to draw as the forward pass did, and looks it up again.
    Fused attention (`sdpa`) has noise of its own.
    """
    functional.dropout = dropout
    try:
        yield
    finally:
        functional.dropout = _of_torch


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`input` with each element 0 with probability `p`, else divided by `1 - p`.

    On a CPU it draws 16 bits for each, which makes `p` a multiple of 1/65,536, from a generator of numpy, faster than
    torch's, that torch's seeds anew each time. Elsewhere, and where there is nothing to draw, it is torch's own.
    """
    dropped = round(p * 2**16)  # of as many values as 16 bits have
    draws = training and 0 < dropped < 2**16 and input.device.type == "cpu" and input.is_floating_point()
    if not draws or inplace:
        return _of_torch(input, p, training, inplace)
    seed = int(torch.empty((), dtype=torch.int64).random_())
    four_at_once = np.random.SFC64(seed).random_raw(-(-input.numel() // 4))
    drawn = torch.from_numpy(four_at_once.view(np.int16))[: input.numel()].view(input.shape)
    kept = drawn.ge_(dropped - 2**15)  # 0 or 1 in place: truth values are slower to convert
    return input * kept.to(input.dtype).mul_(1 / (1 - p))
