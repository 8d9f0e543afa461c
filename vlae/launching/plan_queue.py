"""The queue of a plan: its runs in chains, each of one training, in the order in which they start."""

from pathlib import Path
from typing import Any

from vlae.config.run_id import training_id
from vlae.launching.queues import Queue, Waiting, create
from vlae.launching.schedule import Schedule


def create_queue(
    schedule: Schedule, frozen: Path, kind: str, settings: dict[str, Any], chains_per_task: int = 1
) -> Queue:
    """The queue of the runs that start. frozen: their code."""
    runs, plan = [], schedule.plan
    for number, chain in enumerate(schedule.chains):
        name = training_id(chain[0].container) if len(chain) > 1 else ""
        for run in chain:
            place = run.run_id, run.state.attempts, run.state.is_rerun
            runs.append(Waiting(*place, task=number // chains_per_task, chain=name))
    labels = {run.run_id: run.label for run in plan.starting}
    settings = {**settings, "labels": labels, "skipped": plan.skipped}
    return create(plan.runs_dir, kind=kind, sweep=plan.sweep, code=frozen, runs=runs, settings=settings)
