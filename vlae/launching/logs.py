"""The log of the last attempt of a run."""

import codecs
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path

from vlae.launching import sweep_index
from vlae.launching.run_state import Observer
from vlae.runs.directory import RunDirectory, find
from vlae.system.console import count_of
from vlae.system.disk import RecordError
from vlae.system.files import StrPath, read_by

LOOK_EVERY = 0.5  # seconds
WAIT_EVERY = 2.0  # while it is not under way
MOST_NAMED = 10  # runs of a sweep that are named to choose from


def log_of(run: RunDirectory) -> Path | None:
    """The log of the last attempt; None: it was never started."""
    return run.attempt(number) / "log.txt" if (number := run.attempts) else None


def run_of(runs_dir: StrPath, name: str) -> RunDirectory:
    """The run that a name means. RecordError: it means none, or a sweep, which has several."""
    try:
        return find(runs_dir, name)
    except RecordError:
        if (sweep := sweep_index.read_sweep(runs_dir, name)) is None:
            raise
    commands = [f"\n  vlae logs {run_id}  {label}".rstrip() for run_id, label in sweep["runs"].items()]
    text = f"{name!r} is a sweep of {count_of(len(commands), 'run')}, each with a log of its own:"
    more = ["\n  ..."] if len(commands) > MOST_NAMED else []
    raise RecordError("".join([text, *commands[:MOST_NAMED], *more]))


def print_log(run: RunDirectory, write: Callable[[str], object]) -> None:
    """The log of the last attempt."""
    log, name = log_of(run), run.path.name
    if log is not None:
        write(GrowingLog(log).more())
    elif Observer(run.path.parent).state(run.path).state == "queued":
        write(f"{name} waits in a queue, and has no log yet: `vlae logs {name} -f` waits with it\n")
    else:
        write(f"{name} was never started: the command that made it starts it\n")


def stream_log(run: RunDirectory, write: Callable[[str], object]) -> None:
    """Print the log until the run neither waits nor runs, the attempts that follow included."""
    log = GrowingLog(log_of(run))
    while True:
        if (state := run.state()) not in ("running", "done"):  # queues and Slurm say if it waits
            state = Observer(run.path.parent).state(run.path).state
        if (latest := log_of(run)) != log.path:
            write(log.more())  # the rest of it
            log = GrowingLog(latest)
        write(log.more())
        if state not in ("queued", "running"):
            if log.path is None:
                print_log(run, write)
            return
        time.sleep(LOOK_EVERY if state == "running" else WAIT_EVERY)


class GrowingLog:
    """A log that is read piece by piece."""

    def __init__(self, path: Path | None) -> None:
        self.path, self._at = path, 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a piece may end within a character

    def more(self) -> str:
        """The text since the last call. Errors: as for `vlae.system.files.read_by`."""
        content = (read_by(self._read, self.path) if self.path else None) or b""
        self._at += len(content)
        return self._decoder.decode(content)

    def _read(self, file: FileIO) -> bytes:
        file.seek(self._at)
        return file.readall()
