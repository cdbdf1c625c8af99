"""A bare module of transformers as the reward of a script."""

from __future__ import annotations

from typing import Any

from transformers import RobertaConfig, RobertaForSequenceClassification

from align.ppo.module_reward import as_reward


def test_a_text_longer_than_the_model_reads_is_cut(word_tokenizer: Any) -> None:
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = RobertaConfig(vocab_size=50, pad_token_id=0, max_position_embeddings=20, num_labels=1, **shape)
    reward = as_reward(RobertaForSequenceClassification(config), word_tokenizer)
    scores = reward.score([""] * 2, ["w5 " * 100, "w5 " * 30])
    assert scores[0] == scores[1]
