"""Requeueing of Slurm jobs that a time limit or preemption ends early: whether, for which of their runs, and how."""

import contextlib
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlae.launching.pool import Job
from vlae.launching.queues import Queue
from vlae.launching.run_state import NO_STEP
from vlae.launching.slurm_state import SlurmError, restarts_of, slurm, was_preempted
from vlae.runs.directory import RecordError, RunDirectory
from vlae.runs.lease import last_number, read_claim, slurm_job
from vlae.runs.trainings import WAITING_FOR
from vlae.system.interruption import Interruption

UNFINISHED = ("interrupted", "killed", "not started")
LONGER = "raise hydra.launcher.timeout_min and launch again"
MOST_STARTS = 3  # starts of a job in a row in which a run did not even begin
TRIES = 3
REQUEUED_WITHIN = 60.0  # seconds in which Slurm ends a job that it requeues


def requeue_unfinished(queue: Queue, jobs: Sequence[Job], interruption: Interruption) -> None:
    """Requeue this job if it ends early while a run that makes progress is unfinished."""
    unfinished = [job for job in jobs if job.outcome in UNFINISHED]
    if not unfinished or not ends_early(interruption):
        return
    # the others of a chain wait for the first
    first = {job.chain or str(job.path): job for job in reversed(unfinished)}
    waited = {job.chain for job in jobs if job.chain and job not in unfinished}
    progress = [_makes_progress(job, queue, job.chain in waited) for job in first.values()]
    if any(progress):
        requeue(queue.settings["max_requeues"])


def gave_up(job: Job, queue: Queue) -> bool:
    """True if this queue has stopped executing the run, because it made no step."""
    with contextlib.suppress(RecordError):
        status = RunDirectory(job.path).status()
        claim = read_claim(job.path / "attempts" / str(status["attempt"])) or {}
        return status["reason"] == NO_STEP and claim.get("queue") == queue.token
    return False


def _makes_progress(job: Job, queue: Queue, waited: bool) -> bool:
    """True if this run is worth another start; if it is not, its record says why.

    waited: it could not begin before another run of its chain had ended.
    """
    try:
        if not (reason := "" if waited and job.began is None else why_stuck(job.path, queue.token)):
            return True
        print(f"not started again: {job.path}: {reason}; {LONGER}", flush=True)
        directory = RunDirectory(job.path)
        if directory.holder() is None:  # else another process executes it meanwhile
            directory.write_status(state="interrupted", reason=reason, message=LONGER)
        return False
    except RecordError as error:
        print(error, file=sys.stderr, flush=True)
        return True


def why_stuck(run: Path, queue: str) -> str:
    """The reason why starting this run again is of no use; empty if it is.

    queue: token of the queue whose job this is. RecordError: the record of the run cannot be read.
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
    """True if a run has made a step of its training, or of the part of its evaluation that it is doing."""
    if now.get("doing") != before.get("doing"):
        return "doing" in now
    if str(now.get("doing")).startswith(WAITING_FOR):  # it costs nothing to wait again
        return True
    key = "image" if "doing" in now else "step"
    return bool((now.get(key) or 0) > (before.get(key) or 0))


def ends_early(interruption: Interruption) -> bool:
    """True if this job reaches its time limit or is preempted; scancel, which also sends SIGTERM, is neither."""
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
