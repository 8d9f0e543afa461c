"""The process beside a run that mirrors it: ``python -m vlae.trackers.mirror RUN_DIR``.

It reads the run directory and nothing else, so a run neither waits for it nor fails with it, and it ends when its
standard input does: with the attempt, or with the process of the attempt.
"""

import atexit
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, Protocol, runtime_checkable

from vlae.runs.directory import RunDirectory
from vlae.system.streams import guard
from vlae.trackers.run_history import RunHistory, to_wandb

LOOK_EVERY = 1.0  # seconds
NICE = 5  # below the run's priority, but high enough for the mirror to start on a busy machine


@runtime_checkable
class Mirror(Protocol):
    """A copy of a run elsewhere. Each call may fail; then this mirror ends."""

    def start(self) -> None:
        """The first call."""

    def catch_up(self) -> None:
        """Mirror what is new in the run directory."""

    def finish(self) -> None:
        """Mirror the end of the attempt, and the results if there are any."""

    def give_up(self, error: Exception) -> None:
        """The last call, after another has failed: what was mirrored stays."""


def mirrors_of(run_history: RunHistory) -> list[Mirror]:
    """The mirrors that the run's configuration asks for."""
    found: list[Mirror] = []
    if run_history.settings.tensorboard:  # first, because it does not wait for a server
        from vlae.trackers.tensorboard_mirror import EventFiles

        found.append(EventFiles(run_history))
    if to_wandb(run_history.settings):
        from vlae.trackers.wandb_mirror import WandbMirror

        found.append(WandbMirror(run_history))
    return found


def run_mirrors(mirrors: list[Mirror], over: Callable[[], bool]) -> bool:
    """Update the mirrors until ``over()``, which is called once per second; True if all are complete."""
    living = [mirror for mirror in mirrors if _succeeds(mirror, mirror.start)]
    last = False
    while living and not last:
        last = over()  # before the last look, so that nothing is missed
        living = [mirror for mirror in living if _succeeds(mirror, mirror.catch_up)]
    finished = [mirror for mirror in living if _succeeds(mirror, mirror.finish)]
    return len(finished) == len(mirrors)


def _succeeds(mirror: Mirror, step: Callable[[], None]) -> bool:
    try:
        step()
    except Exception as error:  # services and their clients raise anything
        traceback.print_exc()
        try:
            mirror.give_up(error)
        except Exception:
            traceback.print_exc()
        return False
    return True


def input_has_ended() -> bool:
    """Wait until the next look; True if the standard input of this process has ended."""
    ready, _, _ = select.select([0], [], [], LOOK_EVERY)
    return bool(ready) and not os.read(0, 4096)


def main() -> int:
    """Mirror the run that the command line names until standard input ends; the exit status."""
    guard()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # meant for the run, whose end ends this process
    os.nice(NICE)
    run_history = RunHistory(RunDirectory(Path(sys.argv[1])))
    return 0 if run_mirrors(mirrors_of(run_history), input_has_ended) else 1


def _end_process(status: int) -> NoReturn:
    """End without the 0.2 s of the interpreter's own shutdown, because the run waits for this process.

    The exit functions of clients run: they close logs and remove temporary files. ``atexit`` has no public way.
    """
    atexit._run_exitfuncs()  # pyright: ignore[reportAttributeAccessIssue]
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _end_process(main())
