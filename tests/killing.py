"""Kill a process at every step it takes on the file system: a law that must hold after SIGKILL at any moment.

Run by the tests in a Python of its own, which may fork.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

EVENTS = ("open", "os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "fsync")


def killed_at_every_step(
    prepare: Callable[[Path], None], act: Callable[[Path], None], check: Callable[[Path], None]
) -> int:
    """``act`` is killed before its first step, before its second, ...; ``check`` sees what is left each time.

    Returns the number of steps that ``act`` takes when it is left alone.
    """
    os.fsync = lambda descriptor: None  # what was written outlives its process without it
    step = 0
    while True:
        step += 1
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            prepare(folder)
            child = os.fork()
            if child == 0:
                _die_at(step)
                act(folder)
                os._exit(0)
            status = os.waitpid(child, 0)[1]
            check(folder)
            if not os.WIFSIGNALED(status):
                assert status == 0, "the act failed by itself"
                return step - 1


def _die_at(step: int) -> None:
    taken = 0

    def count(event: str, arguments: object) -> None:
        nonlocal taken
        if event in EVENTS:
            taken += 1
            if taken == step:
                os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = lambda descriptor: count("fsync", ())
    sys.addaudithook(count)
