"""The queue of a plan: its runs in chains, each of one training."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlae.config.run_id import training_id
from vlae.launching.plan import Plan, Planned
from vlae.launching.queues import Queue, Waiting, create


def chains(runs: Sequence[Planned]) -> list[list[Planned]]:
    """The runs by their training, each from the shortest to the longest; a rerun trains alone."""
    found: dict[str, list[Planned]] = {}
    for run in runs:
        found.setdefault(run.run_id if run.state.is_rerun else training_id(run.container), []).append(run)
    return [sorted(chain, key=_length) for chain in found.values()]


def _length(run: Planned) -> tuple[int, float]:
    trainer = run.container["trainer"]
    return trainer["epochs"], math.inf if trainer["patience"] is None else trainer["patience"]


def create_queue(
    plan: Plan, frozen: Path, kind: str, settings: dict[str, Any], chains_per_task: int = 1
) -> Queue:
    """The queue of the runs that start. frozen: their code."""
    runs = []
    for number, chain in enumerate(chains(plan.starting)):
        name = training_id(chain[0].container) if len(chain) > 1 else ""
        for run in chain:
            place = run.run_id, run.state.attempts, run.state.is_rerun
            runs.append(Waiting(*place, task=number // chains_per_task, chain=name))
    labels = {run.run_id: run.label for run in plan.starting}
    settings = {**settings, "labels": labels, "skipped": plan.skipped}
    return create(plan.runs_dir, kind=kind, sweep=plan.sweep, code=frozen, runs=runs, settings=settings)
