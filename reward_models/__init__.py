"""Reward models: text in, one finite number out, higher is better.

    model = reward_models.load("runs/toxicity")             # a directory with a sequence classifier
    model = reward_models.load("my_module:my_function")     # your own code
    model.score(prompts=["Hi"], responses=["Hello!"])       # [2.31]

This package needs nothing of `align`; torch and transformers are imported only once a classifier is loaded.
"""

from reward_models.base import DECLARATION, CheckedModel, RewardError, RewardModel, checked
from reward_models.loading import BUILTIN, Spec, builtin_names, load, located, plugins

__all__ = [
    "BUILTIN",
    "DECLARATION",
    "CheckedModel",
    "RewardError",
    "RewardModel",
    "Spec",
    "builtin_names",
    "checked",
    "load",
    "located",
    "plugins",
]
