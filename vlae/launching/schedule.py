"""The order in which the runs of a plan start, their work, and the time that it takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vlae.config.run_id import training_id
from vlae.launching.estimate import Estimates, complete_tables
from vlae.launching.plan import Plan, Planned
from vlae.launching.work import Work, length_of, work_of
from vlae.runs.trainings import Trainings
from vlae.system.console import count_of, duration

Order = Literal["seeds", "cheap", "given"]
"""Seed by seed and the cheap ones of each first, so that a complete table exists early; cheap ones first; as given."""
TABLES = 3  # complete tables that a plan announces


@dataclass(frozen=True)
class Schedule:
    """The runs of a plan that start, in chains of one training each."""

    plan: Plan
    chains: list[list[Planned]]
    """In the order in which they start."""
    work: dict[str, Work]
    """By run id, as are the seconds."""
    seconds: dict[str, float]
    """Empty if no finished run shows how long they take."""

    def headline(self, starting: str = "starting") -> str:
        """What starts, ``starting 7, which train 0 of 120 epochs and score student_t only``, and how long it takes."""
        text = f"{starting} {len(self.plan.starting)}"
        epochs, of = (sum(getattr(work, name) for work in self.work.values()) for name in ("epochs", "of"))
        if epochs < of:
            one = len(self.work) == 1
            text += f", which {'trains' if one else 'train'} {epochs} of {of} epochs"
            if not any(work.every for work in self.work.values()):
                parts = dict.fromkeys(part for work in self.work.values() for part in work.parts)
                names = ", ".join(part.removeprefix("proposals.") for part in parts)
                text += f" and score{'s' * one} {f'{names} only' if names else 'nothing'}"
        if self.seconds:
            text += f", about {duration(sum(self.seconds.values()))} one after the other"
        return text

    def tables(self, workers: int) -> str:
        """When complete tables of more and more seeds are reached; empty: the plan has one seed, or one cell."""
        found = complete_tables(self.plan, self.chains, self.seconds, workers)[:TABLES]
        parts = []
        for n, (runs, seconds) in enumerate(found, 1):
            time = f" (about {duration(seconds)})" if self.seconds and runs else ""
            parts.append(f"n = {n} after {count_of(runs, 'run')}{time}" if runs else f"n = {n} already")
        several = len(found) > 1 and len(self.plan.starting) > 1
        return f"complete tables with {count_of(workers, 'worker')}: {', '.join(parts)}" if several else ""


def chains_of(runs: Sequence[Planned]) -> list[list[Planned]]:
    """The runs by their training, each from the shortest to the longest; a rerun trains alone."""
    found: dict[str, list[Planned]] = {}
    for run in runs:
        found.setdefault(run.run_id if run.state.is_rerun else training_id(run.container), []).append(run)
    return [sorted(chain, key=length_of) for chain in found.values()]


def make_schedule(plan: Plan, order: Order = "seeds") -> Schedule:
    """The schedule of the runs that start."""
    found, trainings = chains_of(plan.starting), Trainings(plan.runs_dir)
    work, estimates = work_of(found, trainings), Estimates(plan, trainings)
    known = {run.run_id: estimates.seconds(run, work[run.run_id]) for run in plan.starting}
    seconds = {run_id: value for run_id, value in known.items() if value is not None}

    def place(chain: list[Planned]) -> tuple[Any, ...]:
        cost = sum(estimates.cost(run, work[run.run_id]) for run in chain)
        return {"seeds": (chain[0].container["seed"], cost), "cheap": (cost,), "given": ()}[order]

    return Schedule(plan, sorted(found, key=place), work, seconds)
