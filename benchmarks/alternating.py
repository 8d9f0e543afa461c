"""Commands beside each other in turns, so that any other load on the machine slows each of them alike.

A machine that others use too changes its speed by half within minutes: the ratio of two commands
one after the other measures that, and of two at once also their competition. In turns each has all cores for
a quarter of a second.
"""

import contextlib
import resource
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import time

import psutil

from vlae.runs.snapshot import SOURCE

TURN = 0.25
"""Seconds."""
ENDS_WITHIN = 20.0
"""Seconds that a command has where another has failed."""


@dataclass
class Took:
    """The time and memory that one command took."""

    turns: list[tuple[float, float]] = field(default_factory=list)
    """Begin and end, in seconds since 1970."""
    processor: float = 0.0
    """Seconds of processor time, of the command and all processes that it has waited for."""

    def between(self, begin: float, end: float) -> float:
        """Seconds of its turns from ``begin`` to ``end``, in seconds since 1970."""
        return sum(max(0.0, min(last, end) - max(first, begin)) for first, last in self.turns)


def in_turns(commands: Mapping[str, Sequence[str]], environment: Mapping[str, str]) -> dict[str, Took]:
    """Run commands in turns, by name; the first begins. RuntimeError: one of them fails."""
    waiting, took = {}, {name: Took() for name in commands}
    try:
        for name, command in commands.items():
            waiting[name] = subprocess.Popen(
                command, cwd=SOURCE, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            _send(waiting[name].pid, psutil.Process.suspend)
        while waiting:
            for name, process in list(waiting.items()):
                _turn(process, took[name], alone=len(waiting) == 1)
                if process.returncode is not None:
                    del waiting[name]
                if process.returncode:
                    raise RuntimeError(f"{process.args} ended with status {process.returncode}")
    finally:
        for process in waiting.values():
            process.terminate()
            _send(process.pid, psutil.Process.resume)  # what it has started would wait in its own session
        for process in waiting.values():
            _end(process)
    return took


def _turn(process: subprocess.Popen[bytes], took: Took, *, alone: bool) -> None:
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time()
    _send(process.pid, psutil.Process.resume)
    try:
        process.wait(TURN)
    except subprocess.TimeoutExpired:
        if not alone:
            _send(process.pid, psutil.Process.suspend)
    took.turns.append((begin, time()))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)  # more of it, if the command has ended in this turn
    took.processor += after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(ENDS_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _send(pid: int, act: Callable[[psutil.Process], None]) -> None:
    """Act on the process and its descendants, parents first; a process that starts meanwhile escapes one turn."""
    try:
        process = psutil.Process(pid)
        tree = [
            process,
            *process.children(recursive=True),
        ]  # first, so that all processes get the signal at once
    except psutil.NoSuchProcess:
        return
    for each in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            act(each)
