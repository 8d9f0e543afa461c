"""Completing mirrors on Weights & Biases from run directories: what was offline, or did not get through."""

from collections.abc import Callable, Iterable

from vlae.errors import UserError
from vlae.record import RecordError, RunDirectory
from vlae.trackers.story import Story
from vlae.trackers.wandb import Streamed, delete, has_key


class SyncError(UserError, RuntimeError):
    """Weights & Biases cannot be reached, or refuses."""


def sync(runs: Iterable[RunDirectory], tell: Callable[[str], object], *, rebuild: bool = False) -> None:
    """Sends what W&B does not have yet of each run; safe to repeat.

    rebuild: makes its mirror anew, from the first epoch on, and deletes the old one.
    Errors: SyncError, after which the same call goes on with the rest.
    """
    if not has_key():
        raise SyncError("no key for Weights & Biases: set WANDB_API_KEY, or run `wandb login`")
    for run in runs:
        try:
            text = _sync_one(run, rebuild)
        except RecordError as error:
            text = f"left out: {error}"
        except Exception as error:
            reason = " ".join(str(error).split())
            raise SyncError(f"{run.path.name}: {type(error).__name__}: {reason}") from error
        tell(f"{run.path.name}: {text}")


def _sync_one(run: RunDirectory, rebuild: bool) -> str:
    story = Story(run)
    kept = story.kept("wandb")
    if kept.get("complete") and not rebuild:
        return f"complete: {kept['url']}"
    if run.status()["attempt"] is None:
        return "it was never started"
    if run.holder() is not None and kept.get("mode") == "online":
        return f"under way: {kept['url']}"
    old = kept.get("id")
    mirror = Streamed(story, "online", anew=rebuild)
    mirror.start()
    mirror.catch_up()
    mirror.finish()
    if rebuild and old:
        delete(story.settings, old)
    return f"synced: {story.kept('wandb')['url']}"
