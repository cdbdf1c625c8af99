"""Mirrors a stage to Weights & Biases. Nothing that goes wrong there may stop a stage: it warns once and goes on."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from align.configs.tracking import WandbConfig
from align.workspace import Interval, Workspace

Mode = Literal["online", "offline", "disabled"]

logger = logging.getLogger(__name__)

DEFAULT_TIMEOUTS = {"WANDB_INIT_TIMEOUT": "20", "WANDB_FINISH_TIMEOUT": "60"}
"""Seconds. W&B itself waits 90 for a dead server at the start, and without end when a run finishes."""


class WandbTracker:
    """One W&B run; `None` in its place once W&B has failed."""

    def __init__(self, run: Any | None) -> None:
        self._run = run

    @classmethod
    def start(
        cls,
        config: WandbConfig,
        mode: Mode | None,
        group: str,
        stage: str,
        workspace: Workspace,
        stage_config: Mapping[str, Any],
    ) -> WandbTracker:
        """Open a run, or go on with the one whose id the workspace keeps. Its files lie in `./wandb` (or `WANDB_DIR`).

        What neither `mode` nor `config` sets is left to the `WANDB_*` variables.
        """
        tracker = cls(None)
        asked = os.environ.get("WANDB_MODE")
        if mode and asked and asked != mode:
            logger.warning("WANDB_MODE=%s has no effect: --wandb or tracking.wandb.mode says %s", asked, mode)
        try:
            tracker._run = _init(config, mode, group, stage, _run_id(workspace.path / "wandb_run_id"), stage_config)
        except Exception as error:
            tracker._give_up(error)
        return tracker

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log figures at a step."""
        self._attempt(lambda run: run.log(dict(metrics), step=step))

    def table(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[object]], step: int | None = None
    ) -> None:
        """Log a table."""

        def log_table(run: Any) -> None:
            import wandb

            table = wandb.Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True)
            run.log({key: table}, step=step)

        self._attempt(log_table)

    def summary(self, metrics: Mapping[str, object]) -> None:
        """Set the final figures; intervals become `name`, `name/low` and `name/high`."""
        self._attempt(lambda run: run.summary.update(_flat(metrics)))

    def finish(self, exit_code: int = 0) -> None:
        """Close the run."""
        self._attempt(lambda run: run.finish(exit_code=exit_code))
        self._run = None

    def _attempt(self, action: Callable[[Any], object]) -> None:
        if self._run is not None:
            try:
                action(self._run)
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._run = None
        logger.warning("W&B is not used from here on (%s: %s); the stage continues", type(error).__name__, error)


def _init(
    config: WandbConfig, mode: Mode | None, group: str, stage: str, run_id: str, stage_config: Mapping[str, Any]
) -> Any:
    for variable, seconds in DEFAULT_TIMEOUTS.items():
        os.environ.setdefault(variable, seconds)
    import wandb

    try:
        run = wandb.init(
            project=config.project or os.environ.get("WANDB_PROJECT") or "align",
            entity=config.entity,
            mode=mode,
            dir=os.environ.get("WANDB_DIR") or str(Path.cwd()),  # W&B's own default is where its first run began
            group=group,
            job_type=stage,
            name=stage,
            id=run_id,
            resume="allow",
            tags=config.tags,
            config=dict(stage_config),
            # The console's text is not recorded: it may show what a person would not send to a server.
            settings=wandb.Settings(console="off", silent=True),
        )
    except Exception:
        wandb.teardown()  # Otherwise the id stays "in use" in this process, and a later stage cannot start a run.
        raise
    logger.info("W&B: %s", run.dir if run.offline else run.url)
    return run


def _run_id(path: Path) -> str:
    """The id in the file; a new one where there is none. Written in one step: half an id would be another run."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(secrets.token_hex(4), encoding="ascii")
        partial.replace(path)
    return path.read_text(encoding="ascii").strip()


def _flat(metrics: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in metrics.items():
        if isinstance(value, Interval):
            flat |= {name: value.value, f"{name}/low": value.low, f"{name}/high": value.high}
        else:
            flat[name] = value
    return flat
