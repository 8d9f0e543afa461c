"""Cancelling runs: those that wait do not start, those under way save their state and end."""

import contextlib
import os
import signal
from collections.abc import Callable, Collection

from vlae.launching import slurm_state
from vlae.launching.queues import NEVER, Queue, all_queues
from vlae.launching.run_state import Observer
from vlae.runs.directory import RunDirectory
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
    states = {name: [observer.state(path).state for path in observer.places(name)] for name in run_ids}
    found = [name for name in run_ids if not {"queued", "running"}.isdisjoint(states[name])]
    alone, unreached = set(found), dict[str, None]()
    for queue in all_queues(runs_dir):
        listed = {run.run_id for run in queue.runs} & set(found)
        if queue.ended is not None or not listed:
            continue
        queue.cancel(listed)
        if queue.kind == "slurm":
            try:
                _cancel_jobs(queue)
            except slurm_state.SlurmError as error:
                unreached[str(error)] = None
        elif queue.holder() is None:
            continue  # no process executes it any more
        alone -= listed
    out_of_reach = {run_id for run_id in alone if not _stop_process(observer, run_id)}
    for reason in unreached:
        warn(f"{reason}; its runs are cancelled all the same, but jobs that wait end only when they start")
    return [name for name in found if name not in out_of_reach]


def _stop_process(observer: Observer, run_id: str) -> bool:
    """Signal the process of a run that was started without a queue; False: it is on another machine."""
    claims = [RunDirectory(path).holder() for path in observer.places(run_id)]
    claim = next(filter(None, claims), None)
    if claim is None:
        return True
    if claim["place"] != place() or not process_lives(claim["pid"], claim["process_start"]):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(claim["pid"], signal.SIGTERM)
    return True


def _cancel_jobs(queue: Queue) -> None:
    """Cancel the jobs that have no run left. SlurmError: Slurm, or the cluster of these jobs, cannot be reached."""
    gone, jobs = queue.cancelled_runs(), queue.jobs()
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
