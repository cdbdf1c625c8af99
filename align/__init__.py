"""The alignment pipeline: one recipe from a base language model to an aligned one.

    import align

    artifacts = align.run("quickstart", overrides=["stages.ppo.ppo.kl_coef=0.1"])
    artifacts["ppo"].path                                    # loads with plain `from_pretrained`
    align.Registry("registry").resolve("sft@latest").path

Everything is imported on first use: `import align` is instant.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from align.pipeline import plan_recipe as plan
    from align.pipeline import run_recipe as run
    from align.registry import Registry

# Where bitsandbytes is installed, it asks for a package that it does not need each time that peft is imported.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__all__ = ["Registry", "plan", "run"]

_HOMES = {
    "plan": ("align.pipeline", "plan_recipe"),
    "run": ("align.pipeline", "run_recipe"),
    "Registry": ("align.registry", "Registry"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'align' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)
