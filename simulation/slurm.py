"""A Slurm in virtual time: arrays, requeues, preemption, time limits, lost nodes, forgotten jobs.

It does what Slurm 22.05 was seen to do; tests/slurm compares the two.
"""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulation.world import Process, World

REASONS = {"TIMEOUT": "TimeLimit", "NODE_FAIL": "NodeDown"}
"""Reasons of jobs that ended so."""


@dataclass
class Settings:
    """Settings of a cluster."""

    name: str = "standin"
    nodes: int = 3
    jobs_per_node: int = 2
    max_array_size: int = 1001
    min_job_age: float = 300.0
    kill_wait: float = 30.0
    grace_time: float = 30.0
    user_signal: bool = True
    """A preemption sends the signal that the job asked for."""
    requeue_delay: float = 60.0
    accounting: bool = False
    accounting_lag: float = 0.0
    signal_early: float = 30.0
    """A time limit is announced up to so many seconds before the job asked for it."""
    first_id: int = 1
    title: str = ""
    """The name of the cluster; two clusters may have the same one."""


@dataclass
class Request:
    """A request to sbatch."""

    name: str
    tasks: int = 1
    at_once: int = 1000
    time_limit: float = 3600.0
    signal: int | None = None
    signal_before: float = 60.0
    requeue: bool = True
    hold: bool = False
    body: Callable[["Job", Process | None], Any] | None = None
    """The function of the batch process."""
    setup: tuple[str, ...] = ()
    """Lines of its script before that."""
    folder: Path = Path()
    """The directory of its queue."""
    tasks_of_queue: list[int] = field(default_factory=list)
    """The task of the queue, by the task of the array."""
    runs: dict[int, list[str]] = field(default_factory=dict)
    """The runs, by the task of the queue."""


@dataclass
class Job:
    """A job, a task of an array, or all tasks of an array that have not started yet (``waiting``)."""

    id: int
    request: Request
    array: int | None = None
    task: int | None = None
    waiting: list[int] = field(default_factory=list)
    state: str = "PENDING"
    reason: str = "Resources"
    node: str = ""
    restarts: int = 0
    begin: float = 0.0
    started: float = 0.0
    ended: float | None = None
    preempted: float | None = None
    leaving: str = ""
    """The state of the job when its processes have ended, or REQUEUE."""
    status: int = 0
    mine: bool = True
    """True if it belongs to the user who asks; other people's jobs are not in squeue --me."""
    processes: list[Process] = field(default_factory=list)

    @property
    def named(self) -> str:
        """The id in the form that users write."""
        if self.array is None:
            return str(self.id)
        return f"{self.array}_{self.waiting if self.task is None else self.task}"

    def tasks(self) -> list[int | None]:
        return list(self.waiting) if self.waiting else [self.task]


class Refused(Exception):
    """The answer is an error; the text is Slurm's."""


class Slurm:
    """One cluster. All times are seconds of the world."""

    def __init__(self, world: World, settings: Settings | None = None) -> None:
        self.world, self.settings = world, settings or Settings()
        self.jobs: list[Job] = []
        self.accounts: dict[tuple[int, int | None], tuple[float, str, str]] = {}
        """Records of the accounting by array or job, and task: time from which it is readable, state, node."""
        self.lost: set[str] = set()
        self.away_until = self.silent_until = -1.0
        self.empty_until: dict[str, float] = {}
        """Times by command until which it prints nothing, and succeeds."""
        self._next = self.settings.first_id
        self._scheduled = False
        self.on_announcement: Callable[[Job, Process], None] = lambda job, process: None
        """Called when Slurm has announced to a job that it will end it."""
        self.doom: Callable[[], int | None] = lambda: None
        """The point at which a process of a job is killed."""

    @property
    def nodes(self) -> list[str]:
        return [f"{self.settings.name}-n{i + 1}" for i in range(self.settings.nodes)]

    # --- requests

    def submit(self, request: Request) -> int:
        """The id of the job, or of the array."""
        if request.tasks > self.settings.max_array_size:
            raise Refused("sbatch: error: Batch job submission failed: Invalid job array specification")
        job = Job(self._new_id(), request, begin=self.world.now)
        if request.tasks > 1:
            job.array, job.waiting = job.id, list(range(request.tasks))
        self.jobs.append(job)
        self._schedule(1.0)
        return job.id

    def find(self, name: str) -> list[Job]:
        """The jobs that ``12`` or ``12_3`` means: an array's id means all of its tasks."""
        number, _, task = name.partition("_")
        if not number.isdigit() or (task and not task.isdigit()):
            return []
        of_array = [job for job in self.known() if job.array == int(number)]
        if task:
            return [job for job in of_array if int(task) in job.tasks()]
        return of_array or [job for job in self.known() if job.id == int(number)]

    def known(self) -> Iterator[Job]:
        """ComposedRuns that the controller has not forgotten."""
        forgotten = self.world.now - self.settings.min_job_age
        return (job for job in self.jobs if job.ended is None or job.ended > forgotten)

    def requeue(self, name: str) -> None:
        found = self.find(name)
        if not found:
            raise Refused(f"Invalid job id specified for job {name}")
        refused = []
        for job in found:
            if job.state == "PENDING":
                refused.append(f"{job.named}: Job is pending execution")
                continue
            if not job.request.requeue:
                refused.append(f"{job.named}: Requested operation is presently disabled")
                continue
            if job.state == "RUNNING":
                self._terminate(job, "REQUEUE")
            elif job.state != "COMPLETING":
                self._wait_again(job)
        if refused:  # the others are queued again all the same
            raise Refused("\n".join(refused))

    def cancel(self, name: str) -> None:
        """ComposedRuns that have ended or are not known are passed over."""
        task = name.partition("_")[2]
        for job in self.find(name):
            if job.waiting and task:
                job.waiting.remove(int(task))  # without a trace
                self._account(job.array, int(task), "CANCELLED", "")
                if not job.waiting:
                    self.jobs.remove(job)
            elif job.state == "PENDING":
                reason = job.reason
                self._finish(job, "CANCELLED")
                job.reason = reason
            elif job.state == "RUNNING":
                self._terminate(job, "CANCELLED")
            elif job.state == "COMPLETING" and job.leaving == "REQUEUE":
                job.leaving = "CANCELLED"

    # --- what happens to jobs

    def preempt(self, job: Job) -> None:
        """Another job wants its place: a signal, the grace time, and then it is queued again."""
        if job.state != "RUNNING" or job.preempted is not None:
            return
        job.preempted = self.world.now + self.settings.grace_time
        self._log(job, "is to make room for another")
        if self.settings.user_signal and job.request.signal:
            self._signal_batch(job, job.request.signal)
        else:
            self._signal_all(job, signal.SIGTERM)
        leaving = "REQUEUE" if job.request.requeue else "PREEMPTED"
        self._later(self.settings.grace_time, job, lambda: self._terminate(job, leaving))

    def lose_node(self, node: str, seconds: float) -> None:
        """A power failure: all that runs there is gone; its jobs are queued again."""
        self.lost.add(node)
        self.world.log(f"node {node} is lost")
        for job in [job for job in self.jobs if job.node == node and job.ended is None]:
            for process in job.processes:
                self.world.end(process, -signal.SIGKILL)
            job.leaving = job.leaving or ("REQUEUE" if job.request.requeue else "NODE_FAIL")
        self.world.after(seconds, lambda: self.lost.discard(node))

    def lose_sight(self, node: str, seconds: float) -> None:
        """The daemon of a node is gone: its jobs are queued again, and what runs there runs on, unseen."""
        self.lost.add(node)
        self.world.log(f"node {node} is not seen any more")
        for job in [job for job in self.jobs if job.node == node and job.state == "RUNNING"]:
            for process in job.processes:
                process.unseen = True
            job.leaving = "REQUEUE" if job.request.requeue else "NODE_FAIL"
            self._gone(job)
        self.world.after(seconds, lambda: self.lost.discard(node))

    def kill(self, job: Job, state: str = "OUT_OF_MEMORY") -> None:
        """All processes of a job, as Slurm does where it uses too much memory."""
        if job.state == "RUNNING":
            job.leaving = job.leaving or state
            self._signal_all(job, signal.SIGKILL)

    # --- within

    def _new_id(self) -> int:
        self._next += 1
        return self._next - 1

    def _log(self, job: Job, text: str) -> None:
        self.world.log(f"Slurm {self.settings.name}: job {job.named} {text}")

    def _later(self, seconds: float, job: Job, act: Callable[[], None]) -> None:
        """Unless it has ended or started again by then."""
        started = job.started

        def still() -> None:
            if job.state in ("RUNNING", "COMPLETING") and job.started == started:
                act()

        self.world.after(seconds, still)

    def _schedule(self, seconds: float) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.world.after(seconds, self._look)

    def _look(self) -> None:
        """Starts what can start."""
        self._scheduled, now, later = False, self.world.now, []
        if self.away_until > now:
            return self._schedule(self.away_until - now + 1)
        for job in list(self.jobs):
            while job.state == "PENDING":
                node = self._free_node()
                if job.request.hold:
                    job.reason = "JobHeldUser"
                    break
                if job.begin > now:
                    job.reason = "BeginTime"
                    later.append(job.begin - now)
                    break
                if self._at_work(job) >= job.request.at_once:
                    job.reason = "JobArrayTaskLimit"
                    break
                if node is None:
                    job.reason = "Resources"
                    break
                self._begin(self._split(job), node)
        if later or self.lost:
            self._schedule(max(1.0, min([*later, 30.0])))
        return None

    def _free_node(self) -> str | None:
        for node in self.nodes:
            used = sum(job.node == node and job.state in ("RUNNING", "COMPLETING") for job in self.jobs)
            if node not in self.lost and used < self.settings.jobs_per_node:
                return node
        return None

    def _at_work(self, job: Job) -> int:
        return sum(
            other.array == job.array and job.array is not None and other.state in ("RUNNING", "COMPLETING")
            for other in self.jobs
        )

    def _split(self, job: Job) -> Job:
        """A task that starts gets its own id; the last one keeps that of the array."""
        if not job.waiting:
            return job
        task = job.waiting.pop(0)
        if not job.waiting:
            job.task = task
            return job
        alone = Job(self._new_id(), job.request, job.array, task, begin=job.begin)
        self.jobs.insert(self.jobs.index(job), alone)
        return alone

    def _begin(self, job: Job, node: str) -> None:
        request, now = job.request, self.world.now
        job.state, job.reason, job.node, job.started, job.ended = "RUNNING", "None", node, now, None
        job.preempted, job.leaving, job.status, job.processes = None, "", 0, []
        self._log(job, f"starts on {node}" + f", restart {job.restarts}" * bool(job.restarts))
        environment = {
            "SLURM_JOB_ID": str(job.id),
            "SLURM_JOB_NAME": request.name,
            "SLURM_CLUSTER_NAME": self.settings.title or self.settings.name,
        }
        if job.array is not None:
            environment |= {"SLURM_ARRAY_JOB_ID": str(job.array), "SLURM_ARRAY_TASK_ID": str(job.task)}
        if job.restarts:
            environment["SLURM_RESTART_COUNT"] = str(job.restarts)
        body = request.body
        if body is not None:
            process = self.world.start(
                f"job {job.named}", node, environment, lambda: body(job, process), self.doom()
            )
            job.processes.append(process)
            process.on_end.append(lambda: self._batch_ended(job, process))
        early = self.world.random.uniform(0, self.settings.signal_early) if request.signal else 0
        announced = max(0.0, request.time_limit - request.signal_before - early)
        if number := request.signal:
            self._later(announced, job, lambda: self._announce(job, number))
        self._later(request.time_limit, job, lambda: self._terminate(job, "TIMEOUT"))

    def _announce(self, job: Job, number: int) -> None:
        if job.state == "RUNNING":
            self._log(job, "comes near its time limit")
            self._signal_batch(job, number)

    def _signal_batch(self, job: Job, number: int) -> None:
        if job.processes:
            batch = job.processes[0]
            batch.send(number)
            self.on_announcement(job, batch)

    def _signal_all(self, job: Job, number: int) -> None:
        for process in list(job.processes):
            process.send(number)

    def _terminate(self, job: Job, leaving: str) -> None:
        """SIGTERM, and SIGKILL after the KillWait."""
        if job.state != "RUNNING":
            return
        job.state, job.leaving = "COMPLETING", leaving
        self._log(job, f"is ended: {leaving}")
        self._later(self.settings.kill_wait, job, lambda: self._signal_all(job, signal.SIGKILL))
        self._signal_all(job, signal.SIGTERM)
        if not job.processes:
            self._gone(job)

    def _batch_ended(self, job: Job, process: Process) -> None:
        """Slurm kills what is left of a job whose first process has ended."""
        if process not in job.processes:  # it was not seen any more
            return
        job.status = process.status
        self._signal_all(job, signal.SIGKILL)
        self._gone(job)

    def _gone(self, job: Job) -> None:
        job.processes = []
        if job.leaving == "REQUEUE":
            self._wait_again(job)
        else:
            self._finish(job, job.leaving or ("FAILED" if job.status else "COMPLETED"))

    def _wait_again(self, job: Job) -> None:
        job.restarts += 1
        job.state, job.reason, job.node, job.ended, job.preempted = "PENDING", "BeginTime", "", None, None
        job.begin = self.world.now + self.settings.requeue_delay
        self._log(job, "waits again")
        self._schedule(self.settings.requeue_delay)

    def _finish(self, job: Job, state: str) -> None:
        job.state, job.ended, job.reason = state, self.world.now, REASONS.get(state, "None")
        if state == "FAILED":
            job.reason = "JobLaunchFailure" if job.status < 0 else "NonZeroExitCode"
        self._log(job, f"has ended: {state}")
        for task in job.tasks():
            self._account(job.array or job.id, task, state, job.node)
        self._schedule(1.0)

    def _account(self, array: int | None, task: int | None, state: str, node: str) -> None:
        if array is not None:
            self.accounts[array, task] = (self.world.now + self.settings.accounting_lag, state, node)
