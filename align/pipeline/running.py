"""Doing what a plan says: each step in its workspace, published when it is done."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from filelock import BaseFileLock, Timeout

from align import interrupt, stages, tracking
from align.configs import StageConfig
from align.data import sources
from align.errors import AlignError, Interrupted, UsageError
from align.pipeline import beginning, contracts, handoff, identity
from align.pipeline.planning import Plan, Source, Step, check, pin_of, placed, same_inputs
from align.recipe import parse_reference
from align.registry import Artifact, InputRecord, Registry
from align.registry.collection import in_use
from align.workspace import BASE, Metrics, Workspace

logger = logging.getLogger(__name__)

_TOLD = (
    *("loss", "perplexity", "accuracy", "macro_f1", "auc", "calibration_error", "pair_accuracy"),
    *("best_update", "eval_reward", "eval_kl", "eval_judge"),
)

Mode = Literal["online", "offline", "disabled"]
FAILURE_LOG = "error.log"
"""In the workspace of a stage that failed: the traceback."""
LITTLE = 1_000_000
"""Bytes; with fewer free, a stage that fails probably does so for that, whatever its libraries make of it."""


def run(plan: Plan, wandb: Mode | None = None, on_start: Callable[[], object] = lambda: None) -> dict[str, Artifact]:
    """Run the steps that are not cached, and return the artifact of every step.

    Args:
        plan: of which steps.
        wandb: overrides the recipe's W&B mode.
        on_start: called once everything was looked at, before anything runs.

    Raises:
        UsageError: the data or an input of a step that would run is not in order; nothing was run.
        VerificationError: an artifact to be used is not what its manifest says.
        AlignError: a stage failed. Earlier artifacts are kept, and so is its workspace: the same call goes on.
        Interrupted: a signal came, and the stage ended after a checkpoint.
    """
    if problems := check(plan.recipe, plan.registry, [step.name for step in plan.to_run], ask=True):
        raise UsageError("\n".join(problems))
    for source in [source for step in plan.to_run for source in step.inputs.values()]:
        if not source.stage:
            _directory(source, plan.registry)  # downloaded and verified now, not after hours of training
    on_start()
    if not plan.to_run:
        return _run_steps(plan, wandb, lambda artifact: None)
    with in_use(plan.registry, _taken(plan)) as keep:
        return _run_steps(plan, wandb, keep)


def _taken(plan: Plan) -> list[Artifact]:
    """The artifacts that stand already, and that this run may still take."""
    inputs = [source.artifact for step in plan.steps for source in step.inputs.values()]
    return [artifact for artifact in [*inputs, *(step.artifact for step in plan.steps)] if artifact]


def _run_steps(plan: Plan, wandb: Mode | None, keep: Callable[[Artifact], None]) -> dict[str, Artifact]:
    artifacts: dict[str, Artifact] = {}
    for step in plan.steps:
        if step.action == "cached" and step.artifact:
            plan.registry.check(step.artifact)
            artifacts[step.name] = step.artifact
            continue
        inputs = {
            place: replace(source, artifact=artifacts[source.stage]) if source.stage else source
            for place, source in step.inputs.items()
        }
        if step.artifact and same_inputs(step.artifact, inputs):
            plan.registry.check(step.artifact)
            logger.info("%s: cached (its inputs came out the same: %s)", step.name, step.artifact.reference)
            artifacts[step.name] = step.artifact
        else:
            artifacts[step.name] = _run_step(plan, step, inputs, wandb)
            keep(artifacts[step.name])
    return artifacts


def _run_step(plan: Plan, step: Step, inputs: Mapping[str, Source], wandb: Mode | None) -> Artifact:
    registry = plan.registry
    with _held(registry.lock(step.name, step.fingerprint), step.name), interrupt.guarded():
        waited_for = None if step.forced else registry.find(step.name, step.fingerprint, quarantine=True)
        if waited_for and same_inputs(waited_for, inputs):
            logger.info("%s: another run has just made %s", step.name, waited_for.reference)
            return waited_for
        if changed := _changed(plan, step):
            raise UsageError("\n".join(changed))
        with registry.writing(f"stage {step.name} cannot be started"):
            taken = {place: _record(source) for place, source in inputs.items()}
            workspace = beginning.workspace(registry, step, taken)
            logger.info("%s: %s (%s)", step.name, step.action, step.reason)
            directories = _directories(step, inputs, registry, workspace)
        try:
            metrics = _compute(plan, step, directories, workspace, wandb)
        except BaseException:
            if _changed(plan, step):  # should all be put back as it was, these checkpoints are not to be gone on with
                workspace.begun.unlink(missing_ok=True)
            raise
        if changed := _changed(plan, step):
            registry.discard(workspace)
            raise UsageError("\n".join([*changed, f"Nothing of stage {step.name} was published or kept."]))
        _warn_of_changed_options(step)
        artifact = registry.publish(
            workspace.output,
            name=step.name,
            kind=step.kind,
            fingerprint=step.fingerprint,
            inputs=taken,
            config=identity.portable(step.config, plan.recipe.as_written),
            metrics=metrics,
            environment=identity.environment(step.data),
            contract=_contract(step, inputs, workspace).to_manifest(),
        )
        registry.discard(workspace)
        logger.info("%s: published %s%s", step.name, artifact.reference, _in_short(metrics))
        if step is not plan.steps[-1]:
            interrupt.raise_if_requested(f"{artifact.reference} was published")
    return artifact


def _in_short(metrics: Metrics) -> str:
    """The figures of a training that a person asks for first; an evaluation prints a table of its own."""
    values = {name: getattr(metric, "value", metric) for name, metric in metrics.items() if name in _TOLD}
    return " with " + ", ".join(f"{name} {values[name]:.4g}" for name in _TOLD if name in values) if values else ""


def _changed(plan: Plan, step: Step) -> list[str]:
    """What a stage reads that is no artifact, and is not any more what it was when the run was planned."""
    outside = {place: source for place, source in step.inputs.items() if not source.stage and not source.artifact}
    names = {**identity.data_names(step.config), **{place: source.reference for place, source in outside.items()}}
    pins = {**step.data, **{place: source.pin for place, source in outside.items()}}
    planned = {place: pins[place] for place in names}
    try:
        now = identity.data_fingerprints(step.config)
        now |= {place: pin_of(source.reference) for place, source in outside.items()}
    except (UsageError, OSError) as error:
        return [f"stages.{step.name}: {error}. It was there when this run was planned"]
    return [
        placed(
            plan.recipe,
            step.name,
            f"{place}: {names[place]} has changed since this run was planned; run again to use it as it is",
        )
        for place in planned
        if planned[place] != now.get(place)
    ]


def _warn_of_changed_options(step: Step) -> None:
    """What a reward's own options name may be what it writes: no reason to throw away what was made."""
    now = identity.data_fingerprints(step.config)
    for place, name in identity.option_names(step.config).items():
        if step.data.get(place) != now[place]:
            logger.warning(
                "stages.%s.%s: %s changed while the stage was at work. If the reward reads it, run again. If it writes "
                "it, the stage will run again every time: name it elsewhere than in the recipe",
                step.name,
                place,
                name,
            )


@contextmanager
def _held(lock: BaseFileLock, name: str) -> Iterator[None]:
    """Hold a lock, saying so if it has to be waited for."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("%s: another run is working on the same stage; waiting for it", name)
        lock.acquire()
    except OSError as error:
        raise UsageError(
            f"stage {name} cannot be started: {error.strerror} ({error.filename or lock.lock_file})"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _compute(
    plan: Plan, step: Step, directories: Mapping[str, Path], workspace: Workspace, wandb: Mode | None
) -> Metrics:
    """Run the stage itself, and say of any failure how to go on."""
    with plan.registry.writing(f"stage {step.name} cannot be started"):
        tracker = tracking.start(
            plan.recipe.tracking,
            group=_group(plan),
            stage=step.name,
            workspace=workspace,
            stage_config=identity.portable(step.config, plan.recipe.as_written),
            mode=wandb,
        )
    exit_code = 1
    try:
        _prepare_libraries(step.config)
        config = sources.with_files(step.config, directories)
        metrics = stages.load(step.kind).run(config, directories, workspace, tracker)
        exit_code = 0
        return metrics
    except Interrupted as error:
        exit_code = error.exit_code
        raise
    except Exception as error:
        raise _failure(step, workspace, error) from error
    finally:
        try:
            tracker.finish(exit_code)
        except OSError as error:  # of a full disk, say: what the stage did, or why it failed, matters more
            logger.warning("%s: the end of its record of events is lost: %s", step.name, error)


def _failure(step: Step, workspace: Workspace, error: Exception) -> AlignError:
    """What a person is told of a stage that failed."""
    log = workspace.path / FAILURE_LOG
    try:
        log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        story = f"The full story is in {log}"
    except OSError as unwritten:
        story = f"The full story could not be written to {log} ({unwritten.strerror}); --debug shows it"
    said = str(error) if isinstance(error, AlignError) else f"{type(error).__name__}: {error}"
    if (free := shutil.disk_usage(workspace.path).free) < LITTLE:
        said += f" (and the disk is full: {free:,} bytes are free at {workspace.path})"
    failure = AlignError(
        f"stage {step.name} failed: {said}\nEarlier artifacts are kept; run the same command again to resume. {story}"
    )
    failure.exit_code = getattr(error, "exit_code", failure.exit_code)
    return failure


def _prepare_libraries(config: StageConfig) -> None:
    """The same bits for the same seed, as far as the device can; a warning names an operation that cannot.

    Transformers keeps its load reports to itself: they are about what stages do on purpose.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by CUDA when it starts
    import torch
    from transformers import logging as transformers_logging
    from transformers import set_seed

    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_num_threads(identity.threads())
    transformers_logging.set_verbosity_error()
    set_seed(config.seed)


def _directories(step: Step, inputs: Mapping[str, Source], registry: Registry, workspace: Workspace) -> dict[str, Path]:
    """Where to load each input from, by its reference; an adapter alone has a link to its base beside it.

    Raises:
        UsageError: a stage that would start with this input would fail, or not be what it seems.
        VerificationError: an artifact is damaged.
    """
    found = {place: directory for place, s in inputs.items() if (directory := _directory(s, registry)) is not None}
    given = {
        place: contracts.of_artifact(artifact)
        if (artifact := inputs[place].artifact)
        else contracts.of_directory(directory)
        for place, directory in found.items()
    }
    if problems := list(handoff.disagreements(step.config, given)):
        raise UsageError("\n".join(f"stages.{step.name}.{problem}" for problem in problems))
    for place, model in given.items():
        if model.adapter and (artifact := inputs[place].artifact):
            found[place] = _with_base(artifact, registry, workspace.path / "inputs")
    return {inputs[place].reference: directory for place, directory in found.items()}


def _with_base(artifact: Artifact, registry: Registry, parent: Path) -> Path:
    """A directory of links to an adapter's files and, as `base`, to the model that it was trained on."""
    base = handoff.base_of(artifact, registry)
    if isinstance(base, str):
        parsed = parse_reference(base)
        below = _downloaded(parsed.name, parsed.version)
    else:
        registry.check(base)
        if problem := handoff.unlike_its_base(contracts.of_artifact(artifact), contracts.of_artifact(base)):
            raise UsageError(f"{artifact.reference} is only an adapter, for {base.reference}: {problem}")
        below = _with_base(base, registry, parent) if contracts.of_artifact(base).adapter else base.path
    directory = parent / artifact.reference
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for path in artifact.path.iterdir():
        (directory / path.name).symlink_to(path)
    (directory / BASE).symlink_to(below)
    return directory


def _contract(step: Step, inputs: Mapping[str, Source], workspace: Workspace) -> contracts.Contract:
    """What the stage's output lets later stages know."""
    found = contracts.of_directory(workspace.output)
    if found.adapter or (workspace.output / "adapter").is_dir():
        found = replace(found, base=_record(inputs[contracts.TRAINED_FROM[step.kind]]).model_dump())
    return found


def _directory(source: Source, registry: Registry) -> Path | None:
    """Where to load an input from; None for code and addresses, which only a reward may be.

    Artifacts are verified, byte for byte, before they are used.
    """
    if source.artifact:
        registry.check(source.artifact)
        return source.artifact.path
    parsed = parse_reference(source.reference)
    if parsed.kind == "hub":
        return _downloaded(parsed.name, parsed.version)
    return Path(parsed.name).expanduser() if parsed.kind == "path" else None


def _downloaded(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision))
    except Exception as error:  # the Hub's client raises its own, OSErrors, ValueErrors: all mean "could not be had"
        raise UsageError(
            f"hub:{repository}@{revision or 'main'} could not be downloaded, and is not in the local cache: {error}\n"
            f"Without a network, download it elsewhere and write path:./directory instead"
        ) from error


def _record(source: Source) -> InputRecord:
    if source.artifact:
        return InputRecord(reference=source.artifact.reference, digest=source.artifact.digest)
    parsed = parse_reference(source.reference)
    shown = f"path:{Path(parsed.name).name}" if parsed.kind == "path" else source.reference
    return InputRecord(reference=shown, digest=source.pin)


def _group(plan: Plan) -> str:
    """The W&B group: the same for every run of the same plan, so that a resumed run joins the one it continues."""
    fingerprints = "".join(step.fingerprint for step in plan.steps)
    return f"{plan.recipe.name}-{hashlib.sha256(fingerprints.encode()).hexdigest()[:8]}"
