"""Completing mirrors on Weights & Biases from run directories: what was offline, or did not get through."""

from collections.abc import Callable, Iterable

from vlae.console import counted
from vlae.record import RecordError, RunDirectory
from vlae.trackers.story import Story, asks_for_wandb
from vlae.trackers.wandb import Busy, Streamed, WandbError, check_access, delete, told

GIVES_UP_AFTER = 10
"""Failures one after the other: then it is not the runs, and each of the next 500 would be waited for."""


def sync(runs: Iterable[RunDirectory], tell: Callable[[str], object], *, rebuild: bool = False) -> None:
    """Sends what W&B does not have yet of each run; safe to repeat.

    rebuild: makes its mirror anew, from the first epoch on, and deletes the old one.
    Errors: WandbError where there is no key or nobody answers, before anything is sent; and at the end where some
    could not be sent: the same call goes on with them.
    """
    try:
        check_access()
    except WandbError as error:
        raise WandbError(f"{error}; nothing was uploaded") from error
    failed, in_a_row = 0, 0
    for run in runs:
        try:
            text, in_a_row = _sync_one(run, rebuild), 0
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


def _sync_one(run: RunDirectory, rebuild: bool) -> str:
    story = Story(run)
    kept = story.kept("wandb")
    if not asks_for_wandb(story.settings.wandb, story.settings.mode) and not rebuild:
        return "its configuration asks for no mirror on Weights & Biases; --rebuild makes one all the same"
    if kept.get("complete") and not rebuild:
        return f"complete: {kept['url']}"
    if run.status()["attempt"] is None:
        return "it was never started"
    if run.holder() is not None and (rebuild or kept.get("mode") == "online"):
        return "under way" + (
            ": --rebuild can make its mirror when it has ended" if rebuild else f": {kept['url']}"
        )
    old = kept.get("id")
    mirror = Streamed(story, later=True, anew=rebuild)
    try:
        mirror.start()
        mirror.catch_up()
        mirror.finish()
    except BaseException as error:
        mirror.give_up(error)
        raise
    text = f"synced: {story.kept('wandb')['url']}"
    if rebuild and old and not delete(story.settings, old):
        text += f" ({old} was not there)"
    return text
