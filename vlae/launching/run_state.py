"""The state of every run: its record, corrected by living processes and by Slurm.

Decision record: docs/decisions/0015-what-is-believed-of-slurm.md.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from vlae.launching.queues import NEVER, Queue, Waiting, all_queues
from vlae.launching.slurm_state import (
    MISSING,
    REASONS,
    JobState,
    SlurmError,
    known_jobs,
    queued_jobs,
    this_cluster,
)
from vlae.runs.directory import RunDirectory, read_status, run_names
from vlae.runs.lease import read_claim, seconds_since
from vlae.runs.rerun import RERUNS, run_to_replace
from vlae.system.disk import RecordError
from vlae.system.files import StrPath
from vlae.system.processes import place

UNKNOWN = JobState("unknown")  # the state of a job of which Slurm says nothing reliable here
UNRELIABLE_ENDS = {REASONS["NODE_FAIL"], MISSING.reason}
"""Ends of jobs, as Slurm reports them, whose processes may live all the same."""
A_MOMENT = 60.0  # seconds from a submission in which Slurm need not know the job
STATES = ("new", "queued", "running", "interrupted", "failed", "done")
UNREADABLE = "unreadable record"
STOPPED = {"waiting": ("interrupted", "running"), "running": ("interrupted",), "unknown": ("interrupted",)}
"""Recorded states of a run that are consistent with a job in each state which continues it."""
NO_STEP = "no step in two attempts"
"""Why a run is not started again by its job, which may continue with others."""
NOT_REQUEUED = "time limit or preempted, not requeued"
ABOUT_TO_REQUEUE = ("SIGUSR2", "SIGTERM")
"""Why a run has stopped whose job runs still, and is requeued in a moment, or was a moment ago."""
SUBMISSION_INTERRUPTED = "submission interrupted; rerun the launch to find or submit its job"


@dataclass(frozen=True)
class RunState:
    """The state of a run now."""

    run_id: str
    path: Path
    state: str  # one of the STATES
    attempts: int = 0
    progress: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    """Why a run is not done: exception, killed, out of memory, time limit, preempted, node lost, missing, ..."""
    message: str = ""
    heartbeat: float | None = None  # seconds since its last sign of life if it is running
    idle: float | None = None  # seconds since it last made progress if it is running
    where: str = ""  # the Slurm job, the host, or both
    gpu_seconds: float = 0.0
    stale: bool = False
    """True if status.json of a done run does not say so, as when its process was killed a moment before."""

    @property
    def is_rerun(self) -> bool:
        """True if it is executed again, beside its old results."""
        return run_to_replace(self.path) is not None


def state_on_disk(path: Path) -> RunState:
    """The state of a run by its record and its process, without queues."""
    try:
        recorded = read_status(str(path))
        status = RunDirectory(path).status(recorded)
    except RecordError as error:
        return RunState(path.name, path, "failed", reason=UNREADABLE, message=str(error))
    if not os.path.isfile(f"{path}/config.yaml") and os.path.isdir(path):
        text = f"{path} has no config.yaml. Move it away and rerun the same command to make the run again"
        return RunState(path.name, path, "failed", reason=UNREADABLE, message=text)
    running = status["state"] == "running"
    return RunState(
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
        stale=status["state"] == "done" != recorded["state"],
    )


class Executor(NamedTuple):
    """The Slurm job of a queue that executes a run; another cluster may have a job of the same id."""

    queue: str
    job: str

    def has_executed(self, state: RunState) -> bool:
        """True if the last attempt of the run is, or was, that of this job."""
        if state.where.split(" ")[:2] != ["job", self.job]:
            return False
        with contextlib.suppress(RecordError):
            claim = read_claim(state.path / "attempts" / str(state.attempts))
            return claim is None or self.made(claim)
        return True

    def made(self, claim: Mapping[str, Any]) -> bool:
        """True if this job has made the claim."""
        return claim["slurm_job"] == self.job and claim["queue"] in (None, self.queue)


class Observer:
    """The states of many runs of one runs directory, each in the light of the queues that list it. Writes nothing."""

    def __init__(self, runs_dir: StrPath) -> None:
        self.runs_dir = Path(runs_dir).absolute()
        self.queues = all_queues(runs_dir)
        self._warnings: dict[str, None] = {}
        self._waiting: dict[tuple[str, bool], list[tuple[Waiting, Executor, JobState | None]]] = {}
        self._ended: dict[tuple[str, bool], tuple[Executor, str]] = {}
        self._queued: dict[str, JobState] | None = None
        self._cluster: str | None = None  # empty where it cannot be reached
        self._over: list[tuple[Queue, dict[str, str]]] = []
        self._cancelled: set[str] = set()
        for queue in self.queues:
            self._look_at(queue)

    @property
    def warning(self) -> str | None:
        """The reason why the states of Slurm jobs may be out of date."""
        return "\n".join(self._warnings) or None

    @property
    def asks_slurm(self) -> bool:
        """True if Slurm is asked, whose controller must not be asked too often."""
        return self._cluster is not None or bool(self._warnings)

    def record_ends(self) -> None:
        """End the queues whose jobs have all ended, so that Slurm is not asked again. Hold the launch lock."""
        for queue, reasons in self._over:
            with contextlib.suppress(RecordError):  # another user's, perhaps
                queue.end("ended", reasons)

    def places(self, run_id: str) -> tuple[Path, Path]:
        """The two directories in which a run may be executed: its own, and beside its old results."""
        return self.runs_dir / run_id, self.runs_dir / RERUNS / run_id

    def states(self, run_ids: Iterable[str]) -> list[RunState]:
        """States in the order of the ids; for a rerun, the state of its new execution."""
        reruns = set(run_names(self.runs_dir / RERUNS))
        return [self.state(self.places(name)[name in reruns]) for name in run_ids]

    def state(self, path: Path) -> RunState:
        """The state of the run in ``path``."""
        found = state_on_disk(path)
        key = path.name, found.is_rerun
        if found.state == "done" or found.reason == UNREADABLE:
            return found
        for waiting, executor, job in self._waiting.get(key, ()):
            # an interrupted run continues if its job is requeued; otherwise each starts once
            untried = found.state != "running" and found.attempts == waiting.attempts
            if untried or (job is not None and _is_continued(executor, job, found)):
                where = executor.job and f"job {executor.job}"
                return replace(
                    found, state="queued", reason=job.reason if job else "", message="", where=where
                )
        if key in self._ended:
            executor, reason = self._ended[key]
            its_own = found.state in ("running", "interrupted") and executor.has_executed(found)
            if found.state == "new" or its_own:
                vague = reason in (REASONS["FAILED"], REASONS["COMPLETED"])
                if vague and found.state == "interrupted" and found.reason not in ("", "killed"):
                    # the run knows better: its job was signalled in time, and is no longer requeued
                    reason = NOT_REQUEUED if found.reason == "SIGUSR2" else found.reason
                return replace(found, state="interrupted", reason=reason, heartbeat=None, idle=None)
        if found.reason == "SIGTERM" and path.name in self._cancelled:
            return replace(found, reason="cancelled")
        return found

    def _look_at(self, queue: Queue) -> None:
        ended, jobs = queue.ended, queue.jobs() if queue.kind == "slurm" else {}
        self._cancelled |= queue.cancelled_runs()
        if ended is not None:
            reasons = ended.get("reasons", {})
            self._end(queue, jobs, {run: reasons.get(run.run_id) or None for run in queue.runs})
        elif queue.kind == "slurm":
            self._look_at_jobs(queue, jobs)
        elif queue.holder() is not None:
            self._wait(queue, jobs, dict.fromkeys(queue.runs))

    def _wait(self, queue: Queue, jobs: Mapping[int, str], states: Mapping[Waiting, JobState | None]) -> None:
        cancelled = queue.cancelled_runs()
        for run, state in states.items():
            if run.run_id not in cancelled:
                executor = Executor(queue.token, jobs.get(run.task, ""))
                self._waiting.setdefault((run.run_id, run.is_rerun), []).append((run, executor, state))

    def _end(self, queue: Queue, jobs: Mapping[int, str], reasons: Mapping[Waiting, str | None]) -> None:
        for run, reason in reasons.items():
            if reason is not None:
                self._ended[run.run_id, run.is_rerun] = (
                    Executor(queue.token, jobs.get(run.task, "")),
                    reason,
                )

    def _look_at_jobs(self, queue: Queue, jobs: Mapping[int, str]) -> None:
        on_its_way = JobState("waiting", "" if queue.holder() else SUBMISSION_INTERRUPTED)
        self._wait(queue, jobs, {run: on_its_way for run in queue.runs if run.task not in jobs})
        job_of = {run: jobs.get(run.task, NEVER) for run in queue.runs}
        submitted = {run: job for run, job in job_of.items() if job != NEVER and not queue.is_done(run)}
        answers, cancelled = self._ask_slurm(queue, set(submitted.values())), queue.cancelled_runs()
        states = {run: _state_of_job(queue, run, job, answers.get(job)) for run, job in submitted.items()}
        self._wait(queue, jobs, {run: job for run, job in states.items() if job.state != "ended"})
        ended = {run: job for run, job in states.items() if job.state == "ended"}
        reasons = {run: "cancelled" if run.run_id in cancelled else job.reason for run, job in ended.items()}
        self._end(queue, jobs, reasons)
        if len(reasons) == len(submitted) and not queue.is_being_submitted:
            self._over.append((queue, {run.run_id: reason for run, reason in reasons.items()}))

    def _ask_slurm(self, queue: Queue, jobs: set[str]) -> dict[str, JobState]:
        """States of jobs of this queue by Slurm; jobs that are unknown here are left out."""
        if not jobs or self._cluster == "":
            return {}
        try:
            if self._cluster is None:
                self._cluster = ""  # waiting once for an answer is enough
                self._cluster = this_cluster().identity
            if queue.cluster != self._cluster:
                raise SlurmError(
                    f"the jobs of {queue.sweep} belong to the cluster {queue.cluster}, and commands here ask "
                    f"{self._cluster}: run vlae on cluster {queue.cluster}; if it is gone, "
                    f"`vlae cancel {queue.sweep}` releases the runs"
                )
            if self._queued is None:
                self._queued = queued_jobs()
            queued = {job: self._queued[job] for job in jobs if job in self._queued}
            # ended, or submitted after squeue was asked, or another user's, which it does not show
            return queued | known_jobs(jobs - queued.keys())
        except SlurmError as error:
            self._warnings[str(error)] = None
            return {}


def _state_of_job(queue: Queue, run: Waiting, job_id: str, answer: JobState | None) -> JobState:
    """The state of a job by Slurm, unless the run or the queue shows that it cannot be so."""
    if answer is None or (answer == MISSING and seconds_since(queue.created) < A_MOMENT):
        return UNKNOWN
    path, holder = queue.place_of(run), None
    if answer.state == "ended" and state_on_disk(path).state == "running":
        with contextlib.suppress(RecordError):
            holder = RunDirectory(path).holder()
    if holder and Executor(queue.token, job_id).made(holder):
        # Slurm has seen other ends itself, and a process of this machine was just found
        return UNKNOWN if answer.reason in UNRELIABLE_ENDS or holder["place"] == place() else answer
    return answer


def _is_continued(executor: Executor, job: JobState, state: RunState) -> bool:
    """True if a run that has begun is continued by this job, which ends and is started again."""
    if state.state not in STOPPED[job.state] or (state.reason == NO_STEP and executor.has_executed(state)):
        return False
    if job.state == "running":
        return executor.has_executed(state) and state.reason in ABOUT_TO_REQUEUE
    return state.state == "interrupted" or executor.has_executed(state)
