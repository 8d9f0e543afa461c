"""launch.py as a process to be stopped, forked from one that has imported the libraries, so that it starts at once.

Importing torch and its like takes longer than a small run. Nothing of vlae is imported ahead, so what the process
does is what the command does.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

LAUNCH = Path(__file__).parents[1] / "launch.py"
LIBRARIES = [
    "hydra",
    "pydantic",
    "rich.progress",
    "sklearn.datasets",
    "torch._dynamo",
    "torchvision.utils",
    "zuko",
]

forking = multiprocessing.get_context("forkserver")
forking.set_forkserver_preload(LIBRARIES)


def launch(arguments: Sequence[str]) -> None:
    """``python launch.py <arguments>`` in this process, telling every step and every four images in status.json."""
    sys.path.insert(0, str(LAUNCH.parent))
    from vlae.estimation import importance
    from vlae.runs import attempts

    attempts.HEARTBEAT_EVERY, importance.MAX_GROUP = 0.0, 4
    sys.argv = [str(LAUNCH), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


class Launched:
    """A process that does this in ``place``."""

    def __init__(self, place: Path, arguments: Sequence[str]) -> None:
        descriptor, output = tempfile.mkstemp(".txt", dir=place)
        os.close(descriptor)
        self.output = Path(output)
        self._process = forking.Process(target=_launch_into, args=(place, self.output, arguments))
        self._process.start()
        self.pid = self._process.pid

    @property
    def exit_status(self) -> int | None:
        """As a shell sees it, but for signals: minus their number. None: it is at work."""
        return self._process.exitcode

    def send(self, number: signal.Signals) -> None:
        assert self.exit_status is None, self.output.read_text()
        os.kill(self.pid, number)

    def wait(self, seconds: float = 300) -> str:
        """What it printed until its end."""
        self._process.join(seconds)
        assert self.exit_status is not None, self.output.read_text()
        return self.output.read_text()


def _launch_into(place: Path, output: Path, arguments: Sequence[str]) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(place)
    launch(arguments)


if __name__ == "__main__":
    launch(sys.argv[1:])
