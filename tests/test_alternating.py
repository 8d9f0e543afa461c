"""Commands that the benchmarks let run in turns: never two at once, with all that they have started."""

import os
import sys

import numpy as np
import psutil
import pytest

from benchmarks.alternating import Took, in_turns

WORK = """
import os, signal, sys, time
signal.alarm(120)  # where it is stopped and never goes on
parent = os.fork()  # both work, and write down when
with open(f"{sys.argv[1]}-{parent > 0}", "w") as file:
    while time.process_time() < 1:
        file.write(f"{time.time()}\\n")
        time.sleep(0.001)
        sum(range(100_000))
if parent:
    os.wait()
"""
SWITCH = 0.02
"""Seconds that a signal may take on a busy machine."""


@pytest.mark.slow
def test_one_command_at_a_time_runs_with_its_children(tmp_path):
    took = in_turns({name: [sys.executable, "-c", WORK, str(tmp_path / name)] for name in "ab"}, os.environ)
    for own, other in ("ab", "ba"):
        turns = np.array(took[own].turns)
        for process in (False, True):
            at = np.loadtxt(tmp_path / f"{own}-{process}")[:, None]
            assert len(at) > 20
            assert ((turns[:, 0] - SWITCH <= at) & (at <= turns[:, 1] + SWITCH)).any(1).all()
        both = [took[other].between(begin, end) for begin, end in took[own].turns]
        assert sum(both) == pytest.approx(0, abs=1e-9)
        assert 2 < took[own].processor < 4
        assert len(turns) > 3


def test_time_between_two_moments_counts_turns():
    took = Took([(0.0, 1.0), (3.0, 4.0), (6.0, 8.0)])
    assert took.between(-1.0, 9.0) == 4.0
    assert took.between(0.5, 3.25) == 0.75
    assert took.between(1.0, 3.0) == 0.0


@pytest.mark.slow
def test_a_failing_command_ends_the_other_one(tmp_path):
    other = (
        "import subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '99'], start_new_session=True)\n"
        "open(sys.argv[1], 'w').write(str(child.pid))\n"
        "child.wait()"
    )
    fails = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)\nsys.exit(3)"
    file = str(tmp_path / "pid")
    with pytest.raises(RuntimeError, match="ended with status 3"):
        in_turns({code: [sys.executable, "-c", code, file] for code in (other, fails)}, os.environ)
    child = psutil.Process(int((tmp_path / "pid").read_text()))
    try:
        assert child.status() in (psutil.STATUS_SLEEPING, psutil.STATUS_RUNNING)
    finally:
        child.kill()
