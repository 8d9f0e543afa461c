"""A job on its node: the shell part of the batch script, and the task that executes its share of a queue.

Slurm signals the batch shell (``--signal=B:``), perhaps while the lines of ``hydra.launcher.setup`` run, or while
Python starts, which would die of it, and Slurm would not start the job again. So the shell notes the signal and passes
it on. Where Python dies of it, the shell starts Python once more, which finds the name of the signal in NOTED.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlae.launching.pool import Job, Log, Pool, jobs_of
from vlae.launching.queues import Queue, load
from vlae.launching.resources import slots
from vlae.launching.run_state import NO_STEP
from vlae.launching.slurm_state import SlurmError, restarts_of, slurm, was_preempted
from vlae.runs.directory import RunDirectory
from vlae.runs.lease import QUEUE, last_number, read_claim, slurm_job
from vlae.system.disk import RecordError
from vlae.system.interruption import SIGNALS, Interruption
from vlae.system.streams import guard

NEVER_SUBMITTED = "never submitted"
"""How a queue has ended of which Slurm took no job."""
UNFINISHED = ("interrupted", "killed", "not started")
LONGER = "raise hydra.launcher.timeout_min and launch again"
MOST_STARTS = 3
"""Starts of a job in a row in which a run did not even begin."""
TRIES = 3
REQUEUED_WITHIN = 60.0
"""Seconds in which Slurm ends a job that it requeues."""
NOTED = "VLAE_SIGNAL"
"""Environment variable: the last signal that the shell got, such as USR2."""
FIRST_LINES = """\
VLAE_SIGNAL= vlae_child= vlae_woken=
vlae_note() {
    export VLAE_SIGNAL=$1
    vlae_woken=1
    if [ -n "$vlae_child" ]; then kill -s "$1" "$vlae_child" 2>/dev/null || :; fi
}
trap 'vlae_note USR2' USR2
trap 'vlae_note TERM' TERM
vlae_run() {
    local status code before again=1
    while [ "$again" = 1 ]; do
        before=$VLAE_SIGNAL
        "$@" &
        vlae_child=$! status=
        if [ "$VLAE_SIGNAL" != "$before" ]; then kill -s "$VLAE_SIGNAL" "$vlae_child" 2>/dev/null || :; fi
        while :; do
            vlae_woken=
            code=0
            wait "$vlae_child" || code=$?
            if [ "$code" = 127 ] && [ -n "$status" ]; then break; fi  # its status is known already
            status=$code
            if [ -z "$vlae_woken" ]; then break; fi  # else a signal has ended the wait
        done
        vlae_child= again=0
        if [ "$status" -gt 128 ] && [ "$(kill -l "$status" 2>/dev/null)" = "${VLAE_SIGNAL:-none}" ]; then again=1; fi
    done
    return "$status"
}""".splitlines()
"""Lines of a batch script in bash, before everything that takes time. ``vlae_run COMMAND`` then executes Python."""


class Task:
    """The function of a job: executes its share of the runs of a queue."""

    def __init__(self, queue: str) -> None:
        self.queue = queue

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Block signals in the job that has unpickled this and executes it in a moment."""
        vars(self).update(state)
        if slurm_job()[0] is not None:
            hold_signals()

    def __call__(self, task: int) -> None:
        """Execute the runs. SystemExit, with which the job fails for Slurm too: a run is not done by anybody."""
        guard()  # its log may be on a disk that is full
        try:
            with Interruption(SIGNALS) as interruption:  # also those that the batch script ignores
                listen(interruption)
                jobs = self._execute(task, interruption)
        finally:
            if slurm_job()[0] is not None:
                stop_listening()
        if bad := [job for job in jobs if job.outcome not in ("done", "held", "cancelled")]:
            raise SystemExit(f"{len(bad)} of {len(jobs)} runs did not end well")

    def _execute(self, task: int, interruption: Interruption) -> list[Job]:
        queue = load(Path(self.queue))
        if queue is None or (queue.ended or {}).get("state") == NEVER_SUBMITTED:
            raise SystemExit(
                "this job was taken for one that was never submitted; its runs are launched again"
            )
        os.environ[QUEUE] = queue.token  # for the claims of its runs
        jobs = jobs_of(queue, task)
        _execute_jobs(queue, jobs, interruption)
        unfinished = [job for job in jobs if job.outcome in UNFINISHED]
        if unfinished and ends_early(interruption) and _with_progress(unfinished, queue):
            requeue(queue.settings["max_requeues"])
        return jobs


def _execute_jobs(queue: Queue, jobs: Sequence[Job], interruption: Interruption) -> None:
    for job in jobs:
        if _gave_up(job, queue):
            job.outcome, job.detail = "given up", NO_STEP
            Log().ended(job)
        elif interruption.requested:  # before anything began
            job.outcome = "not started"
    if left := [job for job in jobs if job.outcome is None]:
        number = len(jobs)
        places = slots(number, workers=number, runs_per_gpu=number, use_gpus=queue.settings["use_gpus"])
        Pool(left, places, queue, Log(), patience=queue.settings["patience"]).run(interruption)


def _gave_up(job: Job, queue: Queue) -> bool:
    with contextlib.suppress(RecordError):
        status = RunDirectory(job.path).status()
        claim = read_claim(job.path / "attempts" / str(status["attempt"])) or {}
        return status["reason"] == NO_STEP and claim.get("queue") == queue.token
    return False


def _with_progress(jobs: Sequence[Job], queue: Queue) -> list[Job]:
    """The runs that make progress, of those that have not ended; in the record of the others that is the reason."""
    found = []
    for job in jobs:
        try:
            if not (reason := why_stuck(job.path, queue.token)):
                found.append(job)
                continue
            print(f"not started again: {job.path}: {reason}; {LONGER}", flush=True)
            directory = RunDirectory(job.path)
            if directory.holder() is None:  # else another process executes it meanwhile
                directory.write_status(state="interrupted", reason=reason, message=LONGER)
        except RecordError as error:
            print(error, file=sys.stderr, flush=True)
            found.append(job)
    return found


def why_stuck(run: Path, queue: str) -> str:
    """Why there is no use in starting this run again as before; empty where there is.

    queue: token of the queue whose job this is. RecordError: its record cannot be read.
    """
    attempts = run / "attempts"
    number, (job, restarts) = last_number(attempts), slurm_job()
    last = read_claim(attempts / str(number)) or {}
    here = last.get("queue") == queue and last["slurm_job"] == job
    if restarts - ((last["slurm_restarts"] or 0) if here else -1) >= MOST_STARTS:
        return f"not begun in {MOST_STARTS} starts of its job"
    if number < 2:
        return ""
    before = read_claim(attempts / str(number - 1)) or {}
    ends = [before.get("progress"), last.get("progress"), RunDirectory(run).status()["progress"]]
    first, second, third = (progress or {} for progress in ends)
    return "" if _is_ahead(third, second) or _is_ahead(second, first) else NO_STEP


def _is_ahead(now: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether a run has made a step: of its training, or of a part of its evaluation, which says what it is doing."""
    if now.get("doing") != before.get("doing"):
        return "doing" in now
    key = "image" if "doing" in now else "step"
    return bool((now.get(key) or 0) > (before.get(key) or 0))


def ends_early(interruption: Interruption) -> bool:
    """Whether this job is ended by its time limit or a preemption, and not by scancel, which is SIGTERM too."""
    job, _ = slurm_job()
    if not interruption.requested or job is None:
        return False
    if interruption.number == signal.SIGUSR2:
        return True
    try:
        return was_preempted(job)
    except SlurmError as error:
        print(f"not requeued: {error}", file=sys.stderr, flush=True)
        return False


def requeue(most: int) -> None:
    """Requeue this job, whose runs have saved their state and continue in the same directories."""
    job, restarts = slurm_job()
    assert job is not None
    if restarts >= most:
        print(f"not requeued: it was {restarts} times (hydra.launcher.max_requeues)", flush=True)
        return
    signal.signal(signal.SIGTERM, _leave)  # with which Slurm ends a job that it requeues
    for left in reversed(range(TRIES)):
        try:
            if restarts_of(job, seconds=20) not in (restarts, None):  # this node was lost to Slurm meanwhile
                print("not requeued: Slurm has started this job again already", flush=True)
                return
            slurm("scontrol", "requeue", job, seconds=20)
            break
        except SlurmError as error:
            print(f"not requeued{', trying again' * bool(left)}: {error}", file=sys.stderr, flush=True)
            if not left:
                return
    time.sleep(REQUEUED_WITHIN)


def _leave(number: int, frame: object) -> None:
    raise SystemExit("requeued")


def hold_signals() -> None:
    """Block signals until `listen`: submitit would take them for its own."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def listen(interruption: Interruption) -> None:
    """Signals that wait, and the one that the shell noted, have come."""
    if noted := os.environ.pop(NOTED, ""):
        interruption.number = signal.Signals[f"SIG{noted}"]
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def stop_listening() -> None:
    """The job is over. A signal that still comes must not end Python as if it had never listened."""
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
