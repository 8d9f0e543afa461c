"""Cancelling runs: those that wait do not start, those under way save their state and end."""

import contextlib
import os
import signal
from collections.abc import Callable, Collection
from pathlib import Path

from vlae.launching import slurm_state
from vlae.launching.queues import NEVER, Queue, all_queues
from vlae.launching.run_state import Observer
from vlae.runs.directory import RunDirectory
from vlae.runs.lease import FORCED
from vlae.system.files import StrPath
from vlae.system.processes import place, process_lives


def cancel(
    runs_dir: StrPath, run_ids: Collection[str], warn: Callable[[str], object] = lambda text: None
) -> list[str]:
    """Cancel runs; returns those that were waiting or running. The same launch continues them later.

    warn: called with the reason where jobs cannot be cancelled, because Slurm, or their cluster, cannot be reached.
    Their runs are cancelled all the same: jobs that run stop them, and jobs that wait end as soon as they start.
    """
    observer = Observer(runs_dir)
    active = {"queued", "running"}
    found = [
        name
        for name in run_ids
        if any(observer.state(path).state in active for path in _places(observer, name))
    ]
    alone, unreached = set(found), []
    for queue in all_queues(runs_dir):
        listed = {run.run_id for run in queue.runs} & set(found)
        if queue.ended is not None or not listed:
            continue
        queue.cancel(listed)
        if queue.kind == "slurm":
            try:
                _cancel_jobs(queue)
            except slurm_state.SlurmError as error:
                unreached.append(str(error))
        elif queue.holder() is None:
            continue  # nobody works it off any more
        alone -= listed
    for run_id in sorted(
        alone
    ):  # started without a queue: its process is asked itself, if it is on this machine
        claims = [RunDirectory(path).holder() for path in _places(observer, run_id)]
        claim = next(filter(None, claims), None)
        if claim and claim["place"] == place() and process_lives(claim["pid"], claim["process_start"]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(claim["pid"], signal.SIGTERM)
        elif claim:
            found.remove(run_id)
    for reason in dict.fromkeys(unreached):
        warn(f"{reason}; its runs are cancelled all the same, but jobs that wait end only when they start")
    return found


def _cancel_jobs(queue: Queue) -> None:
    """Cancel the jobs that have no run left. SlurmError: Slurm, or the cluster of these jobs, cannot be reached."""
    gone, jobs = queue.cancelled(), queue.jobs()
    tasks = {run.task for run in queue.runs} - {run.task for run in queue.runs if run.run_id not in gone}
    ids = [jobs[task] for task in sorted(tasks) if jobs.get(task, NEVER) != NEVER]
    if not ids:
        return
    here = slurm_state.this_cluster().identity
    if queue.cluster != here:  # here, the same ids are other jobs
        raise slurm_state.SlurmError(
            f"the jobs of {queue.sweep} belong to the cluster {queue.cluster}, not to {here}"
        )
    slurm_state.cancel(ids)


def _places(observer: Observer, run_id: str) -> tuple[Path, Path]:
    """The two directories in which a run may be executed: its own, and beside its old results."""
    return observer.runs_dir / run_id, observer.runs_dir / FORCED / run_id
