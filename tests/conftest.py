"""What all tests share: no network, few threads, and small real models made once."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# The same examples every time, so that a change is judged by what it changes. HYPOTHESIS_PROFILE=default draws others.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(autouse=True)
def the_process_as_it_was() -> Iterator[None]:
    """What a command leaves in its process, which is about to end: a Ctrl-C that ends it at once, and torch set to the
    same bits every time."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)
    if torch := sys.modules.get("torch"):
        torch.use_deterministic_algorithms(False)


WORDS = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3} | {f"w{number}": number for number in range(4, 50)}


@pytest.fixture(scope="session")
def word_tokenizer() -> Any:
    """Fifty tokens: `w4` to `w49`, one a word, so that a test can write tokens as text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="session")
def tiny_classifier(tmp_path_factory: pytest.TempPathFactory, word_tokenizer: Any) -> Any:
    """A directory with a classifier of random weights over `word_tokenizer`'s words, toxic and nontoxic."""
    import torch
    from transformers import RobertaConfig, RobertaForSequenceClassification

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    labels = {"id2label": {0: "nontoxic", 1: "toxic"}, "label2id": {"nontoxic": 0, "toxic": 1}}
    config = RobertaConfig(
        vocab_size=50, pad_token_id=0, max_position_embeddings=130, initializer_range=0.5, **shape, **labels
    )
    directory = tmp_path_factory.mktemp("classifier") / "tiny"
    RobertaForSequenceClassification(config).save_pretrained(directory)
    word_tokenizer.save_pretrained(directory)
    (directory / "reward_model.json").write_text('{"label": "nontoxic"}', encoding="utf-8")
    return directory


def _llama(common: dict[str, Any]) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**common, num_key_value_heads=2, initializer_range=0.3))


def _qwen2(common: dict[str, Any]) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**common, num_key_value_heads=2, initializer_range=0.3))


def _gemma2(common: dict[str, Any]) -> Any:
    """Caps its logits, scales its embeddings, and looks back through a window in every other layer."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    shape = {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8, "final_logit_softcapping": 2.0}
    return Gemma2ForCausalLM(Gemma2Config(**common, **shape, initializer_range=0.3))


def _gpt2(common: dict[str, Any]) -> Any:
    """Has absolute positions, and dropout in its configuration."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=64, eos_token_id=2, initializer_range=0.3)
    )


def _t5(common: dict[str, Any]) -> Any:
    """Scales its hidden states before the head."""
    from transformers import T5Config, T5ForConditionalGeneration

    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    tokens = {"vocab_size": 50, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 2}
    return T5ForConditionalGeneration(T5Config(**shape, **tokens, dropout_rate=0.1))


def _bart(common: dict[str, Any]) -> Any:
    """Adds a bias to its logits, and has absolute positions in the encoder."""
    from transformers import BartConfig, BartForConditionalGeneration

    parts = {f"{part}_{what}": n for part in ("encoder", "decoder") for what, n in (("layers", 2), ("ffn_dim", 64))}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    tokens = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    model = BartForConditionalGeneration(
        BartConfig(**parts, **heads, **tokens, d_model=32, max_position_embeddings=64, init_std=0.3)
    )
    model.final_logits_bias.normal_()
    return model


ARCHITECTURES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "gemma2": _gemma2,
    "gpt2": _gpt2,
    "t5": _t5,
    "bart": _bart,
}


@pytest.fixture(scope="session")
def tiny_model() -> Callable[[str], Any]:
    """A new tiny model of an architecture over `word_tokenizer`'s vocabulary, the same weights each time."""

    def make(architecture: str) -> Any:
        import torch

        torch.manual_seed(0)
        common = {
            "vocab_size": 50,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        return ARCHITECTURES[architecture](common).eval()

    return make


@pytest.fixture(params=list(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> str:
    """Each of the six architectures in turn."""
    return str(request.param)


class Answering(BaseHTTPRequestHandler):
    """A request handler that a test tells how to answer."""

    def answer(self, content: Any, status: int = 200, *, promised: int | None = None, **headers: str) -> None:
        """Send bytes, or anything else as JSON; `promised` says how many bytes it is said to be."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(promised or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


Behaviour = Callable[[Answering, dict[str, Any], int], None]


def with_both_loopbacks(resolve: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """`getaddrinfo` of a machine that knows `localhost` by both of its addresses."""

    def resolved(host: str, *how: Any, **more: Any) -> list[Any]:
        hosts = ("127.0.0.1", "::1") if host == "localhost" else (host,)
        return [entry for one in hosts for entry in resolve(one, *how, **more)]

    return resolved


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[str, list[dict[str, Any]]]]]:
    """`serve(behave)` -> the address of a server on loopback, and the requests that it gets.

    `behave(handler, asked, number)` answers the JSON that was posted, the so-manieth one, by `handler.answer(...)`.
    With `host="::1"`, IPv6's loopback alone answers, and `localhost` stands for both.
    """
    from reward_models import endpoint

    monkeypatch.setattr(endpoint, "_FIRST_PAUSE", 0.01)
    servers = []

    def start(behave: Behaviour, host: str = "127.0.0.1") -> tuple[str, list[dict[str, Any]]]:
        requests: list[dict[str, Any]] = []

        class Handler(Answering):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                requests.append({"path": self.path, "headers": self.headers, **asked})
                behave(self, asked, len(requests))

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        server = Server((host, 0), Handler)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        if host == "127.0.0.1":
            return f"http://{host}:{server.server_address[1]}", requests
        monkeypatch.setattr(socket, "getaddrinfo", with_both_loopbacks(socket.getaddrinfo))
        return f"http://localhost:{server.server_address[1]}", requests

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


SPELLED = [
    "You are kind, and I thank you for it.",
    "Anna and Ben meet at the old station at noon, then walk to the market.",
]
"""What the tokenizer of tiny classifiers is trained on."""


def _bpe_tokenizer(architecture: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>"]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        SPELLED, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    )
    if architecture != "llama":
        single = "<s> $A </s>" if architecture == "roberta" else "$A </s>"
        inner.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=64
    )


def _classifier(architecture: str, num_labels: int, tokenizer: Any) -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    common = {"vocab_size": len(tokenizer), "num_labels": num_labels, "pad_token_id": 0, "eos_token_id": 2}
    if architecture == "t5":
        config = transformers.T5Config(
            d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=4, decoder_start_token_id=0, **common
        )
        return transformers.T5ForSequenceClassification(config)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    if architecture == "roberta":
        config = transformers.RobertaConfig(max_position_embeddings=65, **shape, **common)
        return transformers.RobertaForSequenceClassification(config)
    return transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**shape, **common))


ClassifierMaker = Callable[..., Path]


@pytest.fixture(scope="session")
def make_classifier(tmp_path_factory: pytest.TempPathFactory) -> ClassifierMaker:
    """`make_classifier("roberta", ["toxic", "nontoxic"])` -> its directory.

    The weights that belong to a label are the same wherever it stands in the list.
    """
    import torch

    made: dict[Any, Path] = {}

    def make(architecture: str, labels: list[str], problem_type: str | None = None) -> Path:
        key = (architecture, tuple(labels), problem_type)
        if key in made:
            return made[key]
        tokenizer = _bpe_tokenizer(architecture)
        model = _classifier(architecture, len(labels), tokenizer)
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: index for index, label in enumerate(labels)}
        model.config.problem_type = problem_type
        head = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
        with torch.no_grad():
            for index, label in enumerate(labels):
                generator = torch.Generator().manual_seed(sum(label.encode()))
                head.weight[index] = torch.randn(head.in_features, generator=generator)
                if head.bias is not None:
                    head.bias[index] = torch.randn((), generator=generator)
        directory = tmp_path_factory.mktemp("classifier") / architecture
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        return made.setdefault(key, directory)

    return make
