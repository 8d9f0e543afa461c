"""The processes that a pool starts, in place of those of multiprocessing."""

import signal
from collections.abc import Callable, Sequence
from typing import Any

from simulation.world import Process
from vlae.launching.worker import run_queue
from vlae.system.interruption import SIGNALS


class Child:
    """A stand-in for a ``multiprocessing`` process."""

    def __init__(self, process: Process) -> None:
        self.process, self.pid, self.sentinel = process, process.pid, process.pid

    @property
    def exitcode(self) -> int | None:
        return None if self.process.alive else self.process.status

    def join(self) -> None:
        pass

    def close(self) -> None:
        pass


class Children:
    """The processes of all pools of a history."""

    def __init__(self, history: Any) -> None:
        self.history = history

    def start(self, name: str, body: Callable[[], Any]) -> Child:
        world, parent = self.history.world, self.history.world.current
        process = world.start(
            f"run {name}", parent.host, dict(parent.environment), body, self.history.doom(0.12)
        )
        process.handlers = dict.fromkeys(SIGNALS, signal.SIG_IGN)  # as the server that it is forked from
        process.on_end.append(lambda: world.wake(parent))
        process.token, process.unseen = parent.token, parent.unseen
        for slurm in self.history.clusters.values():
            for job in slurm.jobs:
                if parent in job.processes:
                    job.processes.append(process)
        return Child(process)

    def run_queue(self, queue: Any) -> int:
        """The process that works a local queue off, in a session of its own; the command waits for it."""
        world, parent = self.history.world, self.history.world.current
        process = world.start(
            f"queue {queue.token}",
            parent.host,
            dict(parent.environment),
            lambda: self._body(queue),
            self.history.doom(0.1),
        )
        process.token = queue.token
        process.on_end.append(lambda: world.wake(parent))
        while process.alive:
            world.sleep(1e6)
        return process.status

    def _body(self, queue: Any) -> None:
        raise SystemExit(run_queue(queue))

    def wait(self, sentinels: Sequence[int], timeout: float | None) -> list[int]:
        """Those that have ended; where there is none, after the timeout, an end or a signal."""
        world = self.history.world
        host = world.current.host
        if timeout and not [pid for pid in sentinels if world.alive(host, pid) is None]:
            world.sleep(timeout)
        return [pid for pid in sentinels if world.alive(host, pid) is None]
