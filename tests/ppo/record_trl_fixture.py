"""Records what TRL 1.12.0, the last with PPO, has and computes, into `trl_1_12.json` beside this file.

    pip install --no-deps --target .peers/trl-1.12.0 trl==1.12.0
    python tests/ppo/record_trl_fixture.py .peers/trl-1.12.0

Tests read the file and need no TRL.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

FIXTURE = Path(__file__).with_name("trl_1_12.json")


def config() -> dict[str, Any]:
    """Every field of TRL's `PPOConfig` with its default, as JSON."""
    from trl.experimental.ppo import PPOConfig

    defaults = {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(PPOConfig)
    }
    return {name: getattr(value, "value", value) for name, value in defaults.items()}


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    import trl

    assert trl.__version__ == "1.12.0", trl.__version__
    FIXTURE.write_text(json.dumps({"config": config()}, indent=1) + "\n", encoding="utf-8")
