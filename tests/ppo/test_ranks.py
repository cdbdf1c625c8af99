from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent


def test_two_ranks_learn_what_one_process_learns(tmp_path: Path) -> None:
    search = os.pathsep.join([str(HERE.parent), str(HERE), str(HERE.parents[1])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": search}
    for name, start in {
        "one": [],
        "two": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    }.items():
        (tmp_path / name).mkdir()
        subprocess.run(
            [sys.executable, *start, str(HERE / "two_updates.py"), str(tmp_path / name)],
            check=True,
            env=environment,
            timeout=120,
        )
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-5)
    logged = [torch.load(tmp_path / name / "figures.pt") for name in ("one", "two")]
    for alone, together in zip(*logged, strict=True):
        assert len(alone) == len(together) > 0
        for wanted, found in zip(alone, together, strict=True):
            assert found == pytest.approx(wanted, abs=1e-5, rel=1e-5)
