"""What the code of a reward may do to the process that it is loaded into."""

import logging
import sys
import threading

import pytest
import torch

import reward_models
from reward_models.isolation import contained


@pytest.mark.parametrize(
    ("change", "read", "named"),
    [
        (lambda: torch.set_grad_enabled(False), torch.is_grad_enabled, "grad mode"),
        (lambda: torch.set_default_dtype(torch.bfloat16), torch.get_default_dtype, "default dtype"),
        (lambda: torch.set_default_device("meta"), torch.get_default_device, "default device"),
        (lambda: torch.set_num_threads(torch.get_num_threads() + 1), torch.get_num_threads, "number of threads"),
        (lambda: torch.set_float32_matmul_precision("medium"), torch.get_float32_matmul_precision, "float32 products"),
        (
            lambda: torch.use_deterministic_algorithms(True),
            torch.are_deterministic_algorithms_enabled,
            "deterministic algorithms",
        ),
    ],
)
def test_settings_are_put_back(change, read, named, caplog):
    before = read()
    with caplog.at_level(logging.WARNING), contained(f"whoever changes {named}"):
        change()
        assert read() != before
    assert read() == before
    assert named in caplog.text


def test_a_module_that_is_imported_and_a_call_change_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "inference_only.py").write_text(
        "import torch\n"
        "torch.set_grad_enabled(False)\n"
        "torch.set_default_dtype(torch.bfloat16)\n"
        "print('loaded')\n"
        "def short(prompts, responses):\n"
        "    print('asked')\n"
        "    torch.set_grad_enabled(False)\n"
        "    return [-float(len(response)) for response in responses]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = reward_models.load("inference_only:short")
    assert model.score(["p"], ["abc"]) == [-3.0]
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    printed = capsys.readouterr()
    said = [line for line in printed.err.splitlines() if line in ("loaded", "asked")]  # warnings may stand between
    assert (printed.out, said) == ("", ["loaded", "asked"])


def test_threads_that_overlap_leave_all_as_it_was():
    begun, ended = threading.Event(), threading.Event()

    def first():
        with contained("the first"):
            begun.set()
            ended.wait(5)
            torch.set_default_dtype(torch.float64)

    out = sys.stdout
    thread = threading.Thread(target=first)
    thread.start()
    begun.wait(5)
    with contained("the second"):  # begins within the first, and ends after it
        torch.set_default_dtype(torch.bfloat16)
        ended.set()
        thread.join()
        assert sys.stdout is sys.stderr
    assert sys.stdout is out
    assert torch.get_default_dtype() == torch.float32


def test_settings_of_a_torch_that_came_with_the_reward(tmp_path):
    """In a process of its own, which has no torch before."""
    import subprocess

    (tmp_path / "brings_torch.py").write_text("import torch\ntorch.set_grad_enabled(False)\n")
    code = (
        "import sys; from reward_models.isolation import contained\n"
        "assert 'torch' not in sys.modules\n"
        "with contained('it'): import brings_torch\n"
        "print(sys.modules['torch'].is_grad_enabled())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": _path(tmp_path)}
    )
    assert done.stdout == "True\n", done.stderr


def _path(*more) -> str:
    return ":".join([*map(str, more), *sys.path])
