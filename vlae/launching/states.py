"""The honest state of every run: what its record says, put right by who is alive and by what Slurm says."""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlae.attempts import seconds_since
from vlae.files import RecordError, StrPath
from vlae.launching.cluster import REASONS, JobState, SlurmError, ended_jobs, queued_jobs
from vlae.launching.queues import NEVER, Queue, Waiting, all_queues
from vlae.record import RunDirectory

STATES = ("new", "queued", "running", "interrupted", "failed", "done")
UNREADABLE = "unreadable record"
STOPPED = {"waiting": ("interrupted", "running"), "unknown": ("interrupted",)}
"""By the state of its job, what a run may seem to be that goes on with that job: nobody has noted its stop yet."""


@dataclass(frozen=True)
class State:
    """What is true of a run now."""

    run_id: str
    path: Path
    state: str
    """One of the STATES."""
    attempts: int = 0
    progress: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    """Of a run that is not done: exception, killed, out of memory, time limit, preempted, node lost, missing, ..."""
    message: str = ""
    heartbeat: float | None = None
    """Seconds since its last sign of life, where it is running."""
    where: str = ""
    """The Slurm job, the host, or both."""
    gpu_seconds: float = 0.0


def recorded_state(path: Path) -> State:
    """What the record of a run says, its process taken into account."""
    if not os.path.isdir(path):
        return State(path.name, path, "new")
    directory = RunDirectory(path)
    try:
        status = directory.status()
    except RecordError as error:
        return State(path.name, path, "failed", reason=UNREADABLE, message=str(error))
    return State(
        path.name,
        path,
        status["state"],
        status["attempt"] or 0,
        status["progress"] or {},
        status["reason"] or "",
        status["message"] or "",
        seconds_since(status["updated"]) if status["state"] == "running" else None,
        status["where"] or "",
        status["gpu_seconds"],
    )


class Observer:
    """Looks at many runs of one runs directory, each in the light of the queues that list it."""

    def __init__(self, runs_dir: StrPath) -> None:
        self.runs_dir = Path(runs_dir).absolute()
        self.queues = all_queues(runs_dir)
        self.warning: str | None = None
        """Why what is said of Slurm's jobs may be out of date."""
        self._waiting: dict[tuple[str, bool], list[tuple[Waiting, str, JobState | None]]] = {}
        self._ended: dict[tuple[str, bool], tuple[str, str]] = {}
        self._queued: dict[str, JobState] | None = None
        self._cancelled: set[str] = set()
        for queue in self.queues:
            self._look_at(queue)

    def state(self, path: Path, *, forced: bool = False) -> State:
        """Of the run in ``path``."""
        found, key = recorded_state(path), (path.name, forced)
        if found.state == "done" or found.reason == UNREADABLE:
            return found
        for waiting, job_id, job in self._waiting.get(key, ()):
            # an interrupted run goes on where its job is requeued; elsewhere each has one turn
            turn = found.state != "running" and found.attempts == waiting.attempts
            again = job is not None and found.state in STOPPED.get(job.state, ())
            if turn or (again and (found.state == "interrupted" or _executes(job_id, found))):
                text, where = (job.reason if job else ""), job_id and f"job {job_id}"
                return replace(found, state="queued", reason=text, message="", where=where)
        if key in self._ended:
            job_id, reason = self._ended[key]
            its_own = found.state in ("running", "interrupted") and _executes(job_id, found)
            if found.state == "new" or its_own:
                vague = reason in (REASONS["FAILED"], REASONS["COMPLETED"])
                if vague and found.state == "interrupted" and found.reason not in ("", "killed"):
                    reason = found.reason  # in the run's own words
                return replace(found, state="interrupted", reason=reason, heartbeat=None)
        if found.reason == "SIGTERM" and path.name in self._cancelled:
            return replace(found, reason="cancelled")
        return found

    def _look_at(self, queue: Queue) -> None:
        ended = queue.ended
        self._cancelled |= queue.cancelled()
        if ended is not None:
            jobs = queue.jobs() if queue.kind == "slurm" else {}
            for run in queue.runs:
                if reason := ended.get("reasons", {}).get(run.run_id):
                    self._ended[run.run_id, run.forced] = (jobs.get(run.task, ""), reason)
        elif queue.kind == "slurm":
            self._look_at_jobs(queue)
        elif queue.holder() is not None:
            self._wait(queue, dict.fromkeys(queue.runs))

    def _wait(self, queue: Queue, runs: Mapping[Waiting, JobState | None]) -> None:
        cancelled, jobs = queue.cancelled(), queue.jobs() if queue.kind == "slurm" else {}
        for run, job in runs.items():
            if run.run_id not in cancelled:
                self._waiting.setdefault((run.run_id, run.forced), []).append(
                    (run, jobs.get(run.task, ""), job)
                )

    def _look_at_jobs(self, queue: Queue) -> None:
        jobs = queue.jobs()
        submitted = [run for run in queue.runs if jobs.get(run.task, NEVER) != NEVER]
        self._wait(queue, {run: JobState("waiting") for run in queue.runs if run.task not in jobs})
        try:
            self._queued = queued_jobs() if self._queued is None else self._queued
        except SlurmError as error:
            self.warning = str(error)
            self._wait(queue, {run: JobState("unknown") for run in submitted})
            return
        alive = {run: self._queued[jobs[run.task]] for run in submitted if jobs[run.task] in self._queued}
        self._wait(queue, alive)
        gone = [run for run in submitted if run not in alive]
        if not gone:
            return
        told: dict[str, JobState] = {}
        for array in {jobs[run.task].partition("_")[0] for run in gone}:
            told.update(ended_jobs(array))
        # submitted after squeue was asked, or another user's, which it does not show
        unseen = {run: told[jobs[run.task]] for run in gone if jobs[run.task] in told}
        unseen = {run: job for run, job in unseen.items() if job.state != "ended"}
        self._wait(queue, unseen)
        alive, gone = alive | unseen, [run for run in gone if run not in unseen]
        cancelled, reasons = queue.cancelled(), {}
        for run in gone:
            job = told.get(jobs[run.task], JobState("ended", "missing"))
            reasons[run.run_id] = "cancelled" if run.run_id in cancelled else job.reason
            self._ended[run.run_id, run.forced] = (jobs[run.task], reasons[run.run_id])
        if not alive and all(run.task in jobs for run in queue.runs):
            with contextlib.suppress(RecordError):  # who may only look cannot write it down
                queue.end("ended", reasons)


def _executes(job_id: str, state: State) -> bool:
    """Whether the last attempt of the run is, or was, that of this job."""
    return state.where.split(" ")[:2] == ["job", job_id]
