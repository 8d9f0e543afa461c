"""One process at a time executes a run."""

import contextlib
import errno
import json
import os
import re
import signal
from collections.abc import Callable

import psutil
import pytest

from run_directory.example import (
    CONFIG,
    RUN_ID,
    ago,
    first_line,
    in_python,
    output_of,
    put_claim,
    wait_until,
)
from vlae.runs import lease
from vlae.runs.attempts import RunHeld
from vlae.runs.directory import RunDirectory
from vlae.system import processes
from vlae.system.disk import RecordError


@pytest.mark.slow
def test_one_of_several_claims_wins_and_the_others_know_the_winner(tmp_path):
    """Half of the runs are new; in the others all find an attempt whose process is dead."""
    processes, rounds = 8, 20
    for number in range(rounds):
        run = RunDirectory.create(tmp_path, f"run{number}", CONFIG)
        if number % 2:
            put_claim(run, process_start=0.0)
    script = """
        import json, multiprocessing, os, sys
        from pathlib import Path
        from vlae.runs.attempts import RunHeld
        from vlae.runs.directory import RunDirectory

        def contend(barrier, reports):
            for number in range(rounds):
                run = RunDirectory(folder / f"run{number}")
                barrier.wait()
                try:
                    reports.put((number, run.claim().number, os.getpid()))
                except RunHeld as held:
                    reports.put((number, None, held.holder["pid"]))
                barrier.wait()

        folder, processes, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
        context = multiprocessing.get_context("fork")
        barrier, reports = context.Barrier(processes), context.Queue()
        for _ in range(processes):
            context.Process(target=contend, args=(barrier, reports), daemon=True).start()
        print(json.dumps([reports.get(timeout=100) for _ in range(processes * rounds)]))
    """
    reports = json.loads(output_of(in_python(script, tmp_path, processes, rounds)))
    for number in range(rounds):
        of_round = [(attempt, pid) for round_, attempt, pid in reports if round_ == number]
        winners = [(attempt, pid) for attempt, pid in of_round if attempt is not None]
        assert len(winners) == 1
        assert winners[0][0] == 1 + number % 2
        assert [pid for _, pid in of_round] == [winners[0][1]] * processes
        assert os.listdir(tmp_path / f"run{number}" / "attempts" / ".new") == []


HOLDER = """
    import sys, time
    from vlae.runs.directory import RunDirectory
    with RunDirectory(sys.argv[1]).claim() as attempt:
        attempt.heartbeat({"epoch": 3, "epochs": 60})
        print("holding", flush=True)
        time.sleep(60)
"""


@pytest.mark.slow
def test_a_killed_holder_is_recovered_at_once(run):
    holder = in_python(HOLDER, run.path)
    assert first_line(holder) == "holding\n"
    assert run.state() == "running"
    with pytest.raises(RunHeld) as held:
        run.claim()
    assert re.fullmatch(
        rf"run {RUN_ID} is being executed by process {holder.pid} on host \S+ since \d\d:\d\d "
        rf"\(attempt 1, epoch 3/60\); wait for it, or watch it with `vlae show {RUN_ID}`",
        str(held.value),
    )
    owner = processes.mark(processes.place(), holder.pid, processes.process_start(holder.pid))
    elsewhere = processes.mark("another host", holder.pid, 3.0)
    leftovers = [
        run.path / f".status.json.{owner}.00000000.tmp",
        run.path / "images" / "epoch-000001" / f".samples.png.{owner}.00000000.tmp",
        run.path / "attempts" / ".new" / f"2.{owner}.00000000",
        run.path / "checkpoints" / ".last.next",
        run.path / "checkpoints" / ".previous.pt.link",
    ]
    kept = run.path / f".status.json.{elsewhere}.00000000.tmp"
    for path in (*leftovers, kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    os.kill(holder.pid, signal.SIGKILL)
    wait_until(lambda: processes.process_start(holder.pid) is None)  # a zombie: no process has waited for it
    status = run.status()
    assert (status["state"], status["reason"], status["progress"]["epoch"]) == ("interrupted", "killed", 3)
    with run.claim() as attempt:
        assert attempt.number == 2
        assert [path for path in (*leftovers, kept) if path.exists()] == [kept]
        assert {path.name for path in (run.path / "attempts" / "1").iterdir()} <= {"claim.json", "log.txt"}
    holder.communicate()


def test_a_reused_process_id_holds_nothing(run):
    put_claim(run, process_start=processes.process_start(os.getpid()) - 1000)
    assert run.holder() is None
    assert run.claim().number == 2


def test_a_claim_counts_although_its_answer_was_lost(run, monkeypatch):
    """NFS repeats a request whose answer is lost, and then reports that there is nothing to rename."""
    real = os.rename

    def rename(source: object, target: object) -> None:
        real(source, target)  # pyright: ignore
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(os, "rename", rename)
    assert run.claim().number == 1


def test_a_process_does_not_share_a_run_with_itself(run):
    with run.claim(), pytest.raises(RunHeld, match=f"process {os.getpid()} "):
        run.claim()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("started", "updated", "lives"),
    [(10, 10, True), (9000, 240, True), (9000, 360, False), (360, 360, False)],
)
def test_a_process_on_another_host_lives_by_its_heartbeats(run, started, updated, lives):
    put_claim(run, host="elsewhere", place="elsewhere", started=ago(started))
    run.write_status(state="running", attempt=1, updated=ago(updated))
    assert run.state() == ("running" if lives else "interrupted")
    if lives:
        with pytest.raises(RunHeld, match="on host elsewhere"):
            run.claim()
    else:
        assert run.claim().number == 2


SLURM = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT")


@pytest.fixture
def in_slurm(monkeypatch) -> Callable[..., None]:
    def enter(**variables: str) -> None:
        for name in SLURM:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(f"SLURM_{name}", value)

    return enter


TASK = {"ARRAY_JOB_ID": "7", "ARRAY_TASK_ID": "3"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "now", "lives"),
    [
        ({"JOB_ID": "7"}, {"JOB_ID": "7", "RESTART_COUNT": "1"}, False),
        ({"JOB_ID": "7", "RESTART_COUNT": "9"}, {"JOB_ID": "7", "RESTART_COUNT": "10"}, False),
        ({**TASK, "JOB_ID": "7"}, {**TASK, "JOB_ID": "7", "RESTART_COUNT": "1"}, False),
        ({"JOB_ID": "7", "RESTART_COUNT": "2"}, {"JOB_ID": "7", "RESTART_COUNT": "1"}, True),
        ({"JOB_ID": "7"}, {"JOB_ID": "7"}, True),  # a job on two nodes
        ({"JOB_ID": "7"}, {"JOB_ID": "8", "RESTART_COUNT": "1"}, True),
        ({**TASK, "JOB_ID": "7"}, {**TASK, "ARRAY_TASK_ID": "4", "RESTART_COUNT": "1"}, True),
        ({"JOB_ID": "7"}, {}, True),
        ({}, {"RESTART_COUNT": "1"}, True),
    ],
)
def test_a_requeued_job_takes_over_from_its_earlier_start(run, in_slurm, before, now, lives):
    in_slurm(**before)
    put_claim(run, host="elsewhere", place="elsewhere")
    run.write_status(state="running", attempt=1)
    in_slurm(**now)
    assert run.state() == ("running" if lives else "interrupted")
    with pytest.raises(RunHeld) if lives else contextlib.nullcontext():
        assert run.claim().number == 2


@pytest.mark.slow
def test_the_living_process_of_a_slurm_job_holds_the_run(run, in_slurm):
    in_slurm(JOB_ID="7")
    holder = in_python(HOLDER, run.path)
    assert first_line(holder) == "holding\n"
    in_slurm(JOB_ID="7", RESTART_COUNT="1")  # here its process is seen, whatever Slurm counts
    with pytest.raises(RunHeld):
        run.claim()
    holder.kill()
    holder.communicate()
    assert run.claim().number == 2


@pytest.mark.parametrize(("updated", "lives"), [(240, True), (360, False)])
@pytest.mark.parametrize(
    "hidden", [psutil.AccessDenied, psutil.NoSuchProcess], ids=["hidepid=1", "hidepid=2"]
)
def test_a_hidden_process_is_judged_by_its_heartbeats(run, monkeypatch, hidden, updated, lives):
    put_claim(run, started=ago(9000))
    run.write_status(state="running", attempt=1, updated=ago(updated))
    monkeypatch.setattr(psutil, "Process", raising(hidden(1)))
    monkeypatch.setattr(psutil, "pid_exists", lambda pid: False)
    monkeypatch.setattr(os, "kill", raising(PermissionError()))
    assert run.state() == ("running" if lives else "interrupted")
    if hidden is psutil.NoSuchProcess:
        monkeypatch.setattr(os, "kill", raising(ProcessLookupError()))  # there is no process of that id
        assert run.state() == "interrupted"


def raising(error: Exception) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise error

    return refuse


def test_a_process_stops_after_another_has_taken_over(run):
    first = run.claim()
    claim = first.directory / "claim.json"
    as_seen_elsewhere = {"place": "elsewhere", "started": ago(9000)}
    claim.write_text(json.dumps(json.loads(claim.read_text()) | as_seen_elsewhere))
    run.write_status(updated=ago(9000))
    second = run.claim()
    with pytest.raises(RecordError, match="attempt 2 took over"), first:
        first.heartbeat({"epoch": 1})
    assert run.status()["attempt"] == second.number == 2
    assert run.state() == "running"


def test_a_killed_successor_does_not_fail_the_run(run):
    first = run.claim()
    successor = lease.new_claim() | {"process_start": 0.0}
    lease.put_claim(run.path / "attempts" / "2", successor)  # nothing else was written
    with pytest.raises(RecordError, match="attempt 2 took over"), first:
        first.heartbeat({"epoch": 1})
    assert (run.status()["state"], run.status()["reason"]) == ("interrupted", "taken over")


@pytest.mark.slow
def test_a_claim_killed_at_any_step_can_be_repeated():
    script = """
        from killing import killed_at_every_step
        from run_directory.example import CONFIG, RUN_ID
        from vlae.runs.directory import RunDirectory

        def check(folder):
            run = RunDirectory(folder / RUN_ID)
            assert run.state() in ("new", "interrupted")
            with run.claim():
                assert run.state() == "running"

        def prepare(folder):
            RunDirectory.create(folder, RUN_ID, CONFIG)

        print(killed_at_every_step(prepare, lambda folder: RunDirectory(folder / RUN_ID).claim(), check))
    """
    assert int(output_of(in_python(script))) > 5


def test_the_next_attempt_removes_files_of_a_killed_one(run):
    put_claim(run, place="another host", pid=7, process_start=3.2, started=ago(9000))
    leftover = run.path / f".status.json.{processes.mark('another host', 7, 3.2)}.00000000.tmp"
    other = run.path / f".status.json.{processes.mark('another host', 8, 3.2)}.00000000.tmp"
    leftover.touch()
    other.touch()
    with run.claim():
        assert (leftover.exists(), other.exists()) == (False, True)
