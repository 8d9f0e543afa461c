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
NICE = 5
"""The run comes first; but on a machine that is full, the lowest priority would end the mirror before it begins."""


@runtime_checkable
class Mirror(Protocol):
    """Of a run, somewhere else. Each call may fail; then this mirror is given up."""

    def start(self) -> None:
        """Before anything else."""
        ...

    def catch_up(self) -> None:
        """Mirrors what the run directory tells and the mirror does not have yet."""
        ...

    def finish(self) -> None:
        """Mirrors how the attempt has ended, and the results where there are any."""
        ...

    def give_up(self, error: Exception) -> None:
        """The last call, where another has failed: what is there stays."""
        ...


def mirrors_of(run_history: RunHistory) -> list[Mirror]:
    """Those that the run's configuration asks for."""
    found: list[Mirror] = []
    if run_history.settings.tensorboard:  # first, since it waits for nobody, and nothing makes it later
        from vlae.trackers.tensorboard_mirror import EventFiles

        found.append(EventFiles(run_history))
    if to_wandb(run_history.settings.wandb, run_history.settings.mode):
        from vlae.trackers.wandb_mirror import Streamed

        found.append(Streamed(run_history))
    return found


def run_mirrors(mirrors: list[Mirror], over: Callable[[], bool]) -> bool:
    """Update the mirrors until the attempt is over, which is asked once a second; True if all are complete."""
    living = [mirror for mirror in mirrors if _succeeds(mirror, mirror.start)]
    last = False
    while living and not last:
        last = over()  # asked before the look, so that nothing is missed that came before the end
        living = [mirror for mirror in living if _succeeds(mirror, mirror.catch_up)]
    finished = [mirror for mirror in living if _succeeds(mirror, mirror.finish)]
    return len(finished) == len(mirrors)


def _succeeds(mirror: Mirror, step: Callable[[], None]) -> bool:
    try:
        step()
    except Exception as error:  # whatever a service or its client comes up with
        traceback.print_exc()
        try:
            mirror.give_up(error)
        except Exception:
            traceback.print_exc()
        return False
    return True


def input_has_ended() -> bool:
    """Of this process; waits for it until the next look."""
    ready, _, _ = select.select([0], [], [], LOOK_EVERY)
    return bool(ready) and not os.read(0, 4096)


def main() -> int:
    guard()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # those of the run, which ends and we with it
    os.nice(NICE)
    run_history = RunHistory(RunDirectory(Path(sys.argv[1])))
    return 0 if run_mirrors(mirrors_of(run_history), input_has_ended) else 1


def _end_process(status: int) -> NoReturn:
    """Do only what clients have registered for the end, which closes their logs and removes their temporary files.

    The run waits for this process, and an interpreter takes 0.2 s to end. ``atexit`` has no public function for it.
    """
    atexit._run_exitfuncs()  # pyright: ignore[reportAttributeAccessIssue]
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _end_process(main())
