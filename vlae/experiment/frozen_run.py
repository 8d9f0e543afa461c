"""A frozen run directory, executed by a worker: its exit status says how that ended."""

import signal
import sys
import traceback
from pathlib import Path

from vlae.errors import UserError
from vlae.experiment.run import execute
from vlae.experiment.start import check_code, prepare_frozen
from vlae.runs.attempts import RunHeld
from vlae.runs.directory import RunDirectory
from vlae.runs.rerun import run_to_replace
from vlae.system.disk import DiskError
from vlae.system.interruption import Interrupted

DONE, FAILED, HELD, REFUSED = 0, 1, 75, 74
"""Exit statuses of `work`, besides 128 + the number of a signal; REFUSED: the disk takes no writes."""


def work(path: Path, attempts: int, threads: int | None = None) -> int:
    """Execute a frozen run directory: the record says everything, and no terminal is needed.

    attempts: their number when this start was planned. A run that has failed since then is not started again; one that
    was interrupted continues. threads: CPU threads, if the run does not set them.
    Returns DONE; HELD: done since, or executed by another process; REFUSED by the disk; FAILED; 128 + a signal.
    """
    directory = RunDirectory(path)
    if (status := _reason_not_to_start(directory, attempts)) is not None:
        return status
    try:
        execute(directory, lambda: prepare_frozen(directory.config(), threads), captured=True)
    except RunHeld:
        return HELD
    except DiskError:
        return REFUSED
    except Interrupted as interrupted:
        return 128 + interrupted.number
    except KeyboardInterrupt:  # a second Ctrl-C
        return 128 + signal.SIGINT
    except Exception:
        # no record holds errors before the claim or after the results
        if directory.state() != "failed":
            traceback.print_exc()
        return FAILED
    return DONE


def _reason_not_to_start(directory: RunDirectory, attempts: int) -> int | None:
    """The status of a `work` that cannot start: no run, or no code or libraries to execute it. None: it can."""
    path = directory.path
    if not (path / "config.yaml").is_file():
        if (replaced := run_to_replace(path)) and (replaced / "results.json").is_file():
            return HELD  # a job that was requeued too late: its run has replaced the old one
        print(f"vlae: {path} is not a run directory (moved or deleted?)", file=sys.stderr)
        return FAILED
    if directory.attempts != attempts and (state := directory.state()) in ("failed", "done"):
        return FAILED if state == "failed" else HELD
    try:
        check_code()  # the run stays as it is, for the next launch
    except UserError as error:
        print(f"vlae: {path.name} not started: {error}", file=sys.stderr, flush=True)
        return FAILED
    return None
