"""The honest state of every run: what its record says, put right by who is alive and by what Slurm says."""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlae.attempts import seconds_since
from vlae.files import RecordError, StrPath
from vlae.launching.cluster import REASONS, JobState, SlurmError, known_jobs, queued_jobs
from vlae.launching.queues import NEVER, Queue, Waiting, all_queues
from vlae.record import RunDirectory

MISSING = JobState("ended", "missing")
"""Of a job that Slurm does not know, or no longer."""
STATES = ("new", "queued", "running", "interrupted", "failed", "done")
UNREADABLE = "unreadable record"
STOPPED = {"waiting": ("interrupted", "running"), "running": ("interrupted",), "unknown": ("interrupted",)}
"""By the state of its job, what a run may seem to be that goes on with that job: nobody has noted its stop yet."""
OUT_OF_TURNS = "time limit or preempted, not requeued"
ABOUT_TO_GO_ON = ("SIGUSR2", "SIGTERM")
"""Why a run has stopped whose job runs still, and is requeued in a moment, or was a moment ago."""
BROKEN_OFF = "its submission was broken off; launch again to find its job, or to submit it"


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
    idle: float | None = None
    """Seconds since it last made progress, where it is running."""
    where: str = ""
    """The Slurm job, the host, or both."""
    gpu_seconds: float = 0.0


def recorded_state(path: Path) -> State:
    """What the record of a run says, its process taken into account."""
    directory = RunDirectory(path)
    try:
        status = directory.status()
        if not os.path.isfile(f"{path}/config.yaml") and os.path.isdir(path):
            raise RecordError(
                f"{path} has no config.yaml; move it away, and the same command makes the run anew"
            )
    except RecordError as error:
        return State(path.name, path, "failed", reason=UNREADABLE, message=str(error))
    running = status["state"] == "running"
    return State(
        path.name,
        path,
        status["state"],
        attempts=status["attempt"] or 0,
        progress=status["progress"] or {},
        reason=status["reason"] or "",
        message=status["message"] or "",
        heartbeat=seconds_since(status["updated"]) if running else None,
        idle=seconds_since(status["progressed"]) if running and status["progressed"] else None,
        where=status["where"] or "",
        gpu_seconds=status["gpu_seconds"],
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

    @property
    def asks_slurm(self) -> bool:
        """Whether a look costs the cluster's controller something."""
        return self._queued is not None or self.warning is not None

    def state(self, path: Path, *, forced: bool = False) -> State:
        """Of the run in ``path``."""
        found, key = recorded_state(path), (path.name, forced)
        if found.state == "done" or found.reason == UNREADABLE:
            return found
        for waiting, job_id, job in self._waiting.get(key, ()):
            # an interrupted run goes on where its job is requeued; elsewhere each has one turn
            turn = found.state != "running" and found.attempts == waiting.attempts
            if turn or (job is not None and _goes_on(job_id, job, found)):
                text, where = (job.reason if job else ""), job_id and f"job {job_id}"
                return replace(found, state="queued", reason=text, message="", where=where)
        if key in self._ended:
            job_id, reason = self._ended[key]
            its_own = found.state in ("running", "interrupted") and _executes(job_id, found)
            if found.state == "new" or its_own:
                vague = reason in (REASONS["FAILED"], REASONS["COMPLETED"])
                if vague and found.state == "interrupted" and found.reason not in ("", "killed"):
                    # in the run's own words; a job that was told in time, and is no longer requeued
                    reason = OUT_OF_TURNS if found.reason == "SIGUSR2" else found.reason
                return replace(found, state="interrupted", reason=reason, heartbeat=None, idle=None)
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
        on_its_way = JobState("waiting", "" if queue.holder() else BROKEN_OFF)
        self._wait(queue, {run: on_its_way for run in queue.runs if run.task not in jobs})
        try:
            told = self._told_of({jobs[run.task] for run in submitted})
        except SlurmError as error:
            self.warning = str(error)
            self._wait(queue, {run: JobState("unknown") for run in submitted})
            return
        alive = {run: told[jobs[run.task]] for run in submitted if told[jobs[run.task]].state != "ended"}
        self._wait(queue, alive)
        cancelled, reasons = queue.cancelled(), {}
        for run in submitted:
            if run in alive:
                continue
            job = told[jobs[run.task]]
            reasons[run.run_id] = "cancelled" if run.run_id in cancelled else job.reason
            self._ended[run.run_id, run.forced] = (jobs[run.task], reasons[run.run_id])
        if not alive and all(run.task in jobs for run in queue.runs):
            with contextlib.suppress(RecordError):  # who may only look cannot write it down
                queue.end("ended", reasons)

    def _told_of(self, jobs: set[str]) -> dict[str, JobState]:
        """What Slurm says of each. SlurmError: it cannot be asked."""
        if self._queued is None:
            self._queued = queued_jobs()
        told = {job: self._queued[job] for job in jobs if job in self._queued}
        # ended, or submitted after squeue was asked, or another user's, which it does not show
        told = known_jobs(jobs - told.keys()) | told
        return {job: told.get(job, MISSING) for job in jobs}


def _goes_on(job_id: str, job: JobState, state: State) -> bool:
    """Whether a run that has begun is continued by this job, which ends and is started again."""
    if state.state not in STOPPED[job.state]:
        return False
    if job.state == "running":
        return _executes(job_id, state) and state.reason in ABOUT_TO_GO_ON
    return state.state == "interrupted" or _executes(job_id, state)


def _executes(job_id: str, state: State) -> bool:
    """Whether the last attempt of the run is, or was, that of this job."""
    return state.where.split(" ")[:2] == ["job", job_id]
