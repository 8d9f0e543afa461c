"""Removal of what killed commands and old launches left in a runs directory. The caller holds the launch lock."""

import contextlib
import shutil
from pathlib import Path

from vlae.launching.queues import QUEUES, Queue, all_queues
from vlae.launching.slurm_state import SlurmError
from vlae.launching.sweep_index import SWEEPS
from vlae.runs.lease import seconds_since
from vlae.system.disk import RecordError
from vlae.system.files import STAGING, make_directory, remove_abandoned, rename_if_free, staging_place

KEPT = 7 * 24 * 3600.0  # seconds that a queue is kept after its end


def clean_up(runs_dir: Path) -> None:
    """Remove old queues and temporary files; find the jobs of interrupted submissions."""
    remove_old_queues(runs_dir)
    adopt_lost_submissions(runs_dir)
    for part in (QUEUES, SWEEPS, STAGING):
        remove_abandoned(runs_dir / part)


def adopt_lost_submissions(runs_dir: Path) -> None:
    """Find the jobs of commands that were killed before they had recorded them."""
    for queue in all_queues(runs_dir):
        if queue.kind == "slurm" and queue.ended is None and queue.is_being_submitted:
            from vlae.launching.slurm_submission import adopt

            with contextlib.suppress(SlurmError):  # then it still counts as being submitted
                adopt(queue)


def remove_old_queues(runs_dir: Path) -> None:
    """Delete the queues that ended more than a week ago, so that looking at all of them stays cheap.

    No state of a run changes: a queue stays as long as it says why a run has no results.
    """
    for queue in all_queues(runs_dir):
        with contextlib.suppress(RecordError):  # damaged, or another user's
            if _is_old(queue):
                # out of sight at once, and deleted later where this process is killed before it has
                hidden = staging_place(queue.path)
                make_directory(hidden.parent)
                rename_if_free(queue.path, hidden)
                shutil.rmtree(hidden, ignore_errors=True)


def _is_old(queue: Queue) -> bool:
    """True if a queue ended long ago and explains no state of a run."""
    ended = queue.ended
    if ended is not None:
        old = seconds_since(ended["ended"]) > KEPT
    else:  # a local one whose process was killed is never ended; one of Slurm is ended by a launch after its jobs
        old = queue.kind == "local" and seconds_since(queue.created) > KEPT and queue.holder() is None
    explained = {*(ended or {}).get("reasons", ()), *queue.cancelled_runs()} if old else set()
    places = [queue.place_of(run) for run in queue.runs if run.run_id in explained]
    return old and all(not place.is_dir() or (place / "results.json").is_file() for place in places)
