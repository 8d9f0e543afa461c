"""`vlae sync`: completes mirrors that were offline, or were cut off, from the run directories."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from vlae.runs.directory import RunDirectory
from vlae.system.console import count_of
from vlae.system.disk import RecordError
from vlae.trackers import wandb_mirror
from vlae.trackers.run_history import OFFLINE, WANDB, RunHistory, asks_for_wandb, other_ids
from vlae.trackers.wandb_mirror import Busy, NoAccess, WandbError, WandbMirror

GIVES_UP_AFTER = 10
"""Consecutive failures after which the cause is not a run, and waiting for the next 500 would be useless."""


def sync(runs: Iterable[RunDirectory], say: Callable[[str], object], *, rebuild: bool = False) -> None:
    """Upload what W&B lacks of each run, and complete TensorBoard's event files; safe to repeat.

    rebuild: make the mirror on W&B again, from the first epoch on, and delete the old ones.
    Errors: NoAccess if there is no key or no answer, before anything is sent; WandbError at the end if some runs could
    not be sent: the same call continues with them.
    """
    failed, in_a_row, access = 0, 0, cache(wandb_mirror.check_access)  # asked once, and only if needed
    with _temporary_client_files():
        for run in runs:
            try:
                text, in_a_row = _sync_one(RunHistory(run), rebuild, access), 0
            except NoAccess as error:
                raise NoAccess(f"{error}; nothing was uploaded") from error
            except Busy:
                text, in_a_row = "under way, it is being sent", 0
            except RecordError as error:  # of this run alone
                text, failed = f"not synced: {error}", failed + 1
            except Exception as error:
                text = f"not synced: {wandb_mirror.explain(error)}"
                failed, in_a_row = failed + 1, in_a_row + 1
            say(f"{run.path.name}: {text}")
            if in_a_row == GIVES_UP_AFTER:
                raise WandbError(f"{in_a_row} runs in a row could not be synced; the same command continues")
    if failed:
        raise WandbError(f"{count_of(failed, 'run')} could not be synced; the same command tries again")


def _sync_one(run_history: RunHistory, rebuild: bool, access: Callable[[], None]) -> str:
    run_history.directory.settle()
    if run_history.directory.status()["attempt"] is None:
        return "it was never started"
    run_history.directory.check_links()  # no link may upload a file from outside the run
    return ", ".join(filter(None, (_event_files(run_history), _on_wandb(run_history, rebuild, access))))


def _event_files(run_history: RunHistory) -> str:
    if not run_history.lacks_event_files() or run_history.directory.holder() is not None:
        return ""
    from vlae.trackers.tensorboard_mirror import EventFiles

    mirror = EventFiles(run_history)
    mirror.start()
    mirror.finish()
    return "event files made"


def _on_wandb(run_history: RunHistory, rebuild: bool, access: Callable[[], None]) -> str:
    notes, held = run_history.notes_of(WANDB), run_history.directory.holder() is not None
    if not rebuild:
        if not asks_for_wandb(run_history.settings):
            return "its configuration asks for no mirror on Weights & Biases; --rebuild makes one anyway"
        if notes.get("complete"):
            return f"complete: {notes['url']}"
        if notes.get("told") == wandb_mirror.digest(run_history):
            return f"nothing new: {notes['url']}"
        if held and notes.get("mode") == "online" and not run_history.notes_of(OFFLINE):
            return f"under way: {notes['url']}"
    elif held:
        return "still running; use --rebuild after it ends"
    access()
    mirror = WandbMirror(run_history, later=True, rebuild=rebuild)
    try:
        mirror.start()
        mirror.finish()
        if not mirror.arrived:
            raise WandbError("Weights & Biases did not take everything")
    except BaseException as error:
        mirror.give_up(error)
        raise
    old = other_ids(run_history.directory.path) if rebuild else []
    absent = [wandb_id for wandb_id in old if not wandb_mirror.delete(run_history.settings, wandb_id)]
    note = f" ({', '.join(absent)} was not there)" if absent else ""
    return f"synced: {run_history.notes_of(WANDB)['url']}{note}"


@contextlib.contextmanager
def _temporary_client_files() -> Iterator[None]:
    """Let the client keep its own files in a temporary directory, while the ``with`` block lasts."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        places = wandb_mirror.client_places(Path(folder))
        os.environ.update(places)
        try:
            yield
        finally:
            for name in places:
                del os.environ[name]
