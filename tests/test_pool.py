"""A pool of simulated processes: the life of a sweep, and its display."""

import io
import json
import math
import os
import shutil
import signal

import pytest

from vlae.experiment.frozen_run import DONE, FAILED, HELD, REFUSED
from vlae.launching import display, pool, queues
from vlae.launching.display import Display, reason_of, summary
from vlae.launching.pool import Job, Pool, jobs_of, outcome
from vlae.launching.queues import Waiting
from vlae.launching.resources import Slot
from vlae.runs.directory import RunDirectory
from vlae.runs.lease import new_claim
from vlae.runs.rerun import RERUNS
from vlae.system.console import Console
from vlae.system.interruption import SIGNALS, Interruption

SIGNALLED = 128 + signal.SIGTERM


class FakeProcess:
    """A process in name only: it ends when the test says so."""

    def __init__(self, pid, arguments):
        self.pid, self.exitcode, self.received = pid, None, []
        self.path, self.attempts, self.environment, self.threads, self.signals = arguments
        self.sentinel, self._alive = os.pipe()

    def end(self, status=DONE):
        """End after an attempt that is recorded as the worker records it."""
        self.exitcode = status
        os.close(self._alive)

    def join(self):
        assert self.exitcode is not None

    def close(self):
        os.close(self.sentinel)


class FakeExecutor(pool.Log, pool.ForkServer):
    """The processes of a pool, and its listener, which acts each time that the pool looks at its runs."""

    def __init__(self):
        self.alive, self.started, self.ended_jobs, self.signals, self.most = {}, [], [], None, 0
        self.pauses = []
        self.at_each_look = self.end_first

    def prepare(self, signals):
        self.signals = tuple(signals)

    def start(self, name, arguments):
        process = FakeProcess(1000 + len(self.started), arguments)
        self.started.append(process)
        self.alive[name] = process
        self.most = max(self.most, len(self.alive))
        held = [p.environment["GPU"] for p in self.alive.values()]
        assert len(set(held)) == len(held), "two runs in one slot"
        return process

    def end(self, name, status=DONE):
        self.alive.pop(name).end(status)

    def end_first(self):
        if self.alive:
            self.end(min(self.alive))

    def kill(self, pid, number):
        (process,) = [p for p in self.started if p.pid == pid]
        if process.exitcode is not None:
            raise ProcessLookupError(pid)
        process.received.append(number)

    def report_start(self, job):
        assert job.outcome is None

    def report_end(self, job):
        self.ended_jobs.append((job.path.name, job.outcome, job.detail))

    def refresh(self, jobs):
        self.at_each_look()

    def report_pause(self, reason):
        self.pauses.append(reason)


@pytest.fixture
def executor(monkeypatch):
    made = FakeExecutor()
    monkeypatch.setattr(pool, "LOOK_EVERY", 0.001)
    monkeypatch.setattr(pool, "CANCELLED_WITHIN", 0.0)
    monkeypatch.setattr(pool.os, "kill", made.kill)
    return made


@pytest.fixture
def queue(tmp_path):
    """``queue("a", "b")``: with run directories."""

    def make(*names, reruns=(), per_task=None, attempts=0, chains=()):
        for name in names:
            RunDirectory.create(tmp_path, name, {})
        waiting = [
            Waiting(
                name, attempts, name in reruns, i // per_task if per_task else 0, dict(chains).get(name, "")
            )
            for i, name in enumerate(names)
        ]
        settings = {"labels": {name: f"seed={name}" for name in names if name != "c"}, "skipped": {}}
        return queues.create(
            tmp_path, kind="local", sweep="s", code=tmp_path, runs=waiting, settings=settings
        )

    return make


@pytest.fixture
def executed(executor):
    """``executed(queue, slots=2)``: its jobs, each with its outcome."""

    def go(queue, slots=2, signals=None, patience=math.inf):
        places = [Slot({"GPU": str(i)}, i + 1) for i in range(slots)]
        jobs = jobs_of(queue)
        executing = Pool(jobs, places, queue, executor, patience=patience, processes=executor)
        executing.run(signals or Interruption())
        return {job.path.name: job.outcome for job in jobs}

    return go


def record(run, state, reason=None):
    """An attempt that ended so."""
    attempt = RunDirectory(run).claim()
    RunDirectory(run).write_status(state=state, attempt=attempt.number, reason=reason)
    attempt.directory.joinpath("ended.json").write_text('{"message": "ValueError: [red] bad\\n input"}')
    return attempt.directory


# --- jobs ---------------------------------------------------------------------------------------------------------


def test_jobs_belong_to_the_queue_or_one_task(queue, tmp_path):
    made = queue("a", "b", "c", reruns=("b",), per_task=2, attempts=3)
    assert jobs_of(made) == [
        Job(tmp_path / "a", "seed=a", 3),
        Job(tmp_path / RERUNS / "b", "seed=b", 3),
        Job(tmp_path / "c", "", 3),
    ]
    assert [[job.path.name for job in jobs_of(made, task)] for task in range(3)] == [["a", "b"], ["c"], []]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "state", "expected"),
    [
        (DONE, None, ("done", "")),
        (HELD, None, ("held", "executed by another process")),
        (-signal.SIGKILL, "running", ("killed", "SIGKILL")),
        (-signal.SIGSEGV, "running", ("killed", "SIGSEGV")),
        (FAILED, "failed", ("failed", "")),
        (SIGNALLED, "interrupted", ("interrupted", "SIGTERM")),
        (FAILED, None, ("failed", "ended before it began, with exit status 1")),
        (3, None, ("failed", "ended before it began, with exit status 3")),
    ],
)
def test_exit_status_and_record_say_how_a_run_ended(queue, tmp_path, status, state, expected):
    queue("a")
    if state is not None:
        record(tmp_path / "a", state, "SIGTERM")
    assert outcome(tmp_path / "a", status, 0) == expected


@pytest.mark.parametrize("state", ["failed", "interrupted"])
def test_an_earlier_attempt_does_not_end_this_one(queue, tmp_path, state):
    queue("a")
    record(tmp_path / "a", state, "SIGTERM")
    assert outcome(tmp_path / "a", FAILED, 1) == ("failed", "ended before it began, with exit status 1")


def test_an_unreadable_record_is_reported(queue, tmp_path):
    queue("a")
    (tmp_path / "a" / "status.json").write_text("{")
    found, detail = outcome(tmp_path / "a", FAILED, 0)
    assert found == "failed"
    assert "holds no JSON object" in detail


# --- the life of a sweep ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_runs_start_in_order_one_per_slot(queue, executed, executor, tmp_path):
    names = list("abcdefg")
    assert executed(queue(*names), slots=3) == dict.fromkeys(names, "done")
    assert [process.path.name for process in executor.started] == names
    assert executor.most == 3
    assert executor.signals == SIGNALS
    assert {tuple(process.signals) for process in executor.started} == {SIGNALS}
    first = executor.started[0]
    assert (first.path, first.attempts, first.threads) == (tmp_path / "a", 0, 1)


def test_jobs_of_a_chain_run_one_after_the_other(queue, executed, executor):
    chains = {"a": "one", "b": "one", "d": "two", "e": "one"}
    together = []

    def end_last():
        together.append(frozenset(executor.alive))
        if executor.alive:
            executor.end(max(executor.alive))

    executor.at_each_look = end_last
    assert executed(queue(*"abcde", chains=chains), slots=3) == dict.fromkeys("abcde", "done")
    names = [process.path.name for process in executor.started]
    assert names[:3] == ["a", "c", "d"]  # b waits for a, and not what comes after it
    assert [name for name in names if chains.get(name) == "one"] == ["a", "b", "e"]
    assert all(len(at_once & set("abe")) <= 1 for at_once in together)


def test_a_chain_continues_after_a_failure(queue, executed, executor):
    executor.at_each_look = lambda: executor.alive and executor.end(min(executor.alive), FAILED)
    assert executed(queue("a", "b", chains={"a": "one", "b": "one"})) == {"a": "failed", "b": "failed"}


def test_a_free_slot_takes_the_next_run(queue, executed, executor):
    order = list("bcad")
    executor.at_each_look = lambda: (
        not executor.alive.keys().isdisjoint(order[:1]) and executor.end(order.pop(0))
    )
    executed(queue(*"abcd"))
    assert [p.environment["GPU"] for p in executor.started] == ["0", "1", "1", "1"]
    assert [name for name, _, _ in executor.ended_jobs] == list("bcad")


def test_a_failure_stops_no_other_run(queue, executed, executor, tmp_path):
    statuses = {"a": FAILED, "b": -signal.SIGKILL, "c": HELD, "d": DONE}

    def act():
        for name in list(executor.alive):
            if name == "a":
                record(tmp_path / name, "failed")
            executor.end(name, statuses[name])

    executor.at_each_look = act
    assert executed(queue(*"abcd"), slots=1) == {"a": "failed", "b": "killed", "c": "held", "d": "done"}


def test_a_signal_stops_the_runs_and_starts_no_more(queue, executed, executor, tmp_path):
    signals, looks = Interruption(), []

    def act():
        signals.number = signal.SIGTERM
        looks.append(1)
        if len(looks) == 4:
            record(tmp_path / "a", "interrupted", "SIGTERM")
            executor.end("a", SIGNALLED)
            executor.end("b", -signal.SIGTERM)  # it had not begun to listen

    executor.at_each_look = act
    outcomes = executed(queue(*"abc"), signals=signals)
    assert outcomes == {"a": "interrupted", "b": "interrupted", "c": "not started"}
    assert len(executor.started) == 2
    assert set(executor.started[0].received) == {signal.SIGTERM}
    assert len(executor.started[0].received) > 1  # a run that just begins hears a later one


def test_each_ctrl_c_is_passed_on_once(queue, executed, executor, tmp_path):
    """This is a run that handles signals; one that just begins may miss the first."""
    signals, looks = Interruption(), []

    def act():
        looks.append(1)
        signals.number = signal.SIGINT
        if len(looks) == 1:
            RunDirectory(tmp_path / "b").claim()
        if len(looks) in (4, 7):
            assert executor.started[1].received == [signal.SIGINT] * (len(looks) // 3)
            assert executor.started[0].received[: len(looks) - 1] == [signal.SIGINT] * (len(looks) - 1)
            raise KeyboardInterrupt
        if len(looks) == 10:
            executor.end("a", FAILED)  # before it began: Python's own end by Ctrl-C
            executor.end("b", -signal.SIGKILL)

    executor.at_each_look = act
    assert executed(queue(*"abc"), signals=signals) == {"a": "interrupted", "b": "killed", "c": "not started"}
    received = [[signal.Signals(number).name for number in p.received] for p in executor.started]
    assert received[1][:2] == ["SIGINT", "SIGINT"]
    assert set(received[1][2:]) == {"SIGKILL"}


def test_a_run_that_does_not_stop_in_time_is_killed(queue, executed, executor):
    signals = Interruption()

    def act():
        signals.number = signal.SIGUSR2
        if executor.alive and signal.SIGKILL in executor.started[0].received:
            executor.end("a", -signal.SIGKILL)

    executor.at_each_look = act
    assert executed(queue(*"ab"), 1, signals, patience=0.05) == {"a": "killed", "b": "not started"}
    assert executor.started[0].received[0] == signal.SIGUSR2


def test_a_run_that_fails_while_stopping_has_failed(queue, executed, executor, tmp_path):
    signals = Interruption()

    def act():
        signals.number = signal.SIGTERM
        if executor.started[0].received and executor.alive:
            record(tmp_path / "a", "failed", "exception")
            executor.end("a", FAILED)

    executor.at_each_look = act
    assert executed(queue("a"), signals=signals) == {"a": "failed"}


def test_runs_wait_until_the_disk_takes_writes_again(queue, executed, executor, monkeypatch):
    monkeypatch.setattr(pool, "PROBE_EVERY", 0.0)
    monkeypatch.setattr(pool, "PROBE_REFUSED_EVERY", 0.0)
    answers = [None, None, *["no space left on /scratch"] * 20]
    monkeypatch.setattr(pool, "refusal", lambda _: answers.pop(0) if answers else None)
    alive = []
    executor.at_each_look = lambda: (alive.append(len(executor.alive)), executor.end_first())
    assert executed(queue(*"abc"), slots=1) == dict.fromkeys("abc", "done")
    assert executor.pauses == ["no space left on /scratch", None]
    assert alive.count(0) > 10


def test_a_disk_without_writes_for_too_long_ends_waiting_runs(queue, executed, executor, monkeypatch):
    monkeypatch.setattr(pool, "PROBE_REFUSED_EVERY", 0.0)
    monkeypatch.setattr(pool, "PATIENCE", 0.02)
    monkeypatch.setattr(pool, "refusal", lambda _: "no space left on /scratch")
    assert executed(queue(*"ab")) == dict.fromkeys("ab", "interrupted")
    assert [job[1:] for job in executor.ended_jobs] == [("interrupted", "no space left on /scratch")] * 2


@pytest.mark.slow
def test_a_run_ended_by_the_disk_restarts_a_few_times(queue, executed, executor, monkeypatch):
    monkeypatch.setattr(pool, "PROBE_REFUSED_EVERY", 0.0)
    executor.at_each_look = lambda: executor.alive and executor.end("a", REFUSED)
    assert executed(queue("a")) == {"a": "interrupted"}
    assert len(executor.started) == 1 + pool.TRIES
    statuses = [DONE, REFUSED]
    executor.started.clear()
    executor.at_each_look = lambda: executor.alive and executor.end("b", statuses.pop())
    assert executed(queue("b")) == {"b": "done"}
    assert len(executor.started) == 2


@pytest.mark.slow
def test_a_failed_process_start_is_retried(queue, executed, executor, monkeypatch):
    monkeypatch.setattr(pool, "PROBE_REFUSED_EVERY", 0.0)
    errors, start = [OSError(28, "No space left on device"), EOFError()], executor.start

    def refuse(name, arguments):
        if errors:
            raise errors.pop()
        return start(name, arguments)

    monkeypatch.setattr(executor, "start", refuse)
    assert executed(queue(*"ab")) == dict.fromkeys("ab", "done")
    monkeypatch.setattr(executor, "start", lambda *_: (_ for _ in ()).throw(OSError(11, "no more processes")))
    assert executed(queue("c")) == {"c": "interrupted"}
    assert executor.ended_jobs[-1][2] == "cannot start a process: [Errno 11] no more processes"


@pytest.mark.slow
def test_a_run_that_outlives_its_server_is_followed_to_its_end(
    queue, executed, executor, monkeypatch, tmp_path
):
    """It is not started again, and its record says how it ended; one that had not begun is started again."""
    monkeypatch.setattr(pool, "PROBE_REFUSED_EVERY", 0.0)
    alive = {"a", "b"}
    monkeypatch.setattr(pool.Job, "lives", property(lambda job: job.path.name in alive))
    looks = []

    def act():
        looks.append(1)
        if len(looks) == 1:
            RunDirectory(tmp_path / "a").claim()
            for name in "ac":
                executor.end(name, pool.SERVER_LOST)
        if len(looks) == 5:
            assert [p.path.name for p in executor.started] == ["a", "c", "c"]
            executor.end("c", DONE)
            RunDirectory(tmp_path / "a").write_results({"test": {"elbo": 1.0}})
            alive.clear()

    executor.at_each_look = act
    assert executed(queue(*"ac")) == {"a": "done", "c": "done"}


@pytest.mark.slow
def test_only_a_run_without_progress_is_ended(queue, executed, executor, monkeypatch, tmp_path):
    monkeypatch.setattr(pool, "CANCELLED_WITHIN", 0.0)
    made = queue(*"abc")
    made.settings["run_timeout_min"] = 0.002
    attempts, looks = {name: RunDirectory(tmp_path / name).claim() for name in "abc"}, []
    (attempts["c"].directory / "waiting.json").write_text("{}")

    def act():
        looks.append(1)
        RunDirectory(tmp_path / "a").write_status(progressed=f"2026-01-01T00:00:00.{len(looks):06d}+00:00")
        if executor.alive.keys() & {"b"} and signal.SIGKILL in executor.alive["b"].received:
            shutil.rmtree(attempts["b"].directory.parent / "1")
            kill_holder(attempts["b"])
            executor.end("b", -signal.SIGKILL)
        if len(looks) > 20 and "b" not in executor.alive:
            for name in list(executor.alive):
                assert not executor.alive[name].received
                executor.end(name)

    def kill_holder(attempt):
        attempt.directory.mkdir()
        claim = {**new_claim(), "process_start": 1.0}
        (attempt.directory / "claim.json").write_text(json.dumps(claim))

    executor.at_each_look = act
    assert executed(made, slots=3) == {"a": "done", "b": "interrupted", "c": "done"}
    assert ("b", "interrupted", "no progress for 0.002 min") in executor.ended_jobs
    status = RunDirectory(tmp_path / "b").status()
    assert (status["state"], status["reason"]) == ("interrupted", "no progress for 0.002 min")


@pytest.mark.parametrize(("counts", "said"), [((3, 4), True), ((3, 3), False), ((None, None), False)])
def test_a_kill_by_the_kernel_is_reported_only_if_it_happened(
    queue, executed, executor, monkeypatch, counts, said
):
    answers = list(counts)
    monkeypatch.setattr(pool, "memory_kills", lambda: answers.pop(0))
    executor.at_each_look = lambda: executor.alive and executor.end("a", -signal.SIGKILL)
    assert executed(queue("a")) == {"a": "killed"}
    assert ("lack of memory" in executor.ended_jobs[0][2]) == said


@pytest.mark.slow
def test_cancelled_runs_do_not_start_and_running_ones_stop(queue, executed, executor, tmp_path):
    made, looks = queue(*"abcd"), []

    def act():
        looks.append(1)
        if len(looks) == 1:
            made.cancel(["a", "c"])
        elif len(looks) == 4:
            record(tmp_path / "a", "interrupted", "SIGTERM")
            executor.end("a", SIGNALLED)
        elif len(looks) > 4:
            executor.end_first()

    executor.at_each_look = act
    assert executed(made, slots=1) == {"a": "cancelled", "b": "done", "c": "cancelled", "d": "done"}
    assert [process.path.name for process in executor.started] == ["a", "b", "d"]
    assert executor.started[0].received == [signal.SIGTERM] * 3
    assert executor.started[1].received == []
    assert executor.ended_jobs[:2] == [("c", "cancelled", ""), ("a", "cancelled", "")]


def test_a_cancelled_run_that_completes_is_done(queue, executed, executor):
    made = queue("a")

    def act():
        made.cancel(["a"])
        if executor.started[0].received and executor.alive:
            executor.end("a")

    executor.at_each_look = act
    assert executed(made) == {"a": "done"}


def test_a_queue_of_cancelled_runs_starts_nothing(queue, executed, executor):
    made = queue(*"ab")
    made.cancel(["a", "b"])
    assert executed(made) == {"a": "cancelled", "b": "cancelled"}
    assert executor.started == []
    assert executor.ended_jobs == [("a", "cancelled", ""), ("b", "cancelled", "")]


# --- what is shown ------------------------------------------------------------------------------------------------


@pytest.fixture
def plain(monkeypatch):
    """A display without a terminal, and what it printed."""
    out = io.StringIO()
    monkeypatch.setattr(display, "PLAIN_EVERY", 0.0)
    return Display(3, Console(file=out, highlight=False, soft_wrap=True)), out


def test_plain_lines_report_start_progress_and_end(plain, tmp_path):
    shown, out = plain
    a, b, c = (Job(tmp_path / name, label, 0) for name, label in (("a", "dims=[red]"), ("b", ""), ("c", "c")))
    for job in (a, b, c):
        RunDirectory.create(tmp_path, job.path.name, {})
    with shown:
        for job in (a, b, c):
            shown.report_start(job)
        b.pid = 1
        shown.refresh([a, b])
        RunDirectory(b.path).write_status(
            state="running", progress={"epoch": 1, "epochs": 4, "elbo": -90.126}
        )
        shown.refresh([a, b])
        a.outcome, a.seconds = "done", 61.0
        b.outcome = "failed"
        log = record(b.path, "failed") / "log.txt"
        c.outcome, c.detail = "killed", "SIGKILL"
        for job in (a, b, c):
            shown.report_end(job)
    assert out.getvalue().splitlines() == [
        "started: dims=[red]",
        "started: b",
        "started: c",
        "b  starting",
        "b  epoch 1/4  ELBO -90.13",
        "done 1/3: dims=[red]  1 min 01 s",
        f"failed 2/3: b  0.0 s  ValueError: [red] bad input  (log: {log})",
        "killed 3/3: c  0.0 s  (SIGKILL)",
    ]


@pytest.mark.parametrize(
    ("elbo", "shown"), [({}, ""), ({"elbo": None}, "ELBO not finite"), ({"elbo": -1.0}, "ELBO -1.00")]
)
def test_a_metric_that_is_not_finite_is_reported(plain, tmp_path, elbo, shown):
    display, out = plain
    job = Job(tmp_path / "a", "", 0)
    job.pid = 1
    progress = {"epoch": 1, "epochs": 4, **elbo}
    RunDirectory.create(tmp_path, "a", {}).write_status(state="running", progress=progress)
    with display:
        display.refresh([job])
    assert out.getvalue() == "  ".join(filter(None, ["a", "epoch 1/4", shown])) + "\n"


def test_a_terminal_has_one_table(tmp_path):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, height=20, color_system=None)
    job = Job(tmp_path / "a", "dims=[/]", 0)
    RunDirectory.create(tmp_path, "a", {})
    with Display(2, console) as shown:
        shown.report_start(job)
        job.pid = 1
        shown.refresh([job, Job(tmp_path / "b", "b", 0)])
        assert "dims=[/]  starting" in out.getvalue()
        assert "1 running, 1 waiting" in out.getvalue()
        job.pid, job.outcome = None, "done"
        shown.report_end(job)
        assert "done 1/2: dims=[/]" in out.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_shows_progress_and_time_left(tmp_path, width):
    out = io.StringIO()
    console = Console(
        file=out, force_terminal=True, width=width, height=20, color_system=None, soft_wrap=True
    )
    jobs = [Job(tmp_path / name, f"model={name} model.latent_dim=20 seed=0", 0) for name in ("vae", "savae")]
    with Display(3, console) as shown:
        for epoch in (28, 29):
            out.truncate(0)
            for job in jobs:
                job.pid = 1
                progress = {"epoch": epoch, "epochs": 60, "elbo": -1.0}
                RunDirectory.create(tmp_path, job.path.name, {}).write_status(
                    state="running", progress=progress
                )
            shown.refresh([*jobs, Job(tmp_path / "b", "b", 0)])
        rows = out.getvalue()
    assert {part: rows.count(part) for part in ("model=", "29/60", "s left")} == dict.fromkeys(
        ("model=", "29/60", "s left"), 2
    )
    assert "2 running, 1 waiting" in rows


def test_the_summary_counts_outcomes_and_names_failures(tmp_path):
    jobs = [Job(tmp_path / name, label, 0) for name, label in (("a", "x"), ("b", "y"), ("c", ""), ("d", "z"))]
    RunDirectory.create(tmp_path, "b", {})
    log = record(tmp_path / "b", "failed") / "log.txt"
    for job, end in zip(jobs, ("done", "failed", "killed", "done"), strict=True):
        job.outcome = end
    jobs[2].detail = "SIGKILL"
    lines = summary(jobs, {"done": 3, "running": 1}, "smoke", 130.0)
    assert [text for text, _ in lines] == [
        "smoke: 2 done, 1 failed, 1 killed, 3 skipped (done), 1 skipped (running)  2 min 10 s",
        f"  failed: y: ValueError: [red] bad input  (log: {log})",
        "  killed: c: by SIGKILL",
    ]


def test_a_long_reason_is_cut(tmp_path):
    RunDirectory.create(tmp_path, "a", {})
    attempt = record(tmp_path / "a", "failed")
    attempt.joinpath("ended.json").write_text('{"message": "%s"}' % ("x" * 500))
    assert reason_of(tmp_path / "a") == f"{'x' * 197}...  (log: {attempt / 'log.txt'})"
    attempt.joinpath("ended.json").write_text("{")
    assert reason_of(tmp_path / "a") == f"(log: {attempt / 'log.txt'})"
