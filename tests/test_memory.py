"""Too little memory is one line with its name."""

import errno
import os

import numpy as np
import pytest
import torch
from recorded import container

from vlae.cli.hydra_main import run_command
from vlae.config.run_id import run_id
from vlae.errors import OutOfMemory, out_of_memory
from vlae.experiment import run as experiment_run
from vlae.experiment import single_run
from vlae.experiment.run import execute
from vlae.runs.directory import RunDirectory

HUGE = 10**15
"""Numbers that no machine has room for."""


def raised(act):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        act()
    return caught.value


WITHOUT_MEMORY = {
    "torch on a CPU": lambda: torch.empty(HUGE),
    "numpy": lambda: np.empty(HUGE),
    "Python": lambda: _raise(MemoryError()),
    "torch on a GPU": lambda: _raise(
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nmore")
    ),
    "the system": lambda: _raise(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))),
}


def _raise(error):
    raise error


@pytest.mark.slow
@pytest.mark.parametrize("act", WITHOUT_MEMORY.values(), ids=WITHOUT_MEMORY)
def test_a_run_without_memory_fails_with_one_line(tmp_path, monkeypatch, act):
    cfg = container()
    run = RunDirectory.create(tmp_path, run_id(cfg), cfg)
    monkeypatch.setattr(experiment_run, "_carry_out", lambda *_: act())
    raised(lambda: execute(run, lambda: None, captured=True))
    status = run.status()
    assert (status["state"], status["reason"]) == ("failed", "out of memory")
    assert "\n" not in status["message"]
    monkeypatch.setattr(single_run, "run_configuration", lambda _: act())
    with pytest.raises(OutOfMemory, match=r"^out of memory: [^\n]*; a smaller trainer.batch_size or [^\n]*$"):
        run_command({})


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), ValueError("memory"), OSError(2, "no file")]
)
def test_other_errors_are_not_memory_errors(error):
    assert out_of_memory(error) is None
