"""How far a score holds while something else is optimised: Gao, Schulman and Hilton 2022, "Scaling laws for reward
model overoptimization" (arXiv:2210.10760). Distances d are √KL from the initial policy, KL in nats per response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import gammaln

Method = Literal["rl", "best_of_n"]


@dataclass(frozen=True)
class Curve:
    """A score's gain over the initial policy (section 3.1): d(α − β ln d) under RL, d(α − β d) under best-of-n."""

    method: Method
    alpha: float
    """What the first steps gain."""
    beta: float
    """How soon it turns: where this is above 0, there is a peak."""

    def gain(self, distance: float) -> float:
        """At a distance above 0."""
        slowing = np.log(distance) if self.method == "rl" else distance
        return float(distance * (self.alpha - self.beta * slowing))


def fitted(method: Method, distances: Sequence[float], gains: Sequence[float]) -> Curve:
    """The curve nearest to the gains in least squares. Points at distance 0, where every curve is 0, say nothing.

    Raises:
        ValueError: fewer than two different distances above 0.
    """
    d, gain = (np.asarray(values, dtype=np.float64) for values in (distances, gains))
    d, gain = d[d > 0], gain[d > 0]
    if len(np.unique(d)) < 2:
        raise ValueError("a curve of two parameters needs two different distances above 0")
    columns = np.stack([d, -d * (np.log(d) if method == "rl" else d)], axis=1)
    (alpha, beta), *_ = np.linalg.lstsq(columns, gain, rcond=None)
    return Curve(method, float(alpha), float(beta))


def kl_of_best_of(n: int) -> float:
    """Nats between the best of n responses and one of them, at most (Beirami et al. 2024, 2401.01879)."""
    return float(np.log(n) - (n - 1) / n)


def best_of(n: int, chosen_by: Sequence[float], score: Sequence[float]) -> float:
    """The expected score of the response that is best by another score among n, drawn without replacement from these.

    The unbiased estimator of Nakano et al. 2021 (arXiv:2112.09332): it uses all responses, not one group of n.

    Raises:
        ValueError: fewer than n responses.
    """
    rank = np.argsort(np.asarray(chosen_by), kind="stable")
    total = len(rank)
    if not 1 <= n <= total:
        raise ValueError(f"the best of {n} among {total} responses")
    worse = np.arange(n - 1, total)  # of each that can be the best, how many are worse
    log_chance = _log_choose(worse, n - 1) - _log_choose(np.asarray(total), n)
    return float(np.exp(log_chance) @ np.asarray(score, dtype=np.float64)[rank][n - 1 :])


def _log_choose(of: np.ndarray, some: int) -> np.ndarray:
    chosen: np.ndarray = gammaln(of + 1) - gammaln(some + 1) - gammaln(of - some + 1)
    return chosen
