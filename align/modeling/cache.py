"""A key-value cache with room for the tokens to come. That of transformers copies all it holds for every new token,
which on a CPU takes as long as all else in generation together.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 16
"""Tokens for which there is room when a buffer is made. More copies less, and holds more that is not used."""


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """What one layer attends to, at the front of a buffer: `keys` and `values` [b, heads, length, width] are views."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens; returns all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[..., :0, :], value_states[..., :0, :]
            self._buffers = [self.keys, self.values]
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            self._buffers = [_with_room(held, end) for held in (self.keys, self.values)]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., start:end, :] = new
        self.keys, self.values = (buffer[..., :end, :] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        length = self.get_seq_length()
        self._buffers = [buffer[indices] for buffer in self._buffers]
        self.keys, self.values = (buffer[..., :length, :] for buffer in self._buffers)


def new_cache(config: Any) -> DynamicCache:
    """An empty cache for a model. Layers of other kinds than full attention, as sliding windows, stay transformers'."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _with_room(held: Tensor, length: int) -> Tensor:
    buffer = held.new_empty(*held.shape[:-2], length + ROOM, held.shape[-1])
    buffer[..., : held.shape[-2], :] = held
    return buffer
