"""The policy as others load it: a directory, or a repository on the Hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from peft import PeftModel
from transformers import PreTrainedTokenizerBase


def save(model: Any, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write a policy with its tokenizer, as `from_pretrained` loads them; of a peft policy the active adapters alone,
    without that of its critic."""
    only = {"selected_adapters": model.active_adapters} if isinstance(model, PeftModel) else {}
    model.save_pretrained(str(directory), **only)
    tokenizer.save_pretrained(str(directory))


def upload(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    *,
    commit_message: str,
    token: str | None,
    revision: str | None,
    private: bool | None,
) -> None:
    """The same files to the repository `name`, in one commit. It is made where there is none, `private` or not."""
    hub = HfApi(token=token)
    repository = hub.create_repo(name, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as directory:
        save(model, tokenizer, Path(directory))
        hub.upload_folder(repo_id=repository, folder_path=directory, commit_message=commit_message, revision=revision)
