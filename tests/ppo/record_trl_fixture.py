"""Records what TRL 1.12.0, the last with PPO, has and computes, into `trl_1_12.json` and `.safetensors` beside this.

    pip install --no-deps --target .peers/trl-1.12.0 trl==1.12.0
    python tests/ppo/record_trl_fixture.py .peers/trl-1.12.0

Its trainer runs unmodified for one update of two epochs, on responses and scores that it is handed instead of sampling
them; what it whitens, logs, and finds in its parameters' gradients is written down. Tests read the files, and need no
TRL.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

FIXTURE = Path(__file__).with_name("trl_1_12.json")
TENSORS = FIXTURE.with_suffix(".safetensors")
SHAPE = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SETTINGS = {"num_ppo_epochs": 2, "temperature": 0.7, "kl_coef": 0.3, "cliprange": 0.2, "cliprange_value": 0.2}
LEARNING_RATE = 2.0
"""Of plain gradient descent: large, so that the second epoch clips."""


def llama(kind: type, seed: int, **more: Any) -> Any:
    """The models of the fixture, before they are given its weights."""
    torch.manual_seed(seed)
    return kind(LlamaConfig(**SHAPE, initializer_range=0.4, pad_token_id=0, **more)).eval()


def config() -> dict[str, Any]:
    """Every field of TRL's `PPOConfig` with its default, as JSON."""
    from trl.experimental.ppo import PPOConfig

    defaults = {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(PPOConfig)
    }
    return {name: getattr(value, "value", value) for name, value in defaults.items()}


def update() -> tuple[dict[str, Tensor], dict[str, float]]:
    """What goes into one update, and what comes of it: tensors and logged figures."""
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    policy, reference = llama(LlamaForCausalLM, 1), llama(LlamaForCausalLM, 1)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    critic = llama(LlamaForSequenceClassification, 2, num_labels=1)
    draw = torch.Generator().manual_seed(3)
    queries, responses = torch.randint(4, 20, (4, 3), generator=draw), torch.randint(4, 20, (4, 5), generator=draw)
    scores = torch.randn(4, generator=draw)
    found: dict[str, Tensor] = {"queries": queries, "responses": responses, "scores": scores}
    for name, model in (("policy", policy), ("reference", reference), ("value_model", critic)):
        found |= {f"{name}.{key}": weight.detach().clone() for key, weight in model.state_dict().items()}

    def sampled(model: Any, *_: Any) -> tuple[Tensor, Tensor]:
        both = torch.cat([queries, responses], 1)
        with torch.no_grad():
            return both, model(both).logits[:, queries.shape[1] - 1 : -1] / (SETTINGS["temperature"] + 1e-7)

    read_values, whiten = ppo_trainer.get_reward, ppo_trainer.masked_whiten

    def rewarded(model: Any, *rest: Any) -> Any:
        return (None, scores.clone(), None) if model is reward else read_values(model, *rest)

    def whitened(values: Tensor, mask: Tensor, **more: Any) -> Tensor:
        found["advantages"], found["whitened"] = values.clone(), whiten(values, mask, **more)
        return found["whitened"].clone()

    ppo_trainer.batch_generation, ppo_trainer.get_reward, ppo_trainer.masked_whiten = sampled, rewarded, whitened

    class Descent(torch.optim.SGD):
        """Writes the gradients down."""

        epoch = 0

        def step(self, closure: Any = None) -> None:
            for name, parameter in trainer.model.named_parameters():
                if parameter.grad is not None:
                    found[f"gradient.{self.epoch}.{name}"] = parameter.grad.clone()
            self.epoch += 1
            super().step()

    reward = llama(LlamaForSequenceClassification, 4, num_labels=1)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    optimizer = Descent([*policy.parameters(), *critic.parameters()], lr=LEARNING_RATE)
    with tempfile.TemporaryDirectory() as directory:
        args = PPOConfig(
            output_dir=directory,
            per_device_train_batch_size=4,
            total_episodes=4,
            response_length=5,
            num_sample_generations=0,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            **SETTINGS,
        )
        rows = Dataset.from_dict({"input_ids": queries.tolist()})
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
        trainer = PPOTrainer(
            args,
            tokenizer,
            policy,
            reference,
            reward,
            rows,
            critic,
            optimizers=(optimizer, schedule),
            eval_dataset=rows,
        )
        logged: dict[str, float] = {}
        trainer.log = lambda figures, *_: logged.update(figures)
        trainer.train()
    return found, {name: float(value) for name, value in logged.items() if "/" in name}


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    import trl

    assert trl.__version__ == "1.12.0", trl.__version__
    tensors, figures = update()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, TENSORS)
    text = json.dumps({"config": config(), "figures": figures}, indent=1)
    FIXTURE.write_text(text + "\n", encoding="utf-8")
