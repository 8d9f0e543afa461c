"""A launch: compose, plan, freeze, and hand over what is missing to a queue."""

import contextlib
import sys
from pathlib import Path
from typing import Protocol, runtime_checkable

from rich.console import Group
from rich.text import Text

from vlae.config.run_id import OF_A_COMMAND
from vlae.launching import queues, sweep_index
from vlae.launching.launch_lock import hold_launch_lock
from vlae.launching.plan import (
    ComposedRuns,
    Plan,
    cancellations,
    check_runs,
    create_run_directories,
    estimated_seconds,
    make_plan,
)
from vlae.launching.queues import Queue
from vlae.launching.run_state import STATES, Observer
from vlae.launching.slurm_state import SlurmError
from vlae.runs import snapshot
from vlae.runs.directory import RunDirectory
from vlae.runs.schema import Claim
from vlae.system.console import Console, Listing, counted, duration, standard_output
from vlae.system.disk import RecordError
from vlae.system.files import STAGING, remove_abandoned
from vlae.system.streams import printed


@runtime_checkable
class Launcher(Protocol):
    """A way to execute runs."""

    here: bool
    """On this machine."""

    def check_plan(self, planned: Plan) -> None:
        """Check the plan before anything is on disk. UserError: the reason why it cannot execute these runs."""
        ...

    def prepare(self, planned: Plan, frozen: Path) -> Queue:
        """The queue of the runs that start, while nobody else can launch; ``frozen`` is their code."""
        ...

    def execute(self, queue: Queue) -> int:
        """Execute the queue; the exit status of the command."""
        ...


def launch_runs(jobs: ComposedRuns, launcher: Launcher, name: str | None = None) -> int:
    """Launch the runs that are missing; the exit status of the command.

    name: of the sweep; None: one made of its runs.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for key in OF_A_COMMAND:
        jobs.common(key)
    runs_dir = Path(jobs.common("runs_dir")).absolute()
    if jobs.common("dry_run"):
        return show_plan(jobs, launcher, name)

    def waiting(holder: Claim) -> None:
        console.print(f"process {holder['pid']} on host {holder['host']} is launching; waiting for it")

    before = cancellations(runs_dir)
    with hold_launch_lock(runs_dir, waiting) as lock:
        queues.remove_old(runs_dir)
        _adopt_lost_submissions(runs_dir)
        observer = Observer(runs_dir)
        planned = make_plan(jobs, name, observer, before)
        observer.record_ends()
        _clear_up(planned)
        if planned.starting:
            check_runs(planned, here=launcher.here)
            launcher.check_plan(planned)
        console.print(headline(planned), markup=False)
        sweep_index.remember(runs_dir, planned.sweep, {r.run_id: r.label for r in planned.runs}, sys.argv)
        if not planned.starting:
            return _nothing_to_do(planned, console)
        frozen = snapshot.freeze(runs_dir)
        create_run_directories(planned)
        lock.refuse_if_lost()
        queue = launcher.prepare(planned, frozen)
    return launcher.execute(queue)


def show_plan(jobs: ComposedRuns, launcher: Launcher | None, name: str | None) -> int:
    """Print the plan, without the launch lock, which would write. launcher: None for a single run."""
    planned = make_plan(jobs, name)
    check_runs(planned, here=launcher is None or launcher.here)
    try:
        if launcher is not None:
            launcher.check_plan(planned)
    except SlurmError as error:  # a plan can be made elsewhere
        Console(stderr=True, highlight=False, soft_wrap=True).print(str(error), markup=False)
    standard_output().print(table_of(planned))
    return printed(0)


def _clear_up(planned: Plan) -> None:
    """Clear up after killed processes: temporary files, and records that do not say that their run is done."""
    for part in (queues.QUEUES, sweep_index.SWEEPS, STAGING):
        remove_abandoned(planned.runs_dir / part)
    for run in planned.runs:
        if run.state.stale:
            with contextlib.suppress(RecordError):  # nothing depends on it
                RunDirectory(run.state.path).settle()


def _adopt_lost_submissions(runs_dir: Path) -> None:
    """Submissions whose command was killed before it had recorded them."""
    for queue in queues.all_queues(runs_dir):
        if queue.kind == "slurm" and queue.ended is None and queue.is_being_submitted:
            from vlae.launching.slurm_launcher import adopt

            with contextlib.suppress(SlurmError):  # then it still counts as being submitted
                adopt(queue)


def headline(planned: Plan, starting: str = "starting") -> str:
    """``smoke: 10 runs, 3 done, 7 new; starting 7, about 2 min 10 s one after the other``."""
    runs, counts = len(planned.runs), planned.counts
    parts = [counted(runs, "run")]
    parts += [f"{counts[state]} {state}" for state in STATES if state in counts]
    text = f"{planned.sweep}: {', '.join(parts)}"
    if planned.merged:
        text += f" ({planned.merged} more the same as one of these)"
    if planned.starting:
        text += f"; {starting} {len(planned.starting)}"
        if (seconds := estimated_seconds(planned)) is not None:
            text += f", about {duration(seconds)} one after the other"
    return "\n  ".join([text, *planned.notes])


def table_of(planned: Plan) -> Group:
    """The plan, for a person."""
    rows = []
    for run in planned.runs:
        state = " ".join(filter(None, [run.state.state, run.state.reason and f"({run.state.reason})"]))
        what = ("again" if run.state.forced else "starts") if run.starts else ""
        rows.append([Text(run.run_id), Text(run.label), Text(state), Text(what)])
    listing = Listing(("run", "what distinguishes it", "state", ""), rows)
    return Group(Text(headline(planned, "would start"), style="bold"), listing)


def _nothing_to_do(planned: Plan, console: Console) -> int:
    failed = [run for run in planned.runs if run.state.state == "failed"]
    for run in failed:
        console.print(f"  failed: {run.label or run.run_id}: {run.state.message}", style="red", markup=False)
    if failed:
        console.print("nothing to start; retry=true starts the failed runs again")
    else:
        console.print("nothing to do")
    return int(bool(failed))
