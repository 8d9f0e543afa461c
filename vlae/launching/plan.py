"""The plan of a launch: the runs of a sweep, the state of each, and which of them start."""

import hashlib
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlae.config.compose import validate, with_absolute_paths
from vlae.config.installation import check_libraries
from vlae.config.limits import beyond_the_machine
from vlae.config.overrides import split
from vlae.config.problems import ConfigError, Problem, shown
from vlae.config.run_id import OF_A_COMMAND, OPERATIONAL, get, run_id
from vlae.launching.queues import Queue, Waiting, all_queues, create
from vlae.launching.run_state import UNREADABLE, Observer, State
from vlae.runs.directory import RunDirectory, earlier_twins, forced_directory, same_as_earlier
from vlae.runs.lease import FORCED
from vlae.runs.rerun import recover
from vlae.system.console import counted, loading
from vlae.system.disk import RecordError
from vlae.system.files import StrPath, check_writable
from vlae.trackers.process import environment_problems


@dataclass(frozen=True)
class Planned:
    """One run of a sweep."""

    run_id: str
    container: dict[str, Any]
    label: str
    """The overrides that distinguish it from the others."""
    state: State
    starts: bool

    @property
    def path(self) -> Path:
        return self.state.path

    def waiting(self, task: int = 0) -> Waiting:
        """Its entry in a queue."""
        return Waiting(self.run_id, self.state.attempts, self.state.forced, task)


@dataclass(frozen=True)
class Plan:
    """All runs of a sweep, each once."""

    sweep: str
    runs_dir: Path
    runs: tuple[Planned, ...]
    merged: int
    """How many were the same as another."""
    dry_run: bool
    file: str | None = None
    """The sweep file, where there is one."""
    notes: tuple[str, ...] = ()
    """Remarks for the user."""

    @property
    def starting(self) -> list[Planned]:
        return [run for run in self.runs if run.starts]

    @property
    def counts(self) -> dict[str, int]:
        """Number of runs by state."""
        return dict(Counter(run.state.state for run in self.runs))

    @property
    def skipped(self) -> dict[str, int]:
        """Number of runs that do not start, by state."""
        return dict(Counter(run.state.state for run in self.runs if not run.starts))


class ComposedRuns:
    """The composed runs of a sweep, before anything is read from disk."""

    def __init__(
        self,
        overrides: Sequence[Sequence[str]],
        compose: Callable[[Sequence[str]], dict[str, Any]],
        file: str | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """file: the sweep file that they are of; notes: what is to be said of them.

        ConfigError: everything that is wrong with any of them, as far as it shows without importing targets.
        """
        self.file, self.notes = file, tuple(notes)
        self.containers: dict[str, dict[str, Any]] = {}
        self.overrides: dict[str, Sequence[str]] = {}
        self._all, wrong = [], {}
        for number, job in enumerate(overrides):
            try:
                container = compose(job)
            except ConfigError as error:
                wrong[str(number)] = error.problems
                continue
            self._all.append(container)
            name = run_id(container)
            self.containers.setdefault(name, container)
            self.overrides.setdefault(name, job)
        if not overrides:
            raise ConfigError([Problem("sweep", "it has no runs")])
        if wrong:
            labels = labels_of({str(number): job for number, job in enumerate(overrides)})
            raise ConfigError(problems_by_run(wrong, labels, file))

    def __len__(self) -> int:
        return len(self._all)

    def common(self, key: str) -> Any:
        """The value of a key that a launch has one of. ConfigError: the runs disagree."""
        values = [get(container, key) for container in self._all]
        if any(value != values[0] for value in values):
            found = ", ".join(dict.fromkeys(shown(value) for value in values))
            raise ConfigError([Problem(key, f"expected one value for all runs of a sweep, got {found}")])
        return values[0]


def problems_by_run(
    wrong: Mapping[str, Sequence[str]], labels: Mapping[str, str], file: str | None
) -> list[str]:
    """The problems of these runs, each once, with the runs that have it, of all those that have a label."""
    runs: dict[str, list[str]] = {}
    for run, problems in wrong.items():
        for problem in problems:
            runs.setdefault(problem, []).append(labels[run] or run)
    found = []
    for problem, those in runs.items():
        more = f", and {len(those) - 1} more of the {counted(len(labels), 'run')}" if len(those) > 1 else ""
        where = f"{those[0]}{more}"
        if len(those) == len(labels):
            where = f"all of its {counted(len(labels), 'run')}" if file else ""
        where = ": ".join(filter(None, [file, where]))
        found.append(f"{problem} [{where}]" if where else problem)
    return found


def cancellations(runs_dir: StrPath) -> set[tuple[str, str]]:
    """Every run that was cancelled, with the launch that it was cancelled in."""
    return {(queue.token, run_id) for queue in all_queues(runs_dir) for run_id in queue.cancelled()}


def make_plan(
    composed: ComposedRuns,
    name: str | None = None,
    observer: Observer | None = None,
    before: Collection[tuple[str, str]] | None = None,
) -> Plan:
    """Decide what is to be done, while the launch lock is held. Completes what a killed command has left half done.

    With ``dry_run`` it needs no lock, and writes nothing.

    before: `cancellations` when the command was given. Runs that were cancelled since do not start by it.
    """
    runs_dir, dry_run = Path(composed.common("runs_dir")).absolute(), composed.common("dry_run")
    wish = Wish(composed.common("force"), composed.common("retry"))
    observer, labels = observer or Observer(runs_dir), labels_of(composed.overrides)
    since = set() if before is None else cancellations(runs_dir) - set(before)
    cancelled_since = {run_id for _, run_id in since}
    runs, revoked = [], 0
    for identity, container in composed.containers.items():
        if not dry_run:
            recover(runs_dir, identity)
        state = _state_to_continue(observer, identity, wish)
        starts = should_start(state, wish)
        if starts and identity in cancelled_since:
            state, starts = replace(state, state="interrupted", reason="cancelled"), False
            revoked += 1
        runs.append(Planned(identity, container, labels[identity], state, starts))
    notes = [*composed.notes, *_notes(runs_dir, composed, runs, revoked, observer)]
    # the same runs have the same name
    digest = hashlib.sha256(" ".join(sorted(composed.containers)).encode()).hexdigest()[:6]
    merged = len(composed) - len(runs)
    return Plan(
        name or f"sweep-{digest}", runs_dir, tuple(runs), merged, dry_run, composed.file, tuple(notes)
    )


@dataclass(frozen=True)
class Wish:
    """Runs that the user wants besides those that are missing."""

    force: bool = False
    """Execute again what is done, failed or interrupted; see `vlae.runs.rerun`."""
    retry: bool = False
    """Start again what has failed."""


def should_start(state: State, wish: Wish) -> bool:
    """Whether a run in this state starts.

    >>> should_start(State("a", Path("runs/a"), "failed"), Wish(retry=True))
    True
    """
    if state.state == "failed":
        return (wish.retry or wish.force) and state.reason != UNREADABLE
    return state.state in ("new", "interrupted")


def _state_to_continue(observer: Observer, run_id: str, wish: Wish) -> State:
    """The state of the directory in which the run is executed. One whose frozen configuration was edited has failed."""
    state = observer.state(observer.runs_dir / run_id)
    if wish.force and state.state not in ("new", "running", "queued"):
        state = observer.state(observer.runs_dir / FORCED / run_id)
    try:
        if state.state in ("interrupted", "failed"):
            RunDirectory(state.path).config()
    except RecordError as error:
        return replace(state, state="failed", reason=UNREADABLE, message=str(error))
    return state


def _notes(
    runs_dir: Path, composed: ComposedRuns, runs: Sequence[Planned], revoked: int, observer: Observer
) -> Iterator[str]:
    """revoked: runs that do not start because they were cancelled while this command waited."""
    if revoked:
        yield f"{counted(revoked, 'run')} cancelled while this command waited: give it again to start them"
    if text := same_as_earlier(earlier_twins(runs_dir, composed.containers)):
        yield text
    if observer.warning and any(run.state.state in ("queued", "running") for run in runs):
        yield observer.warning


def check_runs(plan: Plan, *, here: bool) -> None:
    """ConfigError: everything that is wrong with the runs that would start. RecordError: nowhere to write them.

    here: they are executed on this machine, which must have their device.
    """
    wrong: dict[str, list[str]] = {}
    if plan.starting:
        check_writable(plan.runs_dir)
    if plan.starting and here:
        with loading():
            check_libraries()
    for run in plan.starting:
        try:
            if problems := environment_problems(run.container["tracker"]):
                raise ConfigError(problems)
            validate(run.container if here else {**run.container, "device": "auto"})
            if problems := beyond_the_machine(run.container, here=here):
                raise ConfigError(problems)
        except ConfigError as error:
            wrong[run.run_id] = error.problems
    if wrong:
        raise ConfigError(problems_by_run(wrong, {run.run_id: run.label for run in plan.starting}, plan.file))


def create_run_directories(plan: Plan) -> None:
    """The run directories of the runs that start. RecordError: there is no space."""
    for run in plan.starting:
        # the group on Weights & Biases is the sweep, where no other is given
        tracker = run.container["tracker"]
        grouped = {**run.container, "tracker": {**tracker, "group": tracker["group"] or plan.sweep}}
        container = with_absolute_paths(grouped)
        if run.state.forced:
            directory = forced_directory(plan.runs_dir, run.run_id, container)
        else:
            directory = RunDirectory.create(plan.runs_dir, run.run_id, container)
        directory.carry_out_as(container)
        if run.state.state == "interrupted" and directory.holder() is not None:  # Slurm knows better
            directory.end_attempt(run.state.reason)


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
    container = run.container
    return tuple(container[section]["name"] for section in ("model", "dataset", "output_dist"))


def labels_of(overrides: dict[str, Sequence[str]]) -> dict[str, str]:
    """Labels of runs: the overrides that not all of them share."""
    said = {}
    for name, job in overrides.items():
        given = [text.lstrip("+") for text in split(job)[0]]
        said[name] = list({text.partition("=")[0]: text for text in given}.values())  # the last one counts
    common = set.intersection(*(set(job) for job in said.values())) if len(said) > 1 else set()
    hidden = {*OPERATIONAL, *OF_A_COMMAND}
    return {
        name: " ".join(text for text in job if text not in common and text.partition("=")[0] not in hidden)
        for name, job in said.items()
    }


def create_queue(
    planned: Plan, frozen: Path, kind: str, settings: dict[str, Any], runs_per_task: int = 1
) -> Queue:
    """The record of this launch."""
    runs = [run.waiting(i // runs_per_task) for i, run in enumerate(planned.starting)]
    labels = {run.run_id: run.label for run in planned.starting}
    settings = {**settings, "labels": labels, "skipped": planned.skipped}
    return create(planned.runs_dir, kind=kind, sweep=planned.sweep, code=frozen, runs=runs, settings=settings)
