"""The process of one run in a pool: its start, its progress, and its end."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from vlae.experiment.frozen_run import DONE, HELD, REFUSED, work
from vlae.runs.attempts import WAITING
from vlae.runs.directory import RunDirectory, read_status
from vlae.runs.lease import last_number
from vlae.runs.rerun import run_to_replace
from vlae.system.disk import DiskError, RecordError
from vlae.system.streams import guard

IMPORTED_AHEAD = [
    "vlae.experiment.train",
    "vlae.experiment.scoring",
    "vlae.experiment.results",
    "vlae.data",
    "torch._dynamo",
    "torchvision.utils",
    "zuko",
]
"""Modules that the server imports once for all runs."""


class ForkServer:
    """A server that has imported torch, from which the processes of a pool are forked."""

    def __init__(self) -> None:
        self._context: Any = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(IMPORTED_AHEAD)

    def prepare(self, signals: Sequence[int]) -> None:
        """Start the server. signals: those of the pool, which must not end what all processes share."""
        # Slurm signals every process of a job, and a signal that is not ignored ends the server. Neither call is
        # documented; the documented way starts both with the first run, and signals that arrive meanwhile would be lost
        kept = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
        try:
            with _silence_warnings():
                resource_tracker.ensure_running()
                forkserver.ensure_running()
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)

    def start(self, name: str, arguments: tuple[Any, ...]) -> BaseProcess:
        """A living process that does `_work` with these arguments."""
        process = self._context.Process(target=_work, args=arguments, name=name)
        with _silence_warnings():
            process.start()
        return process


@contextlib.contextmanager
def _silence_warnings() -> Iterator[None]:
    """Hide Python's warning that its resource tracker was killed and starts again: nothing is lost with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _work(
    path: Path, attempts: int, environment: dict[str, str], threads: int, signals: Sequence[int]
) -> None:
    """signals: those that the pool handles and the server ignores."""
    guard()
    for number in signals:
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
    os.environ.update(environment)  # before CUDA reads it
    sys.exit(work(path, attempts, threads))


def progress_mark(run: Path) -> object:
    """A value that changes with each progress of a run, and while it waits for the disk."""
    if os.path.exists(run / "attempts" / str(last_number(run / "attempts")) / WAITING):
        return time.monotonic()
    with contextlib.suppress(RecordError, OSError):
        status = read_status(str(run))
        return status["attempt"], status["progressed"]
    return None


def attempts_of(run: Path) -> int:
    """Number of attempts of a run; 0 if the disk cannot be read."""
    try:
        return last_number(run / "attempts")
    except OSError:
        return 0


def has_begun(run: Path, attempts: int) -> bool:
    """True if a new attempt has begun since the run had this number of attempts."""
    return attempts_of(run) > attempts


def outcome(run: Path, status: int | None, attempts: int) -> tuple[str, str]:
    """The end of an execution, and a detail: from its exit status, else from the record of the run.

    status: None if it is unknown. attempts: number of attempts before it.
    """
    if status == DONE:
        return "done", ""
    if status == HELD:
        return "held", "executed by another process"
    if status is not None and status < 0:
        return "killed", signal.Signals(-status).name
    if status is None and not run.exists():  # a rerun is in the place of the old run
        run = run_to_replace(run) or run
    try:
        recorded = RunDirectory(run).status()
    except RecordError as error:
        return "failed", str(error)
    state, reason = recorded["state"], recorded["reason"] or ""
    if status is None and reason == "killed":
        return "killed", "its process ended without a word"
    known = ("failed", "interrupted", "done") if status is None else ("failed", "interrupted")
    if state in known and (status is None or has_begun(run, attempts)):
        return state, reason if state == "interrupted" else ""
    if status == REFUSED:
        return "interrupted", "the disk refused writes"
    return "failed", "ended before it began" + ("" if status is None else f", with exit status {status}")


def record_reason(run: Path, attempts: int, reason: str) -> None:
    """Record why a run has ended whose process could not do so. DiskError: the disk refuses that too."""
    try:
        directory = RunDirectory(run)
        if has_begun(run, attempts) and directory.status()["reason"] == "killed":
            directory.end_attempt(reason)
    except DiskError:
        raise
    except (RecordError, OSError):  # the run was deleted, or its record is damaged
        return
