"""A bounded pool of processes, one for each run, that outlives the failure of any of them.

The processes are forked from a server that has imported torch, and so begin at once. Each has its own memory, GPU and
signals: what happens to one is nothing to the others.
"""

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from vlae.attempts import FORCED, last_number
from vlae.files import RecordError
from vlae.interruption import SIGNALS, Interruption
from vlae.job import DONE, HELD, work
from vlae.launching.queues import Queue
from vlae.launching.slots import Slot
from vlae.record import RunDirectory

IMPORTED_AHEAD = [
    "vlae.trained",
    "vlae.scoring",
    "vlae.figures",
    "vlae.pictures",
    "vlae.results",
    "vlae.data",
    "sklearn.datasets",
    "torch._dynamo",
    "torchvision.utils",
    "zuko",
]
"""By the server, once for all runs."""
LOOK_EVERY = 0.5
"""Seconds between two looks at the runs."""
CANCELLED_WITHIN = 2.0
"""Seconds in which it is seen that a run was cancelled."""


@dataclass
class Job:
    """A frozen run directory that is to be executed."""

    path: Path
    label: str
    attempts: int
    """It had when the launch was planned."""
    outcome: str | None = None
    """done, failed, killed, interrupted, cancelled, held (by another process), not started; None: not yet."""
    detail: str = ""
    began: float | None = None
    seconds: float = 0.0
    process: BaseProcess | None = field(default=None, repr=False)
    told: int = 0
    """Times that it was asked to stop."""


def jobs_of(queue: Queue, task: int | None = None) -> list[Job]:
    """What is to be executed of a queue, or of one task of it."""
    labels = queue.settings["labels"]
    return [
        Job(
            queue.runs_dir / FORCED / run.run_id if run.forced else queue.runs_dir / run.run_id,
            labels.get(run.run_id, ""),
            run.attempts,
        )
        for run in queue.runs
        if task in (None, run.task)
    ]


@runtime_checkable
class Audience(Protocol):
    """Who is told how a pool gets on."""

    def began(self, job: Job) -> None: ...

    def ended(self, job: Job) -> None: ...

    def look(self, jobs: Sequence[Job]) -> None:
        """Every half second."""
        ...


@runtime_checkable
class Processes(Protocol):
    """Where the processes of a pool come from."""

    def prepare(self, signals: Sequence[int]) -> None:
        """Before the first one. signals: those of the pool, which must not end what all processes share."""
        ...

    def start(self, name: str, arguments: tuple[Any, ...]) -> BaseProcess:
        """A living process that does `_work` with these arguments."""
        ...


class Forked:
    """From a server that has imported torch."""

    def __init__(self) -> None:
        self._context: Any = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(IMPORTED_AHEAD)

    def prepare(self, signals: Sequence[int]) -> None:
        with _ignored(signals):
            resource_tracker.ensure_running()
            forkserver.ensure_running()

    def start(self, name: str, arguments: tuple[Any, ...]) -> BaseProcess:
        process = self._context.Process(target=_work, args=arguments, name=name)
        process.start()
        return process


class Pool:
    """Executes jobs in their order, as many at a time as there are slots."""

    def __init__(
        self,
        jobs: Sequence[Job],
        slots: Sequence[Slot],
        queue: Queue,
        audience: Audience,
        *,
        patience: float = math.inf,
        processes: Processes | None = None,
    ) -> None:
        """queue: that the jobs belong to, which tells whether they are cancelled meanwhile.

        patience: seconds after a signal in which runs have to end; then they are killed.
        processes: None: forked ones.
        """
        self.jobs, self.queue, self.audience = list(jobs), queue, audience
        self._waiting: deque[Job] = deque(jobs)
        self._free: deque[Slot] = deque(slots)
        self._running: dict[int, tuple[Job, Slot]] = {}
        self._processes = processes or Forked()
        self._patience, self._asked = patience, math.inf
        self._presses, self._looked = 0, 0.0

    def run(self, interruption: Interruption) -> None:
        """Until each job has an outcome. A signal goes on to the runs, which save their state; no more are started."""
        self._processes.prepare(interruption.signals)
        while self._waiting or self._running:
            try:
                if interruption.requested:
                    self._pass_on(interruption.number)
                self._drop_cancelled()
                while self._waiting and self._free and not interruption.requested:
                    self._start(self._waiting.popleft(), self._free.popleft())
                wait(list(self._running), timeout=LOOK_EVERY)
                self._collect()
                self.audience.look(self.jobs)
            except KeyboardInterrupt:  # pressed again: stop at once, and a third time: without a word
                self._presses = max(2, self._presses + 1)
                self._pass_on(signal.SIGINT if self._presses == 2 else signal.SIGKILL)

    def _start(self, job: Job, slot: Slot) -> None:
        arguments = (job.path, job.attempts, slot.environment, slot.threads)
        process = self._processes.start(job.path.name, arguments)
        job.process, job.began = process, time.monotonic()
        self._running[process.sentinel] = (job, slot)
        self.audience.began(job)

    def _collect(self) -> None:
        for sentinel in [s for s in wait(list(self._running), timeout=0) if isinstance(s, int)]:
            job, slot = self._running.pop(sentinel)
            assert job.process is not None
            assert job.began is not None
            job.process.join()
            job.seconds = time.monotonic() - job.began
            wanted, status = job.detail, job.process.exitcode or 0
            job.outcome, job.detail = outcome(job.path, status, job.attempts)
            listened = status > 0 and has_begun(job.path, job.attempts)
            if (job.told or wanted) and status not in (DONE, HELD, -signal.SIGKILL) and not listened:
                job.outcome, job.detail = "interrupted", ""
            if wanted and job.outcome in ("interrupted", "killed"):
                job.outcome, job.detail = "cancelled", ""
            job.process.close()
            job.process = None
            self._free.append(slot)
            self.audience.ended(job)

    def _drop_cancelled(self) -> None:
        if time.monotonic() - self._looked < CANCELLED_WITHIN:
            return
        self._looked, cancelled = time.monotonic(), set[str]()
        with contextlib.suppress(RecordError):  # it is read again in two seconds
            cancelled = self.queue.cancelled()
        for job in [job for job in self._waiting if job.path.name in cancelled]:
            self._waiting.remove(job)
            job.outcome = "cancelled"
            self.audience.ended(job)
        for job, _ in self._running.values():
            if job.path.name in cancelled:
                job.detail = "cancelled"
                self._send(job, signal.SIGTERM)  # again and again, for it may just begin

    def _pass_on(self, number: int) -> None:
        """As often as we look to a run that may just begin; a Ctrl-C only once, or it would be the second one."""
        for job in self._waiting:
            job.outcome = "not started"
        self._waiting.clear()
        self._asked = min(self._asked, time.monotonic())
        if time.monotonic() - self._asked > self._patience:
            number = signal.SIGKILL
        for job, _ in self._running.values():
            listens = number == signal.SIGINT and has_begun(job.path, job.attempts)
            if not listens or job.told < max(1, self._presses):
                job.told += 1
                self._send(job, number)

    def _send(self, job: Job, number: int) -> None:
        if job.process is not None and job.process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(job.process.pid, number)


def has_begun(run: Path, attempts: int) -> bool:
    """Since it had so many attempts."""
    return last_number(run / "attempts") > attempts


def outcome(run: Path, status: int, attempts: int) -> tuple[str, str]:
    """How an execution ended, by its exit status and, where that says little, by the record of the run.

    attempts: that it had before, of which the record may tell as well.
    """
    if status == DONE:
        return "done", ""
    if status == HELD:
        return "held", "executed by another process"
    if status < 0:
        return "killed", signal.Signals(-status).name
    try:
        recorded = RunDirectory(run).status()
    except RecordError as error:
        return "failed", str(error)
    if recorded["state"] in ("failed", "interrupted") and has_begun(run, attempts):
        return recorded["state"], "" if recorded["state"] == "failed" else recorded["reason"]
    return "failed", f"ended before it began, with exit status {status}"


@contextlib.contextmanager
def _ignored(signals: Sequence[int]) -> Iterator[None]:
    """What is started meanwhile ignores them too: Slurm sends its signals to every process of a job."""
    kept = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _work(path: Path, attempts: int, environment: dict[str, str], threads: int) -> None:
    for number in SIGNALS:  # which the server ignores
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
    os.environ.update(environment)  # before CUDA is looked at
    sys.exit(work(path, attempts, threads))
