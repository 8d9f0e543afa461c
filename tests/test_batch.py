"""A Slurm job from its first line: signals at any moment, limits, and runs that make no step."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from simulation.scripted import ScriptedSlurm
from vlae.config.problems import ConfigError
from vlae.launching import queues, slurm_requeue, slurm_task
from vlae.launching.plan import Plan
from vlae.launching.pool import Job
from vlae.launching.queues import Waiting
from vlae.launching.run_state import NO_STEP
from vlae.launching.slurm_launcher import SlurmArrays
from vlae.launching.slurm_requeue import why_stuck
from vlae.launching.slurm_task import FIRST_LINES
from vlae.runs.directory import RunDirectory

PYTHON = """
import os, signal, sys, time
mark = lambda text: open(sys.argv[1], "a").write(text + "\\n")
mark(f"starts {os.environ.get('VLAE_SIGNAL') or '-'}")
if sys.argv[2] == "early" and not os.environ.get("VLAE_SIGNAL"):
    time.sleep(10)
signal.signal(getattr(signal, sys.argv[3]), lambda *_: (mark("listens"), sys.exit(7)))
mark("ready")
time.sleep(0 if os.environ.get("VLAE_SIGNAL") else 10)
sys.exit(5)
"""


@pytest.fixture(params=["SIGUSR2", "SIGTERM"])
def shell(request, tmp_path):
    """Signals a batch script when its record has a line; the lines, and the script's status."""
    record, script = tmp_path / "record", tmp_path / "job.sh"
    record.touch()

    def run(stage, when):
        lines = ["#!/bin/bash", "set -eu", *FIRST_LINES, f"echo setup >> {record}"]
        lines += ["sleep 0.4"] * (stage == "setup")
        lines.append(f'vlae_run {sys.executable} -S -c "$CODE" {record} {stage} {request.param}')
        script.write_text("\n".join(lines))
        process = subprocess.Popen(["bash", script], env={**os.environ, "CODE": PYTHON})
        until = time.monotonic() + 20
        while when not in record.read_text() and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(getattr(signal, request.param))
        status = process.wait(20)
        return record.read_text().replace(request.param.removeprefix("SIG"), "SIGNAL").splitlines(), status

    return run


@pytest.mark.slow
def test_python_learns_of_a_signal_during_the_setup(shell):
    assert shell("setup", "setup") == (["setup", "starts SIGNAL", "ready"], 5)


def test_python_killed_by_an_early_signal_restarts_once(shell):
    assert shell("early", "starts") == (["setup", "starts -", "starts SIGNAL", "ready"], 5)


def test_python_gets_the_signal_and_sets_the_jobs_status(shell):
    assert shell("late", "ready") == (["setup", "starts -", "ready", "listens"], 7)


@pytest.mark.parametrize("status", [0, 1, 126, 127, 255])
def test_a_script_exits_with_the_status_of_its_command(status):
    """127 is that of a Python which the node does not have, and of a ``wait`` for a child that was waited for."""
    script = "\n".join(["set -eu", *FIRST_LINES, f"vlae_run bash -c 'exit {status}'"])
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, "")


# --- limits -------------------------------------------------------------------------------------------------------


PLAN = Plan("s", Path("runs"), (), 0)


def launcher(**keys):
    given = {
        "partition": None, "account": None, "qos": None, "constraint": None, "timeout_min": 240, "mem_gb": None,
        "cpus_per_task": None, "gpus_per_node": 0, "array_parallelism": 1, "runs_per_job": 1, "signal_delay_s": 120,
        "max_requeues": 3, "setup": [], "sbatch": {},
    }  # fmt: skip
    return SlurmArrays(**{**given, **keys})


@pytest.mark.parametrize(("minutes", "delay"), [(4, 120), (3, 60), (10, 480)])
def test_limits_that_leave_time_to_start_are_accepted(minutes, delay):
    assert launcher(timeout_min=minutes, signal_delay_s=delay)._problems() == []


@pytest.mark.parametrize(("minutes", "delay", "least"), [(2, 120, 4), (3, 61, 4), (1, 45, 3), (10, 600, 12)])
def test_limits_that_leave_no_time_to_start_are_refused(minutes, delay, least):
    with pytest.raises(ConfigError) as caught:
        launcher(timeout_min=minutes, signal_delay_s=delay).check_plan(PLAN)
    (text,) = caught.value.problems
    expected = f"expected at least {least} with hydra.launcher.signal_delay_s={delay}, got {minutes}: 120 s are needed"
    assert text.startswith(f"hydra.launcher.timeout_min: {expected}")


@pytest.mark.parametrize(("key", "instead"), [("time", "timeout_min"), ("signal", "signal_delay_s")])
def test_an_sbatch_option_with_a_key_of_its_own_is_refused(key, instead):
    with pytest.raises(ConfigError, match=f"expected no key {key}; hydra.launcher.{instead} is for that"):
        launcher(sbatch={key: 2}).check_plan(PLAN)


# --- runs that make no step ---------------------------------------------------------------------------------------


class ComposedRuns:
    """Runs of one queue that a job executes again and again."""

    def __init__(self, runs_dir, monkeypatch, names):
        self.env = monkeypatch
        self.runs = {name: RunDirectory.create(runs_dir, name, {"seed": 0}) for name in names}
        self.queue = queues.create(
            runs_dir, kind="slurm", sweep="s", code=runs_dir, runs=[Waiting(name, 0) for name in names],
            settings={"labels": {}, "use_gpus": False, "patience": 1.0, "max_requeues": 9},
        )  # fmt: skip

    def start(self, restarts):
        self.env.setenv("SLURM_JOB_ID", "7")
        self.env.setenv("SLURM_RESTART_COUNT", str(restarts))
        self.env.setenv("VLAE_QUEUE", self.queue.token)

    def attempt(self, name, restarts, progress):
        self.start(restarts)
        with self.runs[name].claim() as attempt:
            attempt.heartbeat(progress)

    def stuck(self, name):
        return why_stuck(self.runs[name].path, self.queue.token)


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    kept = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    yield lambda *names: ComposedRuns(tmp_path / "runs", monkeypatch, names)
    for number, handler in kept.items():
        signal.signal(number, handler)


STEP = [{"step": step, "epoch": 0, "epochs": 9} for step in range(9)]
IMAGE = {"doing": "own", "image": 3, "images": 9}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([{}], ""),
        ([{}, {}], NO_STEP),
        ([{}, STEP[0]], NO_STEP),
        ([STEP[4], STEP[4]], ""),  # the first one made steps
        ([STEP[4], STEP[4], STEP[4]], NO_STEP),
        ([STEP[4], STEP[4], STEP[5]], ""),
        ([STEP[4], STEP[5], STEP[5]], ""),
        ([STEP[4], STEP[3], STEP[3]], NO_STEP),  # killed, and back at the last checkpoint
        ([STEP[8], STEP[8], IMAGE], ""),
        ([IMAGE, IMAGE, IMAGE], NO_STEP),
        ([IMAGE, IMAGE, {**IMAGE, "image": 4}], ""),
        ([IMAGE, IMAGE, {**IMAGE, "doing": "annealing", "image": 0}], ""),
    ],
)
def test_a_run_without_progress_in_two_attempts_is_stuck(jobs, ends, expected):
    found = jobs("a")
    for restarts, progress in enumerate(ends):
        found.attempt("a", restarts, progress)
    assert found.stuck("a") == expected


@pytest.mark.parametrize(
    ("begun", "starts", "stuck"), [((), 2, False), ((), 3, True), ((0,), 3, False), ((0,), 4, True)]
)
def test_a_run_that_never_begins_in_three_job_starts_is_stuck(jobs, begun, starts, stuck):
    found = jobs("a")
    for restarts in begun:
        found.attempt("a", restarts, STEP[restarts + 1])
    found.start(starts - 1)
    assert bool(found.stuck("a")) == stuck


@pytest.mark.slow
def test_a_job_resumes_only_runs_that_make_steps(jobs, monkeypatch, capsys):
    found, executed, requeued = jobs("a", "b"), [], []

    class Interrupted:
        """A stand-in for the pool: both runs are interrupted, and b never makes a step."""

        def __init__(self, jobs: list[Job], *rest, **named):
            self.jobs = jobs

        def run(self, interruption):
            restarts = len(requeued)
            for job in self.jobs:
                found.attempt(job.path.name, restarts, STEP[restarts + 1] if job.path.name == "a" else {})
                job.outcome = "interrupted"
            executed.append([job.path.name for job in self.jobs])
            interruption.number = signal.SIGUSR2

    monkeypatch.setattr(slurm_task, "Pool", Interrupted)
    monkeypatch.setattr(slurm_requeue, "requeue", requeued.append)
    for restarts in range(3):
        found.start(restarts)
        with pytest.raises(SystemExit):
            slurm_task.Task(str(found.queue.path))(0)
    assert executed == [["a", "b"], ["a", "b"], ["a"]]
    assert len(requeued) == 3
    status = found.runs["b"].status()
    assert (status["state"], status["reason"]) == ("interrupted", NO_STEP)
    assert "timeout_min" in status["message"]
    assert f"not started again: {found.runs['b'].path}: {NO_STEP}" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("restarts", "asked"), [(0, True), (1, False)])
def test_an_old_process_does_not_requeue_a_restarted_job(monkeypatch, capsys, restarts, asked):
    """Slurm did not see the node any more, on which the old process runs on and comes near its time limit."""
    scripted = ScriptedSlurm().install(monkeypatch)
    scripted.says_of_jobs(f"JobId=12 ArrayJobId=12 ArrayTaskId=2 JobState=RUNNING Restarts={restarts}\n")
    for key, value in {"ARRAY_JOB_ID": "12", "ARRAY_TASK_ID": "2", "JOB_ID": "12"}.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    monkeypatch.setattr(slurm_requeue, "REQUEUED_WITHIN", 0.0)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    slurm_requeue.requeue(9)
    assert ("scontrol requeue 12_2" in scripted.calls()) == asked
    assert ("has started this job again already" in capsys.readouterr().out) == (not asked)


@pytest.mark.slow
def test_a_signal_noted_by_the_shell_requeues_the_job(jobs, monkeypatch):
    found, requeued = jobs("a"), []
    monkeypatch.setattr(slurm_requeue, "requeue", requeued.append)
    monkeypatch.setattr(slurm_task, "Pool", SimpleNamespace())
    monkeypatch.setenv("VLAE_SIGNAL", "USR2")
    found.start(0)
    with pytest.raises(SystemExit):
        slurm_task.Task(str(found.queue.path))(0)
    assert requeued == [9]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN, (
        "or the shell takes a late signal for an early one"
    )
    assert found.runs["a"].state() == "new"
