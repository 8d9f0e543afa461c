"""Completing mirrors from run directories: what was offline, did not get through, or was cut off."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from vlae.console import counted
from vlae.record import RecordError, RunDirectory
from vlae.trackers.story import OFFLINE, WANDB, Story, asks_for_wandb, other_ids
from vlae.trackers.wandb import (
    Busy,
    NoAccess,
    Streamed,
    WandbError,
    check_access,
    delete,
    own_places,
    told,
    told_of,
)

GIVES_UP_AFTER = 10
"""Failures one after the other: then it is not the runs, and each of the next 500 would be waited for."""


def sync(runs: Iterable[RunDirectory], tell: Callable[[str], object], *, rebuild: bool = False) -> None:
    """Sends what W&B does not have yet of each run, and completes TensorBoard's event files; safe to repeat.

    rebuild: makes the mirror on W&B anew, from the first epoch on, and deletes the old ones.
    Errors: NoAccess where there is no key or nobody answers, before anything is sent; WandbError at the end where some
    could not be sent: the same call goes on with them.
    """
    failed, in_a_row, access = 0, 0, cache(check_access)  # asked once, and only where it is needed
    with _files_apart():
        for run in runs:
            try:
                text, in_a_row = _sync_one(Story(run), rebuild, access), 0
            except NoAccess as error:
                raise NoAccess(f"{error}; nothing was uploaded") from error
            except Busy:
                text, in_a_row = "under way, it is being sent", 0
            except RecordError as error:  # of this run alone
                text, failed = f"not synced: {error}", failed + 1
            except Exception as error:
                text = f"not synced: {told(error)}"
                failed, in_a_row = failed + 1, in_a_row + 1
            tell(f"{run.path.name}: {text}")
            if in_a_row == GIVES_UP_AFTER:
                raise WandbError(
                    f"{in_a_row} runs one after the other could not be synced; the same command goes on"
                )
    if failed:
        raise WandbError(f"{counted(failed, 'run')} could not be synced; the same command tries again")


def _sync_one(story: Story, rebuild: bool, access: Callable[[], None]) -> str:
    story.directory.settle()
    if story.directory.status()["attempt"] is None:
        return "it was never started"
    story.directory.check_links()  # no link may upload a file from outside the run
    return ", ".join(filter(None, (_event_files(story), _on_wandb(story, rebuild, access))))


def _event_files(story: Story) -> str:
    if not story.lacks_event_files() or story.directory.holder() is not None:
        return ""
    from vlae.trackers.tensorboard import EventFiles

    mirror = EventFiles(story)
    mirror.start()
    mirror.finish()
    return "event files made"


def _on_wandb(story: Story, rebuild: bool, access: Callable[[], None]) -> str:
    kept, held = story.kept(WANDB), story.directory.holder() is not None
    if not rebuild:
        if not asks_for_wandb(story.settings.wandb, story.settings.mode):
            return (
                "its configuration asks for no mirror on Weights & Biases; --rebuild makes one all the same"
            )
        if kept.get("complete"):
            return f"complete: {kept['url']}"
        if kept.get("told") == told_of(story):
            return f"nothing new: {kept['url']}"
        if held and kept.get("mode") == "online" and not story.kept(OFFLINE):
            return f"under way: {kept['url']}"
    elif held:
        return "under way: --rebuild can make its mirror when it has ended"
    access()
    mirror = Streamed(story, later=True, anew=rebuild)
    try:
        mirror.start()
        mirror.finish()
        if not mirror.arrived:
            raise WandbError("Weights & Biases has not taken everything")
    except BaseException as error:
        mirror.give_up(error)
        raise
    return f"synced: {story.kept(WANDB)['url']}{_delete_old(story) if rebuild else ''}"


def _delete_old(story: Story) -> str:
    """Only when the new one is there. What is to be said of it."""
    absent = [old for old in other_ids(story.directory.path) if not delete(story.settings, old)]
    return f" ({', '.join(absent)} was not there)" if absent else ""


@contextlib.contextmanager
def _files_apart() -> Iterator[None]:
    """Inside, files that the client makes for itself are in a directory that is gone afterwards."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        places = own_places(Path(folder))
        os.environ.update(places)
        try:
            yield
        finally:
            for name in places:
                del os.environ[name]
