"""A launch: plan, freeze, and hand over what is missing to a queue."""

import sys
from pathlib import Path

from vlae.launching import sweep_index
from vlae.launching.cleanup import clean_up
from vlae.launching.composed_runs import ComposedRuns
from vlae.launching.launch_lock import hold_launch_lock, refuse_if_lost
from vlae.launching.launcher import Launcher
from vlae.launching.plan import cancellations, create_run_directories, make_plan
from vlae.launching.plan_table import print_headline, print_nothing_to_do, show_plan
from vlae.runs import snapshot


def launch_runs(composed: ComposedRuns, launcher: Launcher, name: str | None = None) -> int:
    """Launch the runs that are missing, or with ``dry_run`` print the plan; the exit status of the command.

    name: of the sweep; None: one made of its runs.
    """
    if composed.common("dry_run"):  # without the lock, which would write
        return show_plan(make_plan(composed, name), launcher)
    runs_dir = Path(composed.common("runs_dir")).absolute()
    before = cancellations(runs_dir)
    with hold_launch_lock(runs_dir) as lock:
        clean_up(runs_dir)
        plan = make_plan(composed, name, before)
        if plan.starting:
            launcher.check_plan(plan)
        schedule = launcher.schedule(plan)
        print_headline(schedule)
        frozen = snapshot.freeze(runs_dir) if plan.starting else None
        create_run_directories(plan)
        # when its runs are there: until then tables show the launch before
        sweep_index.record_sweep(runs_dir, plan.sweep, {run.run_id: run.label for run in plan.runs}, sys.argv)
        if frozen is None:
            return print_nothing_to_do(plan)
        refuse_if_lost(lock)
        queue = launcher.prepare(schedule, frozen)
    return launcher.execute(queue)
