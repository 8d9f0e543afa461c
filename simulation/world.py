"""Processes in virtual time, of which one runs at a moment: one random generator decides which, and who dies.

A process is a thread that holds the baton until it sleeps, ends, or reaches a point where others may act: before each
change of the file system and each command of Slurm. A process that is killed does nothing more: every point raises
`Killed` in it, so that its files stay as they are.
"""

import heapq
import math
import os
import signal
import threading
from collections.abc import Callable
from random import Random
from typing import Any

EPOCH = 1_700_000_000.0
"""The start of every history, in seconds since 1970."""
SWITCH = 0.06
"""Part of the points at which another process may act first."""


class Killed(BaseException):
    """The process is dead; whatever its code still tries is not done."""


class Violation(AssertionError):
    """A law was broken."""


class Process:
    """A process on a host, from its start to its end."""

    def __init__(
        self,
        world: "World",
        name: str,
        host: str,
        environment: dict[str, str],
        body: Callable[[], Any],
        doom: int | None,
    ) -> None:
        self.world, self.name, self.host, self.environment = world, name, host, environment
        self.pid = world.next_pid()
        self.began = world.now
        self.alive, self.status = True, 0
        self.error: BaseException | None = None
        self.handlers: dict[int, Any] = {}
        self.blocked: set[int] = set()
        self.pending: list[int] = []
        self.token = ""
        """The token of the queue for which it works."""
        self.launched = world.now
        """The time of the command that started it."""
        self.unseen = False
        """Slurm has lost sight of it, and does not know that it lives."""
        self.informed = math.inf
        """The time of Slurm's last answer about its job; infinite: it has not asked."""
        self.on_end: list[Callable[[], None]] = []
        self.points, self.doom, self.doomed_by = 0, doom, signal.SIGKILL
        self._body = body
        self._sleeps = 0
        self.worker: _Worker | None = None

    def __repr__(self) -> str:
        return f"{self.name} (process {self.pid} on {self.host})"

    def send(self, number: int) -> None:
        """A signal reaches it: at once where it sleeps, otherwise at its next point."""
        handler = self.handlers.get(number, signal.SIG_DFL)
        if not self.alive or (handler == signal.SIG_IGN and number != signal.SIGKILL):
            return
        if number == signal.SIGKILL or (handler == signal.SIG_DFL and number not in self.blocked):
            self.world.log(f"{self} dies of {signal.Signals(number).name}")
            self.world.end(self, -number)
            return
        if number not in self.pending:
            self.pending.append(number)
        if number not in self.blocked:
            self.world.wake(self)

    def take_signals(self) -> None:
        """Calls the handlers of the signals that have arrived; they may raise."""
        for number in [n for n in self.pending if n not in self.blocked]:
            self.pending.remove(number)
            handler = self.handlers.get(number, signal.SIG_DFL)
            if callable(handler):  # signal.SIG_DFL and SIG_IGN are none
                handler(number, None)
            elif handler == signal.SIG_DFL:
                self.world.log(f"{self} dies of {signal.Signals(number).name}, which it had blocked")
                self.world.end(self, -number)
                raise Killed


class World:
    """All processes of one history."""

    def __init__(self, seed: int, root: str) -> None:
        self.random = Random(seed)
        self.names = Random(seed + 1)
        """Random names, which must be unique and decide nothing."""
        self.root = root
        self.now = 0.0
        self.current: Process | None = None
        self.history: Any = None
        """The history in it, which answers for Slurm and for the pools."""
        self.quiet = False
        """True while no actor may act at a point: the code that runs is seen as one moment."""
        self.looking = False
        """True while the code that runs must not write."""
        self.processes: dict[tuple[str, int], Process] = {}
        self.journal: list[tuple[float, str]] = []
        self.violation: Violation | None = None
        self.disturbed = True
        self.steps = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._ready: list[Process] = []
        self._asleep: dict[Process, int] = {}
        self._count, self._pids = 0, 1000
        self._main = threading.Lock()
        self._main.acquire()

    @property
    def acting(self) -> Process:
        """The process that holds the baton. AssertionError: none does."""
        assert self.current is not None
        return self.current

    # --- what processes ask for

    def point(self, what: str, *, writes: bool = True) -> None:
        """Here others may act, and the process may die. what: it is about to do."""
        process = self.current
        if process is None:
            return
        if not process.alive:
            raise Killed
        if writes and self.looking:
            self.violate(f"looking writes: {what.replace(self.root, '')}")
        if self.quiet:
            return
        self.steps += 1
        process.points += 1
        if process.doom is not None and process.points >= process.doom and self.disturbed:
            process.doom = None
            name = signal.Signals(process.doomed_by).name
            self.log(f"{process} gets {name} before: {what.replace(self.root, '')}")
            process.send(process.doomed_by)
            if not process.alive:
                raise Killed
        if self.random.random() < SWITCH:
            self._ready.append(process)
            self._pause(process)
        if process.pending:
            process.take_signals()

    def sleep(self, seconds: float) -> None:
        """Sleep; a signal ends it early."""
        process = self.current
        assert process is not None
        if not process.alive:
            raise Killed
        if self.quiet:
            raise RuntimeError("nothing sleeps in a moment")
        self._count += 1
        mark = self._asleep[process] = self._count
        self.at(self.now + seconds, lambda: self.wake(process, mark))
        self._pause(process)
        if process.pending:
            process.take_signals()

    def sleep_whole(self, seconds: float) -> None:
        """Sleep as ``time.sleep`` does: signals are handled, and the sleep continues."""
        until = self.now + seconds
        self.sleep(seconds)
        while self.now < until - 1e-9:
            self.sleep(until - self.now)

    def violate(self, text: str) -> None:
        """A law is broken: the history ends here."""
        self.log(f"LAW BROKEN: {text}")
        self.violation = self.violation or Violation(text)
        if self.current is not None:
            self.end(self.current, -signal.SIGKILL)
            raise Killed
        raise self.violation

    def log(self, text: str) -> None:
        self.journal.append((self.now, " ".join(text.split())))

    # --- what the history does

    def start(
        self,
        name: str,
        host: str,
        environment: dict[str, str],
        body: Callable[[], Any],
        doom: int | None = None,
    ) -> Process:
        process = Process(self, name, host, environment, body, doom)
        self.processes[host, process.pid] = process
        process.worker = _idle.pop() if _idle else _Worker()
        process.worker.process = process
        self._ready.append(process)
        return process

    def at(self, time: float, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, act))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        self.at(self.now + seconds, act)

    def wake(self, process: Process, mark: int | None = None) -> None:
        if mark in (None, self._asleep.get(process)) and self._asleep.pop(process, None) is not None:
            self._ready.append(process)

    def end(self, process: Process, status: int) -> None:
        """The process is dead from now on; a thread of it that waits leaves without a trace."""
        if not process.alive:
            return
        process.alive, process.status = False, status
        for act in process.on_end:
            self.at(self.now, act)
        if process is not self.current and process.worker is not None:
            self.wake(process)  # so that its thread unwinds

    def run(self, until: float, over: Callable[[], bool] = lambda: False) -> None:
        """Lets things happen until then, or until ``over``."""
        while self.violation is None and not over():
            if self._ready:
                at = self.random.randrange(len(self._ready)) if len(self._ready) > 1 else 0
                self._resume(self._ready.pop(at))
            elif self._events and self._events[0][0] <= until:
                self.now, _, act = heapq.heappop(self._events)
                act()
            else:
                self.now = max(self.now, until)
                break
        if self.violation is not None:
            raise self.violation

    def close(self) -> None:
        """Ends all processes, so that no thread is left waiting."""
        self.violation = self.violation or Violation("closed")
        for process in list(self.processes.values()):
            process.on_end.clear()
            self.end(process, -signal.SIGKILL)
        while self._ready:
            self._resume(self._ready.pop())

    def alive(self, host: str, pid: int) -> Process | None:
        process = self.processes.get((host, pid))
        return process if process is not None and process.alive else None

    def next_pid(self) -> int:
        self._pids += 1
        return self._pids

    def moment(self, process: Process, act: Callable[[], Any]) -> None:
        """Another thread of the process does something, as one moment."""
        before, environment, quiet = self.current, os.environ, self.quiet
        self.current, self.quiet = process, True
        os.environ = process.environment  # type: ignore[assignment]  # noqa: B003  (a dictionary does for it)
        try:
            act()
        except Killed:  # with the violation that killed it
            pass
        finally:
            self.current, self.quiet = before, quiet
            os.environ = environment  # noqa: B003

    # --- the baton

    def _resume(self, process: Process) -> None:
        if process.worker is None:
            return
        kept = os.environ
        self.current, os.environ = process, process.environment  # type: ignore[assignment]  (as above)
        process.worker.go.release()
        self._main.acquire()
        self.current, os.environ = None, kept

    def _pause(self, process: Process) -> None:
        worker = process.worker
        assert worker is not None
        self._main.release()
        worker.go.acquire()
        if not process.alive:
            raise Killed

    def live(self, process: Process, worker: "_Worker") -> None:
        """Run the thread of a process from its first moment to its last."""
        status = 0
        try:
            if process.alive:
                process._body()
        except Killed:
            status = process.status
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                self.log(f"{process} says: {end.code}")
        except KeyboardInterrupt:
            status = 128 + signal.SIGINT
        except BaseException as error:
            status, process.error = 1, error
            if process.alive:
                text = f"{process} ends with {type(error).__name__}: {error}".replace(self.root, "")
                self.log(f"LAW BROKEN: {text}")
                self.violation = self.violation or Violation(text)
        process.worker = None
        self.end(process, status)
        _idle.append(worker)
        self._main.release()


class _Worker(threading.Thread):
    """A thread that lends itself to one process after the other."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.go = threading.Lock()
        self.go.acquire()
        self.process: Process | None = None
        self.start()

    def run(self) -> None:
        while True:
            self.go.acquire()
            process = self.process
            assert process is not None
            world = process.world
            self.process = None
            world.live(process, self)


_idle: list[_Worker] = []
