"""`kind: pretrain`: a small base model from scratch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from align.configs.base import Config, Fraction, StageConfig, TextData, TrainConfig


class ModelSize(Config):
    """The shape of the network, under the names that Llama's configuration has."""

    hidden_size: PositiveInt = 128
    num_hidden_layers: PositiveInt = 4
    """For T5: so many in the encoder and so many in the decoder."""
    num_attention_heads: PositiveInt = 4
    intermediate_size: PositiveInt = 384
    max_position_embeddings: PositiveInt = 512

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ModelSize:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}"
            )
        return self


class TokenizerConfig(Config):
    """A byte-level BPE tokenizer, trained on the same texts."""

    vocab_size: PositiveInt = Field(default=2000, ge=300)
    """At most; 256 of these are single bytes, so that every text can be written."""
    lowercase: bool = False
    """Make no difference between upper and lower case. For encoders: a model that writes should know it."""


class PretrainConfig(StageConfig):
    """Train a tokenizer and a language model on plain text."""

    kind: Literal["pretrain"]
    architecture: Literal["llama", "t5", "modernbert"] = "llama"
    """`llama`: decoder-only, next-token prediction. `t5`: encoder-decoder, span corruption. `modernbert`: encoder,
    masked tokens; a body for classifiers, not for policies."""
    size: ModelSize = ModelSize()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: list[TextData] = Field(min_length=1)
    causal_share: Fraction = 0.0
    """Of an encoder's blocks: in these, each token sees those before it alone and predicts the next one; in the others
    masked tokens are predicted. An encoder that learns from few tokens learns more from both."""
    max_length: PositiveInt = 256
    """Tokens in one training block; texts are packed into blocks, each closed by the end-of-text token."""
    attn_implementation: str | None = None
    """While training, as transformers has it: `eager`, `sdpa` (default: what it chooses)."""
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _only_an_encoder_has_two_ways_to_read(self) -> PretrainConfig:
        if self.causal_share and self.architecture != "modernbert":
            raise ValueError(f"causal_share is of encoders: a {self.architecture} reads in one way; leave it out")
        return self

    @model_validator(mode="after")
    def _blocks_fit_the_model(self) -> PretrainConfig:
        positions = self.size.max_position_embeddings
        if self.architecture != "t5" and self.max_length > positions:
            raise ValueError(
                f"max_length {self.max_length} is more than size.max_position_embeddings {positions}: "
                "lower the one or raise the other"
            )
        return self
