"""Histories of a simulated cluster keep the laws, and break one where a mended fault is brought back."""

import subprocess
import sys

import pytest

from benchmarks.histories import main
from simulation.faults import FAULTS

HISTORIES, PART = 750, 250
"""Number of histories, and of those in one test; ``python -m benchmarks histories`` plays thousands."""
FOUND_WITHIN = 200
"""Histories that a fault needs at most to be found."""


def histories(*options):
    """The command as a process: here, the types of all annotations are checked, and torch is there already."""
    command = [sys.executable, "-m", "benchmarks.histories", "--processes", "1", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, HISTORIES, PART))
def test_no_history_breaks_a_law(first):
    status, printed = histories("--first", first, "--count", PART)
    assert status == 0, printed
    assert f"{PART} of {PART} histories" in printed


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_every_known_fault_breaks_a_law(fault):
    status, printed = histories("--fault", fault, "--count", FOUND_WITHIN)
    assert status == 0, printed


@pytest.mark.slow
def test_a_history_is_replayed_by_its_number():
    (status, first), (_, second) = histories("--replay", 23), histories("--replay", 23)
    assert status == 0, first
    assert "a user gives the command launch 1 on login-a" in first.splitlines()[0]
    assert first.splitlines()[-1] == "history 23: no law is broken"
    assert second == first


@pytest.mark.slow
def test_histories_need_no_numerical_library():
    """Importing them takes longer than a hundred histories."""
    script = "import sys; from benchmarks.histories import play_all; play_all(range(3)); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("False\n", 0), done.stderr


def test_a_wrong_number_of_histories_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--count", "many"])
    assert "expected a whole number from 0 on, got 'many'" in capsys.readouterr().err
