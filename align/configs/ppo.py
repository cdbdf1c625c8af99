"""`kind: ppo`, and `PPOConfig`: what the engine can be told. Names are those of TRL 1.12.

The Python API's `align.ppo.PPOConfig` is this class, and accepts besides what a script written for TRL sets.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from align.configs.base import (
    Config,
    Fraction,
    FractionBelowOne,
    InstructionData,
    LoraSettings,
    Method,
    PromptData,
    Reference,
    RewardSpec,
    Seed,
    StageConfig,
    StepLimit,
)

Rhythm = PositiveInt | Annotated[float, Field(gt=0, lt=1)]
"""Every so many updates; below 1 a share of all."""


class HealthConfig(Config):
    """When a run is no longer healthy, and what to do then. A threshold that is null is not watched."""

    max_kl: PositiveFloat | None = None
    """Nats per response from the reference policy, mean of an update."""
    min_entropy: NonNegativeFloat | None = None
    """Nats per token; sampling that has become deterministic learns nothing more."""
    max_length_drift: PositiveFloat | None = None
    """Mean response length against the first update's: 0.5 allows half to one and a half of it."""
    max_repetition: Fraction | None = None
    """Share of repeated 3-grams within responses."""
    max_clipfrac: Fraction | None = None
    """Share of tokens whose ratio was clipped."""
    min_score_std: NonNegativeFloat | None = 0.0
    """Spread of the scores in an update. Unless this is null, a reward that has never said but one thing stops PPO."""
    action: Literal["warn", "stop"] = "warn"
    """`stop` ends training; what is left is the best policy so far on held-out prompts. A NaN always stops."""


class PPOConfig(Config):
    """Everything the PPO engine can be told."""

    total_episodes: PositiveInt | None = None
    """Responses sampled in the whole training (default: `num_train_epochs` passes over the prompts)."""
    num_train_epochs: PositiveFloat = 1.0
    max_steps: StepLimit = -1
    """Updates at most; -1 sets no bound."""
    batch_size: PositiveInt = 64
    """Responses per update, over all processes."""
    num_generations: PositiveInt = 1
    """Responses to each prompt of an update, which has batch_size / num_generations prompts."""
    num_ppo_epochs: PositiveInt = 4
    num_mini_batches: PositiveInt = 1
    """Optimizer steps in one PPO epoch."""
    tokens_per_micro_batch: PositiveInt = 4096
    """Memory bound of one forward and backward pass; gradients of a mini-batch accumulate over its micro-batches."""

    learning_rate: NonNegativeFloat = 3e-6
    lr_scheduler_type: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "linear"
    warmup_steps: NonNegativeFloat = 0
    """Updates; below 1 a share of all."""
    weight_decay: NonNegativeFloat = 0.0
    adam_beta1: FractionBelowOne = 0.9
    adam_beta2: FractionBelowOne = 0.999
    adam_epsilon: PositiveFloat = 1e-8
    max_grad_norm: NonNegativeFloat = 1.0
    """0: gradients are not clipped."""
    bf16: bool = False
    """Compute in bfloat16 by autocast; weights, log-probabilities and losses stay float32."""
    torch_compile: bool = False
    """Compile the trunk for passes over whole responses; sampling, a token at a time, stays as it is."""
    torch_compile_backend: str | None = None
    torch_compile_mode: str | None = None
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""

    response_length: PositiveInt = 53
    """New tokens at most."""
    temperature: PositiveFloat = 0.7
    stop_token: Literal["eos"] | None = "eos"
    """What ends a response; null: nothing but `response_length`."""
    stop_token_id: NonNegativeInt | None = None
    """A token that ends a response in the place of `stop_token`."""
    missing_eos_penalty: NonNegativeFloat | None = None
    """Subtracted from the score of a response that ran into `response_length` without its stop token."""

    kl_coef: NonNegativeFloat = 0.05
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    """Only k1, the per-token log-ratio in the reward: the other estimators converge elsewhere when placed there."""
    kl_target: PositiveFloat | None = None
    """Nats per response: `kl_coef` then adapts to hold this KL (Ziegler et al. 2019, section 2.2)."""
    kl_horizon: PositiveInt = 10_000
    """Episodes over which the adaptive coefficient moves."""
    cliprange: PositiveFloat = 0.2
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """Bound of the ratio where the advantage is negative: the loss is at most so many times |advantage| (Ye et al.
    2020)."""
    vf_coef: NonNegativeFloat = 0.1
    cliprange_value: PositiveFloat = 0.2
    advantage: Literal["gae", "rloo", "grpo", "reinforce_pp"] = "gae"
    """Where advantages come from: a critic (gae), the other responses to the same prompt (rloo, grpo), or the batch
    (reinforce_pp). The latter three have no critic."""
    critic: Literal["shared", "adapter", "separate"] = "shared"
    """The value model: a head on the policy's trunk, on that trunk with an adapter of its own, or on a second trunk."""
    entropy_coef: NonNegativeFloat = 0.0
    ptx_coef: NonNegativeFloat = 0.0
    """Weight of the supervised loss that is mixed in, a mean over tokens as PPO's own is."""
    gamma: Fraction = 1.0
    lam: Fraction = 0.95
    whiten_advantages: bool = True
    """Of gae and reinforce_pp; rloo and grpo have a baseline of their own."""
    whiten_rewards: bool = False
    reward_scaling: bool = False
    """Divide scores by the running standard deviation of all scores so far."""
    reward_clip: PositiveFloat | None = None
    """Scores are clipped to [-reward_clip, reward_clip] after scaling."""

    eval_steps: Rhythm = 10
    """Updates between evaluations on held-out prompts; below 1 a share of all."""
    save_steps: Rhythm = 10
    """Updates between checkpoints to resume from; below 1 a share of all."""
    save_total_limit: PositiveInt | None = 2
    """Checkpoints that are kept; null keeps all."""
    max_eval_kl: PositiveFloat | None = None
    """KL budget, nats per response at `temperature`, estimated from the samples: the best policy is the one of highest
    held-out reward within it."""
    early_stopping_patience: PositiveInt | None = None
    """Evaluations in a row without a better policy after which training ends."""
    num_eval_samples: NonNegativeInt = 8
    """Rows of the sample table."""
    seed: Seed = 0
    health: HealthConfig = HealthConfig()

    @field_validator("kl_estimator")
    @classmethod
    def _reaches_the_optimum(cls, estimator: str) -> str:
        if estimator != "k1":
            raise ValueError(
                f"{estimator} in the reward does not lead to the optimum, policy ∝ reference × exp(score / kl_coef): "
                "k3 ends at the greedy policy, as if there were no penalty, and k2 far from both. Use k1, or remove it"
            )
        return estimator

    @model_validator(mode="after")
    def _mini_batches_fit(self) -> Self:
        if self.batch_size % self.num_mini_batches:
            raise ValueError(
                f"batch_size {self.batch_size} is not divisible by num_mini_batches {self.num_mini_batches}"
            )
        return self

    @model_validator(mode="after")
    def _controls_what_it_can(self) -> Self:
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError("kl_target adapts kl_coef, and 0 stays 0: set kl_coef to its starting value")
        if self.kl_target is not None and self.batch_size >= 5 * self.kl_horizon:
            raise ValueError(f"kl_horizon {self.kl_horizon} is too short for batch_size {self.batch_size}: raise it")
        if self.missing_eos_penalty and self.stop_token is None and self.stop_token_id is None:
            raise ValueError("missing_eos_penalty would hit every response, as none can end: set stop_token: eos")
        return self

    @model_validator(mode="after")
    def _advantages_have_what_they_need(self) -> Self:
        if self.batch_size % self.num_generations:
            raise ValueError(f"batch_size {self.batch_size} is not divisible by num_generations {self.num_generations}")
        if self.advantage in ("rloo", "grpo") and self.num_generations == 1:
            raise ValueError(f"{self.advantage} compares responses to one prompt: set num_generations to 2 or more")
        if self.advantage == "grpo" and self.whiten_rewards:
            raise ValueError("grpo divides scores by the spread of their group: remove whiten_rewards")
        if self.advantage != "gae" and self.critic != "shared":
            raise ValueError(f"{self.advantage} has no critic: remove `critic`, or set advantage: gae")
        return self

    @model_validator(mode="after")
    def _adapters_stay_put(self) -> Self:
        if self.critic == "adapter" and self.gradient_checkpointing:
            raise ValueError(
                "gradient_checkpointing computes activations again after adapters were switched, and critic: adapter "
                "would learn from the policy's: set critic to shared or separate"
            )
        return self


class PPOStageConfig(StageConfig):
    """Train `policy` against `reward` with PPO, staying close to where it started."""

    kind: Literal["ppo"]
    policy: Reference
    reward: RewardSpec
    judge: RewardSpec | None = None
    """Chooses the best policy in the place of the reward, on `evaluation_prompts` that no evaluation may use."""
    critic_from: Reference | None = None
    """A classifier on the policy's kind of body that the value model starts as; needs `ppo.critic: separate`."""
    method: Method = "full"
    lora: LoraSettings | None = None
    publish: Literal["merged", "adapter"] = "merged"
    prompts: list[PromptData] = Field(min_length=1)
    evaluation_prompts: list[PromptData] = []
    """Held-out prompts for choosing the best policy (default: a tenth of `prompts`, at most 128, kept aside)."""
    ptx_data: list[InstructionData] = []
    """Prompts and completions whose supervised loss is mixed in by `ppo.ptx_coef`: in a step as many as responses."""
    max_prompt_length: PositiveInt = 512
    """Longer prompts are dealt with as `long_prompts` says."""
    long_prompts: Literal["skip", "truncate_left", "error"] = "skip"
    ppo: PPOConfig = PPOConfig()

    @model_validator(mode="after")
    def _lora_only_with_lora(self) -> Self:
        if self.lora is not None and self.method == "full":
            raise ValueError("`lora:` is set, but method is full: set method: lora or qlora, or remove the block")
        if self.publish == "adapter" and self.method == "full":
            raise ValueError("publish: adapter needs method: lora or qlora")
        return self

    @model_validator(mode="after")
    def _has_one_seed(self) -> Self:
        if "seed" in self.ppo.model_fields_set:
            raise ValueError("ppo.seed has no effect in a recipe: set the stage's `seed`")
        return self

    @model_validator(mode="after")
    def _mixes_what_it_has(self) -> Self:
        if bool(self.ptx_data) != bool(self.ppo.ptx_coef):
            raise ValueError("ptx_data is mixed in with the weight ppo.ptx_coef: set both or neither")
        return self

    @model_validator(mode="after")
    def _judge_is_apart(self) -> Self:
        if self.judge is not None and self.judge == self.reward:
            raise ValueError("judge is the reward itself: remove it, or name a scorer that is not trained against")
        if self.judge is not None and not self.evaluation_prompts:
            raise ValueError("a judge needs prompts of its own to choose on: set evaluation_prompts")
        return self

    @model_validator(mode="after")
    def _critic_has_what_it_needs(self) -> Self:
        if self.ppo.critic == "adapter" and self.method == "full":
            raise ValueError("ppo.critic: adapter needs method: lora or qlora; shared and separate work with any")
        if self.critic_from is not None and self.ppo.critic != "separate":
            raise ValueError("critic_from gives the value model a trunk of its own: set ppo.critic: separate")
        return self
