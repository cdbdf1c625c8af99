"""Two processes that train together, started by torchrun, against one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

HERE = Path(__file__).parent
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def train(directory: Path, *start: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join([str(HERE.parent), str(HERE), str(HERE.parents[1])])
    return subprocess.run(
        [sys.executable, *start, str(HERE / "two_updates.py"), str(directory), *(["fails"] if fails else [])],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": search},
        timeout=120,
        capture_output=True,
        text=True,
    )


def weights(directory: Path) -> dict[str, Tensor]:
    return load_file(directory / "weights.safetensors")


def test_two_ranks_learn_what_one_process_learns_and_go_on_after_a_failure(tmp_path: Path) -> None:
    assert train(tmp_path / "one").returncode == 0
    assert train(tmp_path / "two", *TORCHRUN).returncode == 0
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-5)
    logged = [torch.load(tmp_path / name / "figures.pt") for name in ("one", "two")]
    for alone, together in zip(*logged, strict=True):
        assert len(alone) == len(together) > 0
        for wanted, found in zip(alone, together, strict=True):
            assert found == pytest.approx(wanted, abs=1e-5, rel=1e-5)

    failed = train(tmp_path / "parts", *TORCHRUN, fails=True)  # the reward of rank 1 alone, in the second update
    assert failed.returncode != 0
    assert failed.stderr.count("PPO stopped after update 1: ") >= 2
    assert train(tmp_path / "parts", *TORCHRUN).returncode == 0
    parts = weights(tmp_path / "parts")
    assert all(torch.equal(parts[name], two[name]) for name in two)
