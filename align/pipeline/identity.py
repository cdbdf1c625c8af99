"""What decides whether a stage must run again, computed without importing anything that computes.

A fingerprint is the sha256 of the canonical JSON of a stage's identity: its resolved configuration, the fingerprints or
digests of its inputs, the content of its data, and what about the machine changes results. Paths are no part of it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from align.configs import FORMAT_VERSIONS, StageConfig
from align.configs.base import DatasetConfig
from align.configs.base_model import BaseModelConfig
from align.data import sources
from align.errors import UsageError
from align.pipeline import rewards
from align.recipe import parse_reference
from align.recipe.references import REWARD_KEYS
from align.registry import files

COMPUTING = ("torch", "transformers", "peft", "tokenizers", "trl", "accelerate")
"""Libraries whose major version decides what a stage computes."""
RECORDED = (*COMPUTING, "align-rlhf", "datasets", "safetensors")
NVIDIA = Path("/proc/driver/nvidia/version")
"""There where the driver of an NVIDIA GPU is loaded."""


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Sha256 of the canonical JSON of a stage's identity, in hex."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def stage_identity(
    config: StageConfig, inputs: Mapping[str, str], data: Mapping[str, str], as_written: Mapping[str, str]
) -> dict[str, Any]:
    """Everything that a stage's result depends on.

    Args:
        inputs: the place of each reference in the configuration -> what pins it.
        data: the place of each data set in the configuration -> its content's fingerprint.
        as_written: from values with environment variables filled in to the recipe's own words.
    """
    resolved = portable(config, as_written)
    del resolved["after"]
    for place, content in data.items():
        _set(resolved, place, content)
    for key in REWARD_KEYS.get(config.kind, ()):
        resolved[key] = rewards.without_transport(resolved[key])
    return {
        "kind": config.kind,
        "format": FORMAT_VERSIONS[config.kind],
        "config": resolved,
        "inputs": dict(inputs),
        **machine(),
    }


def data_fingerprints(config: StageConfig) -> dict[str, str]:
    """The place of each data set in the configuration (`data.0.dataset`) -> the fingerprint of its content. So are
    files that a reward reads, or its options name, and the directory of a base model.

    Raises:
        UsageError: a file is missing.
    """
    return {place: fingerprint_of() for place, _, fingerprint_of in (*_content(config), *_of_options(config))}


def data_names(config: StageConfig) -> dict[str, str]:
    """What a person calls what the stage reads: a file, a directory, a data set; by the same places. Without what a
    reward's own options name, which it may as well write."""
    return {place: name for place, name, _ in _content(config)}


def option_names(config: StageConfig) -> dict[str, str]:
    """The same of what a reward's own options name."""
    return {place: name for place, name, _ in _of_options(config)}


def _content(config: StageConfig) -> Iterator[tuple[str, str, Callable[[], str]]]:
    """What a stage reads, but for models: its place in the configuration, its name, what takes its fingerprint."""
    for place, dataset in _datasets(config):
        without = f" without {sources.place(dataset.exclude)}" if dataset.exclude else ""
        yield place, sources.place(dataset) + without, partial(sources.fingerprint, dataset)
    for key in REWARD_KEYS.get(config.kind, ()):
        for place, path in rewards.moment_files(getattr(config, key), key):
            yield place, path, partial(_file_digest, place, path)
    if isinstance(config, BaseModelConfig) and (directory := Path(config.model).expanduser()).is_dir():
        yield "model", config.model, partial(directory_digest, directory)


def _of_options(config: StageConfig) -> Iterator[tuple[str, str, Callable[[], str]]]:
    """The same of what a reward's own options name: of a file its content, of a directory where it is."""
    for key in REWARD_KEYS.get(config.kind, ()):
        for place, path in rewards.option_paths(getattr(config, key), key):
            is_file = Path(path).expanduser().is_file()
            yield place, path, partial(_file_digest, place, path) if is_file else partial(fingerprint, {"path": path})


def _file_digest(place: str, path: str) -> str:
    if not Path(path).expanduser().is_file():
        raise UsageError(f"{place}: there is no file {path} (looked from {Path.cwd()})")
    return files.sha256_once(Path(path).expanduser())


def portable(config: StageConfig, as_written: Mapping[str, str]) -> dict[str, Any]:
    """The resolved configuration as a manifest keeps it: without a path of this machine.

    A path that came from an environment variable stands as the recipe wrote it; any other absolute one is its last
    part. What is no path stands with its value, wherever it came from: another value is another stage.
    """
    of_rewards = REWARD_KEYS.get(config.kind, ())
    references, files_of_rewards = config.references(), {**data_names(config), **option_names(config)}

    def reduced(value: Any, key: str, place: str) -> Any:
        if isinstance(value, dict):
            return {name: reduced(item, name, f"{place}.{name}") for name, item in value.items()}
        if isinstance(value, list):
            return [reduced(item, key, f"{place}.{index}") for index, item in enumerate(value)]
        if not isinstance(value, str):
            return value
        scheme, directory = ("path:", value[5:]) if value.startswith("path:") else ("", value)
        is_absolute = directory.startswith(("/", "~"))
        is_model = bool(scheme) or (key == "model" and is_absolute)
        if place.partition(".")[0] in of_rewards:  # whose own options may be called anything
            is_path = place in files_of_rewards or (place in references and is_model)
        else:
            is_path = is_model or key == "path"
        if is_path:
            return as_written.get(value, scheme + Path(directory).name if is_absolute else value)
        return value

    return {name: reduced(value, name, name) for name, value in config.model_dump(mode="json").items()}


def outside_digest(reference: str) -> str:
    """What pins a reference to something that is no artifact: a directory's content, a Hub revision, a module's source.

    Raises:
        FileNotFoundError: the directory or module does not exist; the message says which.
    """
    parsed = parse_reference(reference)
    if parsed.kind == "path":
        directory = Path(parsed.name).expanduser()
        if not directory.is_dir():
            raise FileNotFoundError(f"there is no directory {parsed.name} (looked from {Path.cwd()})")
        return directory_digest(directory)
    if parsed.kind == "hub":
        return f"hub:{parsed.name}@{parsed.version or 'main'}"
    if parsed.kind == "other" and not reference.startswith(("http://", "https://")):
        return _module_digest(reference)
    return reference


def directory_digest(directory: Path) -> str:
    """Sha256 over the names and contents of all files below a directory."""
    content = {name: files.sha256_once(directory / name) for name, _ in files.entries(directory)}
    return fingerprint(content)


def machine() -> dict[str, Any]:
    """What about this machine changes results: the class of device, threads, the major versions of libraries."""
    return {
        "device": device(),
        "threads": threads(),
        "libraries": {name: _version(name).partition(".")[0] for name in COMPUTING},
    }


def device() -> str:
    """`cuda`, `mps` or `cpu`: what training will take, as far as can be found out without importing torch.

    A torch that is built for the CPU alone says so in its version, if it comes from PyTorch's own index. GPUs of other
    makers count as `cpu`.
    """
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "mps"
    return "cuda" if has_nvidia_gpu() and not _version("torch").endswith("+cpu") else "cpu"


def has_nvidia_gpu() -> bool:
    """Whether there is one, and `CUDA_VISIBLE_DEVICES` does not hide it."""
    return NVIDIA.exists() and os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() not in ("", "-1")


def threads() -> int:
    """How many threads torch is told to use: `OMP_NUM_THREADS`, else the CPUs that this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(data: Mapping[str, str]) -> dict[str, Any]:
    """What a manifest says about how an artifact was made."""
    return {
        **machine(),
        "data": dict(data),
        "packages": {name: _version(name) for name in RECORDED},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git_commit": _git_commit(),
    }


def _datasets(config: BaseModel, prefix: str = "") -> Iterator[tuple[str, DatasetConfig]]:
    for name in type(config).model_fields:
        value = getattr(config, name)
        items = {f"{name}.{i}": item for i, item in enumerate(value)} if isinstance(value, list) else {name: value}
        for key, item in items.items():
            place = f"{prefix}{key}"
            if isinstance(item, DatasetConfig):
                yield place, item
            elif isinstance(item, BaseModel):
                yield from _datasets(item, f"{place}.")


def _set(values: Any, place: str, content: str) -> None:
    *around, last = place.split(".")
    for key in around:
        values = values[int(key)] if isinstance(values, list) else values[key]
    values[int(last) if isinstance(values, list) else last] = content


def _module_digest(reference: str) -> str:
    """A reward function of one's own: its source decides what it computes, and in a package that of its neighbours."""
    module = reference.partition(":")[0]
    top = module.partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)  # of what stands within it, the search would import it
    except (ImportError, ValueError):
        spec = None
    spec = spec or PathFinder.find_spec(top, [str(Path.cwd())])
    if spec is None:
        raise FileNotFoundError(f"there is no module {module!r} (looked among the packages and in {Path.cwd()})")
    if not spec.submodule_search_locations:
        return files.sha256_once(Path(spec.origin)) if spec.has_location and spec.origin else reference
    directories = map(Path, spec.submodule_search_locations)
    sources = {str(path.relative_to(one)): path for one in directories for path in sorted(one.rglob("*.py"))}
    return fingerprint({name: files.sha256_once(path) for name, path in sources.items()})


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _git_commit() -> str | None:
    """The commit of the working directory's repository, if it is in one."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
