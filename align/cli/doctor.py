"""`align doctor`: are this machine and this registry fit for a recipe? Looks, changes nothing, shows no secret."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from align.cli.commands import AsJson, Debug, Overrides, RegistryOption, console, print_json, readable
from align.errors import AlignError, VerificationError

if TYPE_CHECKING:
    from align.pipeline import Plan
    from align.registry import Registry

State = Literal["ok", "note", "problem"]
WANDB = "https://api.wandb.ai"
_SECONDS_TO_CONNECT = 3.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    state: State
    message: str
    exit_code: int = 1
    """Of the command, where this is a problem."""


def doctor(
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="Also: is there room for its plan?")] = None,
    overrides: Overrides = None,
    registry: RegistryOption = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Look at versions, accelerator, registry, disk space and W&B.

    Takes a few seconds. Artifacts are checked by manifest and size; `align registry verify` hashes them as well. Exit
    code 0 if all is well, 3 if an artifact is damaged, 2 for a bad recipe, else 1.
    """
    from align import pipeline
    from align.recipe import load

    loaded = load(recipe, overrides or ()) if recipe else None
    store = pipeline.open_registry(loaded, registry)
    findings = [*_versions(), _accelerator(), *_registry(store)]
    mode = os.environ.get("WANDB_MODE")
    if loaded is not None:
        mode = loaded.tracking.wandb.mode or mode if loaded.tracking.wandb else "disabled"
    try:
        planned = pipeline.plan_recipe(loaded, registry=store) if loaded else None
    except AlignError as error:
        planned = None
        findings.append(Finding("plan", "problem", str(error), error.exit_code))
    findings += [_disk(store, planned), _wandb(mode)]
    if as_json:
        print_json([{key: value for key, value in asdict(found).items() if key != "exit_code"} for found in findings])
    else:
        _print(findings)
    problems = [found.exit_code for found in findings if found.state == "problem"]
    if problems:
        raise typer.Exit(VerificationError.exit_code if VerificationError.exit_code in problems else problems[0])


def _versions() -> Iterator[Finding]:
    """Python, this package, and every library that it requires, against what it asks for."""
    import platform
    from importlib import metadata

    from packaging.requirements import Requirement

    yield Finding("python", "ok", f"{platform.python_version()}, {platform.platform()}")
    try:
        asked = [Requirement(text) for text in metadata.requires("align-rlhf") or ()]
        yield Finding("align", "ok", metadata.version("align-rlhf"))
    except metadata.PackageNotFoundError:
        yield Finding("align", "note", "runs from its sources and is not installed: versions were not compared")
        return
    found, wrong = [], []
    for requirement in asked:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        found.append(f"{requirement.name} {version}")
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, not {requirement.specifier}")
    if wrong:
        yield Finding("libraries", "problem", f"{'; '.join(wrong)}. Install with -c constraints.txt")
    else:
        yield Finding("libraries", "ok", ", ".join(found))


def _accelerator() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("accelerator", "problem", f"torch cannot be imported: {error}")

    from align.pipeline import identity

    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        free, total = torch.cuda.mem_get_info(0)
        memory = f"{readable(free)}B of {readable(total)}B free"
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        return Finding("accelerator", "ok", f"{torch.cuda.device_count()} x {device.name}, {memory}, {bf16}")
    threads = f"{identity.threads()} of {os.cpu_count()} cores"
    if identity.has_nvidia_gpu():
        advice = "the machine has an NVIDIA GPU, which this torch cannot use: install a torch build for CUDA"
        return Finding("accelerator", "problem", f"CPU, {threads}; {advice}")
    return Finding("accelerator", "ok", f"CPU, {threads}; no GPU")


def _registry(store: Registry) -> Iterator[Finding]:
    """Sizes and manifests of all artifacts; hashing every byte is for `align registry verify`."""
    if not store.root.exists():
        yield Finding("registry", "ok", f"{store.root} is not there yet; the first run makes it")
        return
    if not os.access(store.root, os.W_OK | os.X_OK):
        yield Finding("registry", "problem", f"{store.root} cannot be written")
    artifacts, damaged = store.survey()
    if damaged:
        more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        shown = "; ".join(map(str, damaged[:3]))
        yield Finding("registry", "problem", f"{shown}{more}. See align registry verify", VerificationError.exit_code)
    else:
        size = sum(file.size for artifact in artifacts for file in artifact.manifest.files)
        yield Finding("registry", "ok", f"{len(artifacts)} artifacts, {readable(size)}B, sizes and manifests sound")
    for name, what in (
        ("quarantine", "damaged versions, moved aside"),
        ("staging", "publications under way, or killed"),
    ):
        if left := len(list((store.root / name).glob("*"))):
            yield Finding(name, "note", f"{left} {what} in {store.root / name}")
    begun = sorted({path.parent.parent.name for path in (store.root / "workspaces").glob("*/checkpoints/*")})
    if begun:
        yield Finding("workspaces", "note", f"unfinished, and can be resumed: {', '.join(begun)}")


def _disk(store: Registry, planned: Plan | None) -> Finding:
    """Room where the registry lies, against what a plan needs: all that it publishes, and checkpoints meanwhile."""
    from align.pipeline import estimates

    place = next(path for path in (store.root, *store.root.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK) or not free:
        return Finding("disk", "problem", f"{place} cannot be written to: choose another place by --registry")
    room = f"{readable(free)}B free at {place}"
    if planned is None:
        return Finding("disk", "ok", room)
    sizes = estimates.estimates(planned.steps)
    wanted = [sizes[step.name].disk for step in planned.to_run]
    need = sum(size for size in wanted if size)
    unknown = sum(size is None for step, size in zip(planned.to_run, wanted, strict=True) if step.kind != "evaluate")
    besides = f", not counting {unknown} stages whose models are not available yet" if unknown else ""
    room += f"; {planned.recipe.name} needs at most {readable(need)}B{besides}"
    return Finding("disk", "problem" if need > free else "ok", room)


def _wandb(mode: str | None) -> Finding:
    """Whether a run could reach W&B: an address that answers, and a key. Nothing is sent."""
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    if mode in ("disabled", "offline"):
        return Finding("wandb", "ok", f"{mode}: nothing to reach")
    address = urlsplit(os.environ.get("WANDB_BASE_URL") or WANDB)
    host = address.hostname or ""
    proxy = None if proxy_bypass(host) else getproxies().get(address.scheme)
    asked = urlsplit(proxy) if proxy else address  # Only its host and port are shown: an address may hold a password.
    port = asked.port or (80 if asked.scheme == "http" else 443)
    state: State = "problem" if mode == "online" else "note"
    problem = _unreachable(asked.hostname or "", port)
    place = f"{asked.hostname}:{port}{' (proxy)' if proxy else ''}"
    if problem:
        return Finding("wandb", state, f"{place} cannot be reached ({problem}); use --wandb offline")
    took = f"{place} answers"
    if not _has_key(host):
        return Finding("wandb", state, f"{took}, but there is no key: wandb login, or set WANDB_API_KEY")
    return Finding("wandb", "ok", f"{took}; a key is set")


def _unreachable(host: str, port: int) -> str | None:
    """Why no connection can be made, if none can."""
    import socket
    import threading

    outcome = ["no answer"]

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=_SECONDS_TO_CONNECT).close()
            outcome.clear()
        except OSError as error:
            outcome[:] = [error.strerror or type(error).__name__]

    thread = threading.Thread(target=connect, daemon=True)  # looking a name up has a patience of its own
    thread.start()
    thread.join(_SECONDS_TO_CONNECT)
    return outcome[0] if outcome else None


def _has_key(host: str) -> bool:
    import netrc

    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC") or Path("~/.netrc").expanduser())
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        return netrc.netrc(str(path)).authenticators(host) is not None
    return False


def _print(findings: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    styles = {"ok": "green", "note": "yellow", "problem": "bold red"}
    for found in findings:
        table.add_row(found.check, Text(found.state, style=styles[found.state]), Text(found.message))
    console().print(table)
    sys.stdout.flush()
