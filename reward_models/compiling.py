"""Forward passes compiled for weights that no longer change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def compiled(model: Any) -> Callable[..., Any]:
    """The model's forward pass: what stands between the products is fused, and weights are laid out for them ahead.

    Compiled when first called, and again for a single text, in some twenty seconds each. What cannot be compiled (it
    takes a C++ compiler) runs as it is, with a warning of torch's. To be called without gradients: weights that may
    still change are not laid out.
    """
    from torch._dynamo import config as tracing  # which takes a second to import
    from torch._inductor import config as compiling

    tracing.suppress_errors = True
    fast = torch.compile(model, dynamic=True)

    def forward(**inputs: torch.Tensor) -> Any:
        # As an option of torch.compile, freezing comes too late: by then the weights are arguments. Models of a class
        # share one limit, beyond which they would run as they are.
        with compiling.patch(freezing=True), tracing.patch(recompile_limit=tracing.accumulated_recompile_limit):
            return fast(**inputs)  # type: ignore[no-untyped-call]

    return forward
