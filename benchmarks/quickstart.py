"""What the quickstart costs and reaches: time and memory of the whole command, of a second one, and of `align --help`.

    python benchmarks/quickstart.py            # writes benchmarks/results/quickstart.json

Runs `align run quickstart` in an empty directory, as a person would, and then again. Wall-clock times are of this
machine on this day; the measured figures of the models do not depend on either.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "quickstart.json"


def timed(*arguments: str, cwd: str) -> float:
    """Seconds that `python -m align ...` takes; raises where it fails."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "align", *arguments], cwd=cwd, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        first = timed("run", "quickstart", cwd=directory)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        second = [timed("run", "quickstart", cwd=directory) for _ in range(5)]
        help_text = [timed("--help", cwd=directory) for _ in range(5)]
        artifacts = Path(directory, "registry", "artifacts")
        digests = {
            manifest.parent.parent.name: json.loads(manifest.read_text())["digest"]
            for manifest in sorted(artifacts.glob("*/v1/manifest.json"))
        }
        evaluation = json.loads((artifacts / "evaluation" / "v1" / "files" / "metrics.json").read_text())
    result = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "first_run_seconds": round(first, 1),
        "peak_memory_gib": round(peak, 2),
        "cached_run_seconds": {"median": round(statistics.median(second), 2), "all": [round(s, 2) for s in second]},
        "help_seconds": {"median": round(statistics.median(help_text), 2), "all": [round(s, 2) for s in help_text]},
        "models": evaluation["models"],
        "differences": evaluation["differences"],
        "digests": digests,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in result.items() if name not in ("models", "digests")}, indent=1))


if __name__ == "__main__":
    main()
