"""Dropout whose noise is cheap to draw on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class QuickDropout(TorchFunctionMode):
    """Within it, `torch.nn.functional.dropout`, and with it every `nn.Dropout`, is `dropout` below.

    Torch draws the noise of a dropout on most CPUs one number at a time, in double precision. That was nearly half of
    a small classifier's training step (`benchmarks/dynahate.md`).
    """

    def __torch_function__(
        self, function: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `function`, or what stands for it."""
        return (dropout if function is functional.dropout else function)(*args, **(kwargs or {}))


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`input` with each element 0 with probability `p`, else divided by `1 - p`.

    On a CPU it draws 16 bits for each from torch's generator, which makes `p` a multiple of 1/65,536; elsewhere, and
    where there is nothing to draw, it is torch's own.
    """
    draws = training and 0 < p < 1 and input.device.type == "cpu" and input.is_floating_point() and not inplace
    if not draws:
        return functional.dropout(input, p, training, inplace)
    four_at_once = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    drawn = four_at_once.view(torch.int16)[: input.numel()].view(input.shape)
    kept = drawn >= round(p * 2**16) - 2**15
    return input * kept.to(input.dtype).mul_(1 / (1 - p))
