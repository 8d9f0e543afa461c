"""Histories of a simulated cluster keep the laws, and break one where a mended fault is brought back."""

import pytest

from benchmarks.histories import main, play_all
from simulation import faults


def test_the_id_of_an_array_taken_for_that_of_its_last_task_requeues_others():
    with faults.the_id_of_an_array_is_taken_for_that_of_its_last_task():
        assert any("requeues" in violation for violation in play_all(range(10)).values())


def test_a_history_is_replayed_by_its_number(capsys):
    def replayed():
        main(["--replay", "7"])
        return capsys.readouterr().out.splitlines()

    first = replayed()
    assert "a user gives the command launch 1 on login-a" in first[0]
    assert first[-1].startswith("history 7: ")
    assert replayed() == first


def test_what_is_no_number_of_histories_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--count", "many"])
    assert "expected a whole number from 0 on, got 'many'" in capsys.readouterr().err
