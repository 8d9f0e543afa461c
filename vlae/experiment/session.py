"""A run under execution: its claim, its output, and what it meets meanwhile: signals and full disks."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from vlae.runs.attempts import Attempt
from vlae.runs.directory import RunDirectory
from vlae.system.console import Reporter, call_on_progress, open_log
from vlae.system.disk import DiskError, Patience, notice, patient, refusal_in
from vlae.system.interruption import Interrupted, Interruption
from vlae.system.streams import do_not_wait


@dataclass(frozen=True)
class Session:
    """The things that the parts of a run write to, report to, and stop for."""

    directory: RunDirectory
    attempt: Attempt
    interruption: Interruption
    reporter: Reporter


@contextmanager
def claim_run(directory: RunDirectory, patience: Patience, captured: bool) -> Iterator[Attempt]:
    """Claim the run; inside, this process executes it and waits for a disk that refuses writes.

    ``captured``: everything that this process prints goes to the attempt's log. RunHeld by another process.
    """
    do_not_wait()
    patience.say = lambda reason: (
        None if captured or reason is None else print(notice(reason), file=sys.stderr)
    )
    with (
        patient(patience),
        directory.claim() as attempt,
        _redirect_output(attempt.log) if captured else nullcontext(),
    ):
        patience.say = attempt.waits
        yield attempt


@contextmanager
def report_progress(
    directory: RunDirectory, attempt: Attempt, patience: Patience, quiet: bool
) -> Iterator[Session]:
    """Show and record progress and waiting in a ``with`` block, stop the run at signals, and explain its end."""
    with (
        Interruption() as interruption,
        Reporter(attempt.log, quiet) as reporter,
        _report_waiting(patience, attempt, interruption, reporter),
        call_on_progress(attempt.note_progress),
        _explain_end(directory, patience, reporter),
    ):
        yield Session(directory, attempt, interruption, reporter)


@contextmanager
def _explain_end(directory: RunDirectory, patience: Patience, reporter: Reporter) -> Iterator[None]:
    """Report an interruption of the ``with`` block; an error caused by a full disk becomes a DiskError."""
    try:
        yield
    except Interrupted as interrupted:
        text = f"{interrupted}, saved in {directory.path}; the same command continues from here"
        if patience.refusal:
            text = f"{interrupted}: {patience.refusal}; the same command continues from the last checkpoint"
        reporter.line(text)
        raise
    except Exception as error:
        if (reason := refusal_in(error)) and not isinstance(error, DiskError):
            raise DiskError(f"{directory.path}: {error}", reason) from error
        raise


@contextmanager
def _report_waiting(
    patience: Patience, attempt: Attempt, interruption: Interruption, reporter: Reporter
) -> Iterator[None]:
    """Report each wait for the disk in the ``with`` block; a signal ends it."""

    def say(reason: str | None) -> None:
        reporter.line(notice(reason) if reason else "writes are taken again", style="yellow")
        attempt.waits(reason)

    patience.say, patience.check = say, interruption.check
    try:
        yield
    finally:
        patience.say, patience.check = attempt.waits, lambda: None


@contextmanager
def _redirect_output(log: Path) -> Iterator[None]:
    """Append standard output and error of this process and its children to a file."""
    kept, file = (os.dup(1), os.dup(2)), open_log(log)
    try:
        _flush()
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        try:
            yield
        except Exception:
            traceback.print_exc()
            raise
    finally:
        _flush()
        for stream, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, stream)
            os.close(copy)
        file.close()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # a full disk costs the output, not the run
            stream.flush()
