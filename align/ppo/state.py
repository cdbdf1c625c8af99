"""What changes in a run besides weights and optimizer."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field

from align.ppo.objective import RunningMoments


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
class State:
    """What changes while training, besides weights and optimizer."""

    kl_coef: float
    update: int = 0
    first_length: float = 0.0
    moments: RunningMoments = field(default_factory=RunningMoments)
    best: Best = field(default_factory=Best)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    """Figures of every evaluation so far, with their `update`."""
    evaluations_since_best: int = 0
    stopped: str | None = None
    """Why training ended early."""

    def to_json(self) -> str:
        """As text that `from_json` reads back exactly."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> State:
        """The state that `to_json` wrote."""
        saved = json.loads(text)
        saved["moments"] = RunningMoments(**saved["moments"])
        saved["best"] = Best(**saved["best"])
        return cls(**saved)
