"""A bounded pool of processes, one for each run, that outlives the failure of any of them.

The processes are forked from a server that has imported torch, and so begin at once. Each has its own memory, GPU and
signals.
"""

import contextlib
import math
import os
import signal
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from vlae.experiment.frozen_run import DONE, HELD, REFUSED
from vlae.launching.queues import Queue
from vlae.launching.resources import Slot
from vlae.launching.run_process import (
    ForkServer,
    attempts_of,
    has_begun,
    outcome,
    progress_mark,
    record_reason,
)
from vlae.system.disk import PATIENCE, DiskError, RecordError, notice, why_refused
from vlae.system.interruption import Interruption
from vlae.system.machine import memory_kills
from vlae.system.processes import process_lives, process_start

LOOK_EVERY = 0.5  # seconds between two looks at the runs
CANCELLED_WITHIN = 2.0  # seconds in which the pool sees that a run was cancelled
PROBE_EVERY, PROBE_REFUSED_EVERY = 10.0, 5.0
"""Seconds between two probes of the disk: while it takes writes, and while it does not."""
SERVER_LOST = 255
"""Exit status of a process whose server was killed, as multiprocessing gives it; the process may live."""
TRIES = 5
"""Number of times that a run starts again which the disk has ended, or whose process could not be started."""


@dataclass
class Job:
    """A frozen run directory that is to be executed."""

    path: Path
    label: str
    attempts: int  # number of attempts when the launch was planned
    chain: str = ""  # jobs of one chain are executed one after the other, in their order
    outcome: str | None = None
    """done, failed, killed, interrupted, cancelled, held (by another process), not started; None: not yet."""
    detail: str = ""
    began: float | None = None
    seconds: float = 0.0
    process: BaseProcess | None = field(default=None, repr=False)
    signals_sent: int = 0  # number of times that it was asked to stop
    tries: int = 0  # number of times that it was started again here
    pid: int | None = field(default=None, repr=False)  # the id of its process, as long as it runs
    born: float | None = field(default=None, repr=False)
    mark: object = field(default=None, repr=False)  # a value that changes with each progress
    moved: float = field(default=0.0, repr=False)  # time of the last progress
    hung: bool = False  # True if it was ended because it made no progress

    @property
    def name(self) -> str:
        """The overrides that distinguish it, else its id."""
        return self.label or self.path.name

    @property
    def lives(self) -> bool:
        """True if its process lives, even if the server that started it does not."""
        return self.pid is not None and self.born is not None and bool(process_lives(self.pid, self.born))


def jobs_of(queue: Queue, task: int | None = None) -> list[Job]:
    """The jobs of a queue, or of one task of it."""
    labels = queue.settings["labels"]
    runs = [run for run in queue.runs if task in (None, run.task)]
    return [Job(queue.place_of(run), labels.get(run.run_id, ""), run.attempts, run.chain) for run in runs]


def number_of_chains(jobs: Sequence[Job]) -> int:
    """How many of these jobs can be executed at once."""
    return len({job.chain or str(job.path) for job in jobs})


class Log:
    """The progress of a pool, in lines for the log of a job."""

    def report_start(self, job: Job) -> None:
        """Report that the process of a run has started."""
        self.say(f"started: {job.path}")

    def report_end(self, job: Job) -> None:
        """Report the outcome of a run."""
        self.say(f"{job.outcome}: {job.path} {job.detail}")

    def refresh(self, jobs: Sequence[Job]) -> None:
        """Called every half second."""

    def report_pause(self, reason: str | None) -> None:
        """Say why the disk keeps runs from starting; None: they start again."""
        self.say(notice(reason) if reason else "writes are taken again", "yellow")

    def say(self, text: str, style: str | None = None) -> None:
        """Print one line. style: for a terminal."""
        print(text, flush=True)


class Pool:
    """A pool that executes jobs in their order, as many at a time as there are slots."""

    def __init__(
        self,
        jobs: Sequence[Job],
        slots: Sequence[Slot],
        queue: Queue,
        listener: Log,
        *,
        patience: float = math.inf,
        processes: ForkServer | None = None,
    ) -> None:
        """queue: of the jobs, which records that they are cancelled.

        patience: seconds after a signal in which runs have to end; then they are killed.
        """
        self.jobs, self.queue, self.listener = list(jobs), queue, listener
        self._waiting: deque[Job] = deque(jobs)
        self._free: deque[Slot] = deque(slots)
        self._running: dict[int, tuple[Job, Slot]] = {}
        self._processes = processes or ForkServer()
        self._patience, self._asked = patience, math.inf
        self._presses, self._checked_cancelled = 0, 0.0
        self._orphans: list[tuple[Job, Slot]] = []
        """Runs that live while the server that started them does not."""
        self._paused: tuple[float, str] | None = None
        """The time since which the disk refuses writes, and the reason."""
        self._probe_next = self._again = 0.0
        self._unsaid: list[tuple[Job, str]] = []
        self._timeout: float | None = queue.settings.get("run_timeout_min")
        self._checked_progress = 0.0
        self._memory_kills = memory_kills()

    def run(self, interruption: Interruption) -> None:
        """Run until each job has an outcome. After a signal no run starts, and those that run get it too."""
        self._signals, self._is_prepared = interruption.signals, False
        while self._waiting or self._running or self._orphans:
            try:
                if interruption.requested:
                    self._forward(interruption.number)
                self._drop_cancelled()
                self._watch_disk()
                self._end_hanging()
                self._start_waiting(interruption)
                wait(list(self._running), timeout=LOOK_EVERY)
                self._collect()
                self.listener.refresh(self.jobs)
            except KeyboardInterrupt:  # pressed again: stop at once; a third time: kill
                self._presses = max(2, self._presses + 1)
                self._forward(signal.SIGINT if self._presses == 2 else signal.SIGKILL)

    # --- the disk

    def _watch_disk(self) -> None:
        """Start no more runs after the disk has refused writes for too long."""
        now = time.monotonic()
        if now < self._probe_next:
            return
        self._probe(now)
        if self._paused and now - self._paused[0] >= PATIENCE:
            self._drop(list(self._waiting), "interrupted", self._paused[1])

    def _drop(self, jobs: Sequence[Job], outcome: str, detail: str = "") -> None:
        """Give up jobs that wait."""
        for job in jobs:
            self._waiting.remove(job)
            job.outcome, job.detail = outcome, detail
            self.listener.report_end(job)

    def _probe(self, now: float) -> None:
        reason = refusal(self.queue)
        self._probe_next = now + (PROBE_EVERY if reason is None else PROBE_REFUSED_EVERY)
        if reason is not None and self._paused is None:
            self._paused = now, reason
            self.listener.report_pause(reason)
        elif reason is None and self._paused is not None:
            self._paused = None
            self.listener.report_pause(None)
        for unsaid in list(self._unsaid) if reason is None else ():
            self._unsaid.remove(unsaid)
            self._note(*unsaid)

    def _may_start(self) -> bool:
        """True if the disks take writes, which the next run needs."""
        if self._paused or (now := time.monotonic()) < self._again:
            return False
        self._probe(now)
        return self._paused is None

    def _note(self, job: Job, reason: str) -> None:
        """Record why a run has ended that could not record it itself; later if the disk refuses that too."""
        try:
            record_reason(job.path, job.attempts, reason)
        except DiskError:
            self._unsaid.append((job, reason))

    # --- runs that hang or are killed

    def _end_hanging(self) -> None:
        """Kill each run that has made no progress for too long: one that hangs may ignore other signals."""
        now = time.monotonic()
        if self._timeout is None or now - self._checked_progress < CANCELLED_WITHIN:
            return
        self._checked_progress = now
        for job in self._running_jobs():
            mark = now if self._paused else progress_mark(job.path)
            if mark != job.mark:
                job.mark, job.moved = mark, now
            elif now - job.moved >= 60 * self._timeout:
                job.hung = True
                self._send(job, signal.SIGKILL)

    def _explain(self, job: Job) -> None:
        """Record why a run was killed, if that is known."""
        before, self._memory_kills = self._memory_kills, memory_kills()
        if job.hung:
            job.outcome, job.detail = "interrupted", f"no progress for {self._timeout:g} min"
            self._note(job, job.detail)
        elif job.detail == "SIGKILL" and before is not None and before < (self._memory_kills or 0):
            job.detail = "SIGKILL, as the kernel ended a process for lack of memory"
            self._note(job, "out of memory")

    # --- processes

    def _start_waiting(self, interruption: Interruption) -> None:
        """Start jobs in the free slots, each after those before it in its chain."""
        while self._free and not interruption.requested and (job := self._startable()) and self._may_start():
            self._waiting.remove(job)
            self._start(job, self._free.popleft())

    def _startable(self) -> Job | None:
        busy = {job.chain for job in self._running_jobs() if job.chain}
        return next((job for job in self._waiting if job.chain not in busy), None)

    def _start(self, job: Job, slot: Slot) -> None:
        arguments = (job.path, job.attempts, slot.environment, slot.threads, self._signals)
        try:
            if not self._is_prepared:
                self._processes.prepare(self._signals)
                self._is_prepared = True
            process = self._processes.start(job.path.name, arguments)
        except (OSError, EOFError) as error:  # no more processes, or its server was killed
            self._is_prepared = False
            self._free.appendleft(slot)
            if not self._start_later(job):
                job.outcome = "interrupted"
                job.detail = f"cannot start a process: {error or 'its server has ended'}"
                self.listener.report_end(job)
            return
        job.process, job.began = process, time.monotonic()
        job.mark, job.moved = None, job.began
        job.pid, job.born = process.pid, process_start(process.pid) if process.pid else None
        self._running[process.sentinel] = (job, slot)
        self.listener.report_start(job)

    def _start_later(self, job: Job) -> bool:
        """True if this run starts again before the others, after a delay that doubles each time."""
        if job.signals_sent or job.detail or job.tries >= TRIES:
            return False
        job.tries += 1
        self._again = time.monotonic() + PROBE_REFUSED_EVERY * 2 ** (job.tries - 1)
        job.attempts = max(job.attempts, attempts_of(job.path))
        self._waiting.appendleft(job)
        return True

    def _collect(self) -> None:
        for sentinel in [s for s in wait(list(self._running), timeout=0) if isinstance(s, int)]:
            job, slot = self._running.pop(sentinel)
            assert job.process is not None
            job.process.join()
            status = job.process.exitcode or 0
            job.process.close()
            job.process = None
            if status == SERVER_LOST:
                self._is_prepared = False
                self._orphans.append((job, slot))
            else:
                self._end(job, slot, status)
        for orphan in [each for each in self._orphans if not each[0].lives]:
            self._orphans.remove(orphan)
            self._end(*orphan, None)

    def _end(self, job: Job, slot: Slot, status: int | None) -> None:
        """Record the end of a job. status: None if it is unknown, because the server that knew it was killed."""
        assert job.began is not None
        job.seconds, job.pid = time.monotonic() - job.began, None
        self._free.append(slot)
        begun = has_begun(job.path, job.attempts)
        if (status == REFUSED or (status is None and not begun)) and self._start_later(job):
            return
        wanted = job.detail
        job.outcome, job.detail = outcome(job.path, status, job.attempts)
        asked = (job.signals_sent or wanted) and status not in (DONE, HELD, -signal.SIGKILL, None)
        handled = begun and status is not None and status > 0
        if asked and not handled:
            job.outcome, job.detail = "interrupted", ""
        if wanted and job.outcome in ("interrupted", "killed"):
            job.outcome, job.detail = "cancelled", ""
        if job.outcome == "killed" and not job.signals_sent:
            self._explain(job)
        if status == REFUSED:
            self._note(job, job.detail)
        self.listener.report_end(job)

    def _drop_cancelled(self) -> None:
        if time.monotonic() - self._checked_cancelled < CANCELLED_WITHIN:
            return
        self._checked_cancelled, cancelled = time.monotonic(), set[str]()
        with contextlib.suppress(RecordError):  # it is read again in two seconds
            cancelled = self.queue.cancelled_runs()
        self._drop([job for job in self._waiting if job.path.name in cancelled], "cancelled")
        for job in self._running_jobs():
            if job.path.name in cancelled:
                job.detail = "cancelled"
                self._send(job, signal.SIGTERM)  # at each look, because it may just begin

    def _forward(self, number: int) -> None:
        """Resend the signal at every look until a run handles it; SIGINT only once, because a second one aborts."""
        for job in self._waiting:
            job.outcome = "not started"
        self._waiting.clear()
        self._asked = min(self._asked, time.monotonic())
        if time.monotonic() - self._asked > self._patience:
            number = signal.SIGKILL
        for job in self._running_jobs():
            listens = number == signal.SIGINT and has_begun(job.path, job.attempts)
            if not listens or job.signals_sent < max(1, self._presses):
                job.signals_sent += 1
                self._send(job, number)

    def _running_jobs(self) -> list[Job]:
        return [job for job, _ in (*self._running.values(), *self._orphans)]

    def _send(self, job: Job, number: int) -> None:
        if job.pid is not None and (job.process is not None or job.lives):
            with contextlib.suppress(ProcessLookupError):
                os.kill(job.pid, number)


def refusal(queue: Queue) -> str | None:
    """The reason why its own disk, or that of temporary files, takes no writes; None: both take them."""
    try:
        return why_refused(queue.runs_dir) or why_refused(Path(tempfile.gettempdir()))
    except OSError as error:
        return str(error)
