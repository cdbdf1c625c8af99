"""Is the run still healthy? Looked at after every update."""

from __future__ import annotations

import math
from collections.abc import Mapping

from align.configs.ppo import HealthConfig


def problems(figures: Mapping[str, float], first_length: float, config: HealthConfig) -> list[str]:
    """What is wrong with an update, as sentences that name the figure and its threshold."""
    length = figures["objective/response_length"]
    drift = abs(length / first_length - 1)
    watched = [
        ("KL from the reference policy, nats per response", figures["objective/kl"], "above", config.max_kl),
        ("entropy, nats per token", figures["policy/entropy_avg"], "below", config.min_entropy),
        (f"drift of the response length ({first_length:.1f} -> {length:.1f})", drift, "above", config.max_length_drift),
        ("repeated 3-grams", figures["objective/repetition"], "above", config.max_repetition),
        ("clipped tokens", figures["policy/clipfrac_avg"], "above", config.max_clipfrac),
        ("spread of the scores", figures["objective/scores_std"], "below", config.min_score_std),
    ]
    return [
        f"{what}: {value:.3g} is {side} {threshold:g}"
        for what, value, side, threshold in watched
        if threshold is not None and (value > threshold if side == "above" else value < threshold)
    ]


def not_finite(figures: Mapping[str, float]) -> list[str]:
    """Names of the figures that are NaN or infinite."""
    return [name for name, value in figures.items() if not math.isfinite(value)]
