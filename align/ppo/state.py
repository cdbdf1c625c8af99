"""What changes in a run besides weights and optimizer."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from align.ppo.objective import RunningMoments
from reward_models import RewardError

logger = logging.getLogger(__name__)

ENOUGH = 64
"""Different responses after which a reward that has said the same of all of them is taken to be constant."""


@dataclass
class Best:
    """The best policy so far, by its score on held-out prompts within the KL budget."""

    update: int = 0
    reward: float = -math.inf
    kl: float = 0.0
    judged: float | None = None
    """Mean of the judge's scores, by which the policy was chosen where there is a judge."""

    @property
    def score(self) -> float:
        """What it was chosen by."""
        return self.reward if self.judged is None else self.judged


@dataclass
class Variety:
    """Whether the reward has given more than one score yet."""

    only: float | None = None
    """The only score so far."""
    responses: list[str] = field(default_factory=list)
    """Digests of the different ones that got it."""
    seen: bool = False

    def watch(self, name: str, scores: Sequence[float], responses: Sequence[str]) -> None:
        """Take in an update's scores.

        Raises:
            RewardError: `ENOUGH` responses or more, and all of the same score.
        """
        self.seen = self.seen or len({*scores, scores[0] if self.only is None else self.only}) > 1
        if self.seen:
            self.responses = []
            return
        self.only = scores[0]
        digests = (hashlib.sha256(response.encode(errors="replace")).hexdigest() for response in responses)
        self.responses = list(dict.fromkeys([*self.responses, *digests]))
        if len(self.responses) >= ENOUGH:
            raise RewardError(
                f"reward model {name} is constant: it gave {self.only:g} to each of {len(self.responses)} different "
                "responses, which teaches nothing; where that is meant, set health.min_score_std to null"
            )

    def say_if_constant(self, name: str) -> None:
        """Warn at the end of a run that was too short for an error."""
        if self.only is not None and not self.seen:
            logger.warning(
                "reward model %s gave %g to every response of this run (%d different ones): it has taught nothing",
                name,
                self.only,
                len(self.responses),
            )


@dataclass
class State:
    """What changes while training, besides weights and optimizer."""

    kl_coef: float
    update: int = 0
    first_length: float = 0.0
    moments: RunningMoments = field(default_factory=RunningMoments)
    variety: Variety = field(default_factory=Variety)
    best: Best = field(default_factory=Best)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    """Figures of every evaluation so far, with their `update`."""
    evaluations_since_best: int = 0
    stopped: str | None = None
    """Why training ended early."""

    def takes(self, candidate: Best, *, within_budget: bool) -> bool:
        """Whether an evaluated policy becomes the best. Beyond the budget for its KL only the first can."""
        self.evaluations_since_best += 1
        if candidate.update == 0 or (within_budget and candidate.score > self.best.score):
            self.best, self.evaluations_since_best = candidate, 0
            return True
        return False

    @property
    def is_evaluated(self) -> bool:
        """Whether the policy was evaluated since its last update: a reward that failed may have kept it from that."""
        return bool(self.evaluations) and self.evaluations[-1]["update"] == self.update

    def say_which_is_kept(self, max_eval_kl: float | None) -> None:
        """Log which policy a run ends with, and warn where that is the one it began with."""
        best = self.best
        figures = f"reward {best.reward:.4g}, KL {best.kl:.3g} on held-out prompts"
        if best.update or not self.update:
            logger.info("ppo keeps the policy of update %d of %d: %s", best.update, self.update, figures)
            return
        logger.warning(
            "ppo keeps the policy that it began with (%s): in %d updates, none that was evaluated scored higher%s. "
            "A lower learning_rate, a higher kl_coef or more updates may help",
            figures,
            self.update,
            "" if max_eval_kl is None else f" within max_eval_kl {max_eval_kl:g}",
        )

    def to_json(self) -> str:
        """As text that `from_json` reads back exactly."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> State:
        """The state that `to_json` wrote."""
        saved = json.loads(text)
        saved["moments"] = RunningMoments(**saved["moments"])
        saved["variety"] = Variety(**saved["variety"])
        saved["best"] = Best(**saved["best"])
        return cls(**saved)
