"""Several processes as one: what ranks tell each other. On one process everything here is the identity.

Started by `torchrun`, each rank holds the same weights and does its share of the rows. Everything that is decided, is
decided by all ranks from the same gathered figures.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

T = TypeVar("T")


def join(*, use_cpu: bool) -> None:
    """Meet the other processes that `torchrun` started, unless the script has done so; on GPUs, take one's own."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    on_gpu = torch.cuda.is_available() and not use_cpu
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not dist.is_initialized():
        dist.init_process_group("nccl" if on_gpu else "gloo")


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; 0 writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def share(rows: int) -> slice:
    """The neighbouring ones of `rows` rows that are this rank's; none where there are more ranks than rows."""
    return slice(rank() * rows // count(), (rank() + 1) * rows // count())


def gather(value: Any) -> list[Any]:
    """What each rank holds, in the order of ranks. Tensors are to be on the CPU."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    return values


def each(compute: Callable[[], T], failure: type[Exception]) -> list[T]:
    """What each rank computes, in the order of ranks. A `failure` of one is raised on all."""
    if count() == 1:
        return [compute()]
    found: T | Exception
    try:
        found = compute()
    except failure as error:
        found = error
    everything = gather(found)
    for one in everything:
        if isinstance(one, failure):
            raise one
    return everything


def first(compute: Callable[[], T], failure: type[Exception]) -> T:
    """What rank 0 computes, and nobody else. A `failure` is raised on all."""
    return each(lambda: compute() if rank() == 0 else None, failure)[0]  # type: ignore[return-value]


def wait() -> None:
    """Until all ranks are here."""
    gather(None)


def broadcast(parameters: Sequence[nn.Parameter]) -> None:
    """Give all ranks the values of rank 0."""
    if count() > 1:
        for parameter in parameters:
            dist.broadcast(parameter.data, 0)


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Add up the gradients of all ranks, in one go; a parameter without one on any rank stays without."""
    if count() == 1:
        return
    held = gather([parameter.grad is not None for parameter in parameters])
    learning = [one for one, anywhere in zip(parameters, map(any, zip(*held, strict=True)), strict=True) if anywhere]
    gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in learning]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for parameter, summed in zip(learning, flat.split([one.numel() for one in learning]), strict=True):
        parameter.grad = summed.view_as(parameter).to(parameter.dtype)


def sum_figures(figures: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Add up scalars by name; a rank may lack some."""
    if count() == 1:
        return figures
    total: dict[str, torch.Tensor] = {}
    for held in gather({name: value.cpu() for name, value in figures.items()}):
        for name, value in held.items():
            total[name] = total.get(name, 0) + value
    return total
