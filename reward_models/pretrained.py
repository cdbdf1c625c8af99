"""Trained classifiers from directories and the Hub, with what is wrong with one said in words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.constants import is_offline_mode
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import cached_file, logging

from reward_models.base import RewardError


def configuration(source: str, name: str, revision: str | None) -> Any:
    """What `config.json` says of a model.

    Raises:
        RewardError: there is none, or it cannot be read or fetched.
    """
    try:
        return AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    except Exception as error:
        raise _not_loadable(name, error) from error


def classifier(source: str, name: str, revision: str | None) -> tuple[Any, Any]:
    """A trained sequence classifier in float32, and its tokenizer.

    Raises:
        RewardError: files are missing, damaged or of another model, or the head has no weights.
    """
    try:
        with _quiet_transformers():
            model, report = AutoModelForSequenceClassification.from_pretrained(
                source,
                revision=revision,
                dtype=torch.float32,
                trust_remote_code=False,  # else it asks whether to run what lies there
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # which are looked at below
            )
    except Exception as error:
        raise _not_loadable(name, error) from error
    if getattr(model, "_hf_peft_config_loaded", False):
        raise RewardError(
            f"reward model {name} is an adapter, whose base model lies elsewhere and may change: merge the two "
            "(merge_and_unload), and name the directory that save_pretrained writes then"
        )
    try:
        with _quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
        # Of no files transformers makes one, which knows a space at most.
        if len(tokenizer) <= len(tokenizer.all_special_ids) + 1:
            raise ValueError("its vocabulary is empty")
    except Exception as error:
        what = f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(": ")
        raise RewardError(
            f"reward model {name}: its tokenizer cannot be loaded ({what}): are all its files beside config.json?"
        ) from error
    for key, found, expected in sorted(report["mismatched_keys"]):
        raise RewardError(
            f"reward model {name}: its weights do not belong to its config.json: {key} is {list(found)}, not "
            f"{list(expected)}. Take both from one model"
        )
    if report["missing_keys"]:
        raise RewardError(
            f"reward model {name} is not a trained classifier: it has no weights for "
            f"{', '.join(sorted(report['missing_keys'])[:3])}. Train one with a stage of kind `reward`, or name another"
        )
    return model, tokenizer


def _not_loadable(name: str, error: Exception) -> RewardError:
    what = f"{error}"
    if not isinstance(error, OSError | ValueError):  # Of damaged files each library complains in its own way.
        what = f"its files are damaged or incomplete, make or fetch it again: {type(error).__name__}: {error}"
    return RewardError(f"reward model {name}: no sequence classifier can be loaded: {what}")


def file_if_there(source: str, file: str, name: str, revision: str | None) -> Path | None:
    """A file of a directory or of a Hub repository; None where there is none.

    Raises:
        RewardError: it is not known whether there is one, as the Hub cannot be asked.
    """
    if Path(source).is_dir():
        path = Path(source) / file
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(source, file, revision=revision))
    except LocalEntryNotFoundError as error:  # which is an EntryNotFoundError too
        cached = [try_to_load_from_cache(source, one, revision=revision) for one in (file, "config.json")]
        nothing_is = is_offline_mode() and cached[1] is None  # and loading says that better
        if cached[0] is None and not nothing_is:
            raise RewardError(
                f"reward model {name}: the Hub cannot be asked whether there is a {file}, which may turn the meaning "
                f"of its scores: {error}. `hf download {source} {file}` where the Hub is in reach settles it, also if "
                "there is none"
            ) from error
        return None
    except EntryNotFoundError:
        return None
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):  # or no access: loading says why
        return None
    except OSError as error:
        raise RewardError(f"reward model {name}: its {file} cannot be fetched: {error}") from error


def moved(name: str, model: Any, device: str) -> Any:
    """The model on that device.

    Raises:
        RewardError: there is no such device, or no room.
    """
    try:
        return model.to(device)
    except (AssertionError, RuntimeError) as error:
        raise RewardError(f"reward model {name}: device {device!r} cannot be used: {error}") from error


def commit(repository: str, revision: str | None) -> str | None:
    """The commit of a Hub repository as it lies in the cache, where a commit is a directory."""
    path = cached_file(repository, "config.json", revision=revision)
    return Path(path).parent.name if path else None


def digest(directory: Path) -> str:
    """Sha256 of the files directly in the directory: the model, its tokenizer and what they declare."""
    found = hashlib.sha256()
    for path in sorted(path for path in directory.iterdir() if path.is_file()):
        with path.open("rb") as file:
            found.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No bar for a moment's work, and no warning of missing weights: those are an error, raised in words."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
