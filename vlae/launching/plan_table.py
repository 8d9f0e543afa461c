"""A plan for a person: its headline, its table, and its estimated time."""

from collections import Counter

from rich.console import Group, RenderableType
from rich.text import Text

from vlae.launching.launcher import Launcher
from vlae.launching.plan import Plan
from vlae.launching.run_state import STATES
from vlae.launching.schedule import Schedule
from vlae.launching.slurm_state import SlurmError
from vlae.system.console import Listing, count_of, standard_error, standard_output
from vlae.system.streams import finish_printing


def show_plan(plan: Plan, launcher: Launcher) -> int:
    """Print the plan of a dry run. UserError: the runs that start cannot be executed."""
    schedule, workers = launcher.schedule(plan), 0
    try:
        launcher.check_plan(plan)
        workers = min(launcher.at_once(plan), len(schedule.chains))
    except SlurmError as error:  # a plan can be made elsewhere
        standard_error().print(str(error), markup=False)
    rows = []
    order = [*(run for chain in schedule.chains for run in chain), *(r for r in plan.runs if not r.starts)]
    for run in order:
        state = " ".join(filter(None, [run.state.state, run.state.reason and f"({run.state.reason})"]))
        what = ("again" if run.state.is_rerun else "starts") if run.starts else ""
        work = str(schedule.work[run.run_id]) if run.starts else ""
        rows.append([*map(Text, (run.run_id, run.label, state, f"{what}: {work}" if work else what))])
    listing = Listing(("run", "what distinguishes it", "state", ""), rows)
    parts: list[RenderableType] = [Text(headline(schedule, "would start"), style="bold"), listing]
    if workers and (text := schedule.tables(workers)):
        parts.append(Text(text))
    standard_output().print(Group(*parts))
    return finish_printing(0)


def print_headline(schedule: Schedule) -> None:
    """Print what the launch starts, on standard error."""
    standard_error().print(headline(schedule), markup=False)


def print_nothing_to_do(plan: Plan) -> int:
    """Say why no run starts; the exit status of the command."""
    console, failed = standard_error(), [run for run in plan.runs if run.state.state == "failed"]
    for run in failed:
        console.print(f"  failed: {run.label or run.run_id}: {run.state.message}", style="red", markup=False)
    console.print("nothing to start; retry=true starts the failed runs again" if failed else "nothing to do")
    return int(bool(failed))


def headline(schedule: Schedule, starting: str = "starting") -> str:
    """``smoke: 10 runs, 3 done, 7 new; starting 7, about 2 min 10 s one after the other``."""
    plan = schedule.plan
    counts = Counter(run.state.state for run in plan.runs)
    parts = [count_of(len(plan.runs), "run")]
    parts += [f"{counts[state]} {state}" for state in STATES if state in counts]
    text = f"{plan.sweep}: {', '.join(parts)}"
    if plan.merged:
        text += f" ({plan.merged} more the same as one of these)"
    if plan.starting:
        text += f"; {schedule.headline(starting)}"
    return "\n  ".join([text, *plan.notes])
