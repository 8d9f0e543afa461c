"""The plan of a launch: the runs of a sweep, the state of each, and which of them start."""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlae.config.compose import with_absolute_paths
from vlae.launching.composed_runs import ComposedRuns, problems_by_run
from vlae.launching.queues import all_queues
from vlae.launching.run_state import UNREADABLE, Observer, RunState
from vlae.runs.directory import RunDirectory, note_on_earlier, rerun_directory
from vlae.runs.rerun import recover
from vlae.system.console import count_of
from vlae.system.disk import RecordError


@dataclass(frozen=True)
class Planned:
    """One run of a sweep."""

    run_id: str
    container: dict[str, Any]
    label: str  # the overrides that distinguish it from the others
    state: RunState
    starts: bool

    @property
    def path(self) -> Path:
        """The directory in which it is executed."""
        return self.state.path


@dataclass(frozen=True)
class Plan:
    """All runs of a sweep, each once."""

    sweep: str
    runs_dir: Path
    runs: tuple[Planned, ...]
    merged: int  # number of runs that were the same as another
    file: str | None = None  # the sweep file, if there is one
    notes: tuple[str, ...] = ()  # remarks for the user

    @property
    def starting(self) -> list[Planned]:
        """The runs that start."""
        return [run for run in self.runs if run.starts]

    @property
    def skipped(self) -> dict[str, int]:
        """Number of runs that do not start, by state."""
        return dict(Counter(run.state.state for run in self.runs if not run.starts))

    def problems(self, wrong: Mapping[str, Sequence[str]]) -> list[str]:
        """Problems of runs that start, given by run id: each once, with the runs that have it."""
        return problems_by_run(wrong, {run.run_id: run.label for run in self.starting}, self.file)


def cancellations(runs_dir: Path) -> set[tuple[str, str]]:
    """Every run that was cancelled, with the launch that it was cancelled in."""
    return {(queue.token, run_id) for queue in all_queues(runs_dir) for run_id in queue.cancelled_runs()}


def make_plan(
    composed: ComposedRuns, name: str | None = None, before: Collection[tuple[str, str]] | None = None
) -> Plan:
    """Decide which runs start. Hold the launch lock: what killed commands have left half done is completed.

    With ``dry_run`` it needs no lock, and writes nothing.

    name: of the sweep; None: one made of its runs.
    before: `cancellations` when the command was given. Runs that were cancelled since do not start by it.
    """
    runs_dir, dry_run = Path(composed.common("runs_dir")).absolute(), composed.common("dry_run")
    force, retry, observer = composed.common("force"), composed.common("retry"), Observer(runs_dir)
    since = set() if before is None else cancellations(runs_dir) - set(before)
    cancelled = {run_id for _, run_id in since}
    runs, revoked = [], 0
    for run_id, container in composed.containers.items():
        if not dry_run:
            recover(runs_dir, run_id)
        state = _state_to_continue(observer, run_id, force)
        if state.stale and not dry_run:
            with contextlib.suppress(RecordError):  # nothing depends on it
                RunDirectory(state.path).settle()
        starts = should_start(state, force=force, retry=retry)
        if starts and run_id in cancelled:
            state, starts = replace(state, state="interrupted", reason="cancelled"), False
            revoked += 1
        runs.append(Planned(run_id, container, composed.labels[run_id], state, starts))
    if not dry_run:
        observer.record_ends()
    notes = (*composed.notes, *_notes(composed, runs, revoked, observer))
    # the same runs have the same name
    digest = hashlib.sha256(" ".join(sorted(composed.containers)).encode()).hexdigest()[:6]
    merged = len(composed) - len(runs)
    return Plan(name or f"sweep-{digest}", runs_dir, tuple(runs), merged, composed.file, notes)


def should_start(state: RunState, *, force: bool = False, retry: bool = False) -> bool:
    """True if a run in this state starts: always if it is missing, with force or retry also if it has failed.

    >>> should_start(RunState("a", Path("runs/a"), "failed"), retry=True)
    True
    """
    if state.state == "failed":
        return (retry or force) and state.reason != UNREADABLE
    return state.state in ("new", "interrupted")


def _state_to_continue(observer: Observer, run_id: str, force: bool) -> RunState:
    """The state of the directory in which the run is executed; failed if its frozen configuration was edited.

    force: what is done, failed or interrupted is executed again, in a directory of its own; see `vlae.runs.rerun`.
    """
    own, rerun = observer.places(run_id)
    state = observer.state(own)
    if force and state.state not in ("running", "queued"):
        state = observer.state(rerun)
    try:
        if state.state in ("interrupted", "failed"):
            RunDirectory(state.path).config()
    except RecordError as error:
        return replace(state, state="failed", reason=UNREADABLE, message=str(error))
    return state


def _notes(
    composed: ComposedRuns, runs: Sequence[Planned], revoked: int, observer: Observer
) -> Iterator[str]:
    """revoked: number of runs that do not start because they were cancelled while this command waited."""
    if revoked:
        yield f"{count_of(revoked, 'run')} cancelled while this command waited: rerun it to start them"
    if text := note_on_earlier(observer.runs_dir, composed.containers):
        yield text
    if observer.warning and any(run.state.state in ("queued", "running") for run in runs):
        yield observer.warning


def create_run_directories(plan: Plan) -> None:
    """Freeze the configurations of the runs that start. RecordError: there is no space."""
    for run in plan.starting:
        # the group on Weights & Biases is the sweep, if no other is given
        tracker = run.container["tracker"]
        grouped = {**run.container, "tracker": {**tracker, "group": tracker["group"] or plan.sweep}}
        container = with_absolute_paths(grouped)
        if run.state.is_rerun:
            directory = rerun_directory(plan.runs_dir, run.run_id, container)
        else:
            directory = RunDirectory.create(plan.runs_dir, run.run_id, container)
        directory.carry_out_as(container)
        if run.state.state == "interrupted" and directory.holder() is not None:  # Slurm knows better
            directory.end_attempt(run.state.reason)
