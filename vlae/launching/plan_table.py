"""A plan for a person: its headline, its table, and its estimated time."""

import statistics
from collections import Counter
from collections.abc import Callable
from typing import Any

from rich.console import Group
from rich.text import Text

from vlae.config.run_id import get
from vlae.launching.plan import Plan, Planned
from vlae.launching.run_state import STATES
from vlae.launching.slurm_state import SlurmError
from vlae.runs.directory import RunDirectory
from vlae.system.console import Listing, count_of, duration, standard_error, standard_output
from vlae.system.streams import finish_printing


def show_plan(plan: Plan, check: Callable[[Plan], None]) -> int:
    """Print the plan of a dry run. check: raises an error if the runs that start cannot be executed."""
    try:
        check(plan)
    except SlurmError as error:  # a plan can be made elsewhere
        standard_error().print(str(error), markup=False)
    rows = []
    for run in plan.runs:
        state = " ".join(filter(None, [run.state.state, run.state.reason and f"({run.state.reason})"]))
        what = ("again" if run.state.is_rerun else "starts") if run.starts else ""
        rows.append([Text(run.run_id), Text(run.label), Text(state), Text(what)])
    listing = Listing(("run", "what distinguishes it", "state", ""), rows)
    standard_output().print(Group(Text(headline(plan, "would start"), style="bold"), listing))
    return finish_printing(0)


def print_headline(plan: Plan) -> None:
    """Print what the launch starts, on standard error."""
    standard_error().print(headline(plan), markup=False)


def print_nothing_to_do(plan: Plan) -> int:
    """Say why no run starts; the exit status of the command."""
    console, failed = standard_error(), [run for run in plan.runs if run.state.state == "failed"]
    for run in failed:
        console.print(f"  failed: {run.label or run.run_id}: {run.state.message}", style="red", markup=False)
    console.print("nothing to start; retry=true starts the failed runs again" if failed else "nothing to do")
    return int(bool(failed))


def headline(plan: Plan, starting: str = "starting") -> str:
    """``smoke: 10 runs, 3 done, 7 new; starting 7, about 2 min 10 s one after the other``."""
    counts = Counter(run.state.state for run in plan.runs)
    parts = [count_of(len(plan.runs), "run")]
    parts += [f"{counts[state]} {state}" for state in STATES if state in counts]
    text = f"{plan.sweep}: {', '.join(parts)}"
    if plan.merged:
        text += f" ({plan.merged} more the same as one of these)"
    if plan.starting:
        text += f"; {starting} {len(plan.starting)}"
        if (seconds := estimated_seconds(plan)) is not None:
            text += f", about {duration(seconds)} one after the other"
    return "\n  ".join([text, *plan.notes])


def estimated_seconds(plan: Plan) -> float | None:
    """Seconds for the starting runs in sequence, from done runs of their model and dataset; None: unknown."""
    known: dict[tuple[Any, ...], list[float]] = {}
    for run in plan.runs:
        if run.state.state != "done" or run.starts:
            continue
        results = RunDirectory(run.path).results() or {}
        seconds = get(results, "cost.train_seconds"), get(results, "cost.evaluate_seconds")
        if all(isinstance(part, int | float) for part in seconds):
            known.setdefault(_kind(run), []).append(sum(seconds))
    every = [seconds for some in known.values() for seconds in some]
    if not every:
        return None
    return sum(statistics.mean(known.get(_kind(run), every)) for run in plan.starting)


def _kind(run: Planned) -> tuple[Any, ...]:
    return tuple(run.container[section]["name"] for section in ("model", "dataset", "output_dist"))
