"""What pre-training may be told."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from align.configs.pretrain import PretrainConfig


def _config(architecture: str, max_length: int) -> PretrainConfig:
    return PretrainConfig.model_validate(
        {
            "kind": "pretrain",
            "architecture": architecture,
            "size": {"max_position_embeddings": 128},
            "data": [{"dataset": {"generator": "dialogues"}, "text": "{dialogue}"}],
            "max_length": max_length,
        }
    )


def test_blocks_must_fit_into_the_positions_of_a_llama() -> None:
    assert _config("llama", 128).max_length == 128
    assert _config("t5", 129).max_length == 129  # relative positions: no bound
    with pytest.raises(ValidationError, match=r"max_length 129 is more than size\.max_position_embeddings 128"):
        _config("llama", 129)
