"""What a run has told: the log of its last attempt."""

import time
from collections.abc import Callable
from pathlib import Path

from vlae.attempts import last_number
from vlae.console import counted
from vlae.files import RecordError, StrPath, check_inside, read_bytes
from vlae.launching import sweeps
from vlae.launching.states import Observer
from vlae.record import RunDirectory, find

LOOK_EVERY = 0.5  # seconds
WAIT_EVERY = 2.0  # while it is not under way
MOST_NAMED = 10
"""Runs of a sweep that are named to choose from."""


def log_of(run: RunDirectory) -> Path | None:
    """None: it was never started."""
    number = last_number(run.path / "attempts")
    return check_inside(run.path, "attempts", str(number)) / "log.txt" if number else None


def run_of(runs_dir: StrPath, name: str) -> RunDirectory:
    """The run that a name means. RecordError: it means none, or a sweep, which has several."""
    try:
        return find(runs_dir, name)
    except RecordError:
        sweep = sweeps.recall(runs_dir, name)
        if sweep is None:
            raise
    of_sweep = [f"\n  vlae logs {run_id}  {label}".rstrip() for run_id, label in sweep["runs"].items()]
    more = "\n  ..." if len(of_sweep) > MOST_NAMED else ""
    count = counted(len(of_sweep), "run")
    raise RecordError(
        f"{name!r} is a sweep of {count}, each with a log of its own:{''.join(of_sweep[:MOST_NAMED])}{more}"
    )


def print_log(run: RunDirectory, tell: Callable[[str], object]) -> None:
    """The log of the last attempt."""
    log, name = log_of(run), run.path.name
    if log is not None:
        tell(_text(log, 0)[0])
    elif Observer(run.path.parent).state(run.path).state == "queued":
        tell(f"{name} waits in a queue, and has told nothing yet: `vlae logs {name} -f` waits with it\n")
    else:
        tell(f"{name} was never started: the command that made it starts it\n")


def follow_log(run: RunDirectory, tell: Callable[[str], object]) -> None:
    """Until the run is neither waiting nor under way; the attempts that follow included."""
    log, at = log_of(run), 0
    while True:
        state = _state(run)
        if (latest := log_of(run)) != log:
            _tell_rest(log, at, tell)  # what was left of it
            log, at = latest, 0
        at = _tell_rest(log, at, tell)
        if state not in ("queued", "running"):
            if log is None:
                print_log(run, tell)
            return
        time.sleep(LOOK_EVERY if state == "running" else WAIT_EVERY)


def _state(run: RunDirectory) -> str:
    """Queues, and Slurm, are asked where the record alone does not say that it goes on."""
    state = run.state()
    return state if state in ("running", "done") else Observer(run.path.parent).state(run.path).state


def _tell_rest(log: Path | None, start: int, tell: Callable[[str], object]) -> int:
    if log is None:
        return 0
    text, end = _text(log, start)
    tell(text)
    return end


def _text(log: Path, start: int) -> tuple[str, int]:
    content = read_bytes(log) or b""
    return content[start:].decode("utf-8", "replace"), len(content)
