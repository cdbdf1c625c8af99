from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Gemma2Config, LlamaConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from align.modeling.cache import RoomyLayer, new_cache


@given(st.lists(st.integers(1, 40) | st.lists(st.integers(0, 3), min_size=4, max_size=4), max_size=8))
def test_holds_what_transformers_own_holds(events: list[int | list[int]]) -> None:
    """Events: so many new tokens, or which rows are kept."""
    torch.manual_seed(0)
    ours, theirs, rows = RoomyLayer(), DynamicLayer(), 4
    for event in [3, *events]:
        if isinstance(event, int):
            new = torch.randn(2, rows, 2, event, 4)
            returned = ours.update(*new)
            assert all(map(torch.equal, returned, theirs.update(*new)))
        else:
            kept = torch.tensor(sorted({row for row in event if row < rows} | {0}))
            rows = len(kept)
            ours.batch_select_indices(kept)
            theirs.batch_select_indices(kept)
        assert ours.get_seq_length() == theirs.get_seq_length()
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.values, theirs.values)


def test_sliding_windows_are_left_to_transformers() -> None:
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 9}
    gemma = new_cache(Gemma2Config(**sizes, layer_types=["sliding_attention", "full_attention"]))
    assert [type(layer) for layer in gemma.layers] == [DynamicSlidingWindowLayer, RoomyLayer]
    assert [type(layer) for layer in new_cache(LlamaConfig(**sizes)).layers] == [RoomyLayer, RoomyLayer]
