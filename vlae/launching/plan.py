"""The plan of a launch: which runs a sweep consists of, what is true of each, and which of them are to be started."""

import hashlib
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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
    """What distinguishes it from the others."""
    state: State
    starts: bool
    forced: bool

    @property
    def path(self) -> Path:
        return self.state.path

    def waiting(self, task: int = 0) -> Waiting:
        """As it stands in a queue."""
        return Waiting(self.run_id, self.state.attempts, self.forced, task)


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
    """What is to be said of it besides."""

    @property
    def starting(self) -> list[Planned]:
        return [run for run in self.runs if run.starts]

    @property
    def counts(self) -> dict[str, int]:
        """By state."""
        return dict(Counter(run.state.state for run in self.runs))


class Jobs:
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
            raise ConfigError(located(wrong, labels, file))

    def __len__(self) -> int:
        return len(self._all)

    def common(self, key: str) -> Any:
        """The value of a key that a launch has one of. ConfigError: the runs disagree."""
        values = [get(container, key) for container in self._all]
        if any(value != values[0] for value in values):
            came = ", ".join(dict.fromkeys(shown(value) for value in values))
            raise ConfigError([Problem(key, f"expected one value for all runs of a sweep, came {came}")])
        return values[0]


def located(wrong: Mapping[str, Sequence[str]], labels: Mapping[str, str], file: str | None) -> list[str]:
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


def plan(
    jobs: Jobs,
    name: str | None = None,
    observer: Observer | None = None,
    before: Collection[tuple[str, str]] | None = None,
) -> Plan:
    """What is to be done; call it in a `turn`. Completes what a killed command has left half done, and no more.

    With ``dry_run`` it needs no turn, and writes nothing.

    before: `cancellations` when the command was given. Runs that were cancelled since do not start by it.
    """
    force, retry, runs_dir = (
        jobs.common("force"),
        jobs.common("retry"),
        Path(jobs.common("runs_dir")).absolute(),
    )
    dry_run, observer = jobs.common("dry_run"), observer or Observer(runs_dir)
    labels, runs = labels_of(jobs.overrides), []
    meanwhile = (
        {run_id for _, run_id in cancellations(runs_dir) - set(before)} if before is not None else set()
    )
    revoked = 0
    for identity, container in jobs.containers.items():
        if not dry_run:
            recover(runs_dir, identity)
        state = observer.state(runs_dir / identity)
        anew = force and state.state not in ("new", "running", "queued")
        if anew:
            state = observer.state(runs_dir / FORCED / identity, forced=True)
        if state.state in ("interrupted", "failed"):
            state = _unless_edited(state)
        again = state.state == "failed" and (retry or force) and state.reason != UNREADABLE
        starts = state.state in ("new", "interrupted") or again
        if starts and identity in meanwhile:
            state, starts, revoked = (
                replace(state, state="interrupted", reason="cancelled"),
                False,
                revoked + 1,
            )
        runs.append(Planned(identity, container, labels[identity], state, starts, anew))
    sweep = name or _name_of(jobs.containers)
    notes = list(jobs.notes)
    if revoked:
        text = f"{counted(revoked, 'run')} cancelled while this command waited: give it again to start them"
        notes.append(text)
    if text := same_as_earlier(earlier_twins(runs_dir, jobs.containers)):
        notes.append(text)
    if observer.warning and any(run.state.state in ("queued", "running") for run in runs):
        notes.append(observer.warning)
    return Plan(sweep, runs_dir, tuple(runs), len(jobs) - len(runs), dry_run, jobs.file, tuple(notes))


def _unless_edited(state: State) -> State:
    """A run whose frozen configuration was edited by hand is not started, and stops no other."""
    try:
        RunDirectory(state.path).config()
    except RecordError as error:
        return replace(state, state="failed", reason=UNREADABLE, message=str(error))
    return state


def check(plan: Plan, *, here: bool) -> None:
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
        raise ConfigError(located(wrong, {run.run_id: run.label for run in plan.starting}, plan.file))


def freeze(plan: Plan) -> None:
    """The run directories of the runs that start. RecordError: there is no space."""
    for run in plan.starting:
        container = with_absolute_paths(_grouped(run.container, plan.sweep))
        if run.forced:
            directory = forced_directory(plan.runs_dir, run.run_id, container)
        else:
            directory = RunDirectory.create(plan.runs_dir, run.run_id, container)
        directory.carry_out_as(container)
        if run.state.state == "interrupted" and directory.holder() is not None:  # Slurm knows better
            directory.end_attempt(run.state.reason)


def estimated_seconds(plan: Plan) -> float | None:
    """Of the runs that start, one after the other, by those of their model and dataset that are done; None: unknown."""
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
    """What is said of each run and not of all of them."""
    said = {}
    for name, job in overrides.items():
        given = [text.lstrip("+") for text in split(job)[0]]
        said[name] = list({text.partition("=")[0]: text for text in given}.values())  # the last one counts
    common = set.intersection(*(set(job) for job in said.values())) if len(said) > 1 else set()
    return {
        name: " ".join(text for text in job if text not in common and not _operational(text))
        for name, job in said.items()
    }


def _operational(override: str) -> bool:
    key = override.partition("=")[0]
    return key in OPERATIONAL or key in OF_A_COMMAND


def _name_of(run_ids: Iterable[str]) -> str:
    """The same runs have the same name."""
    return "sweep-" + hashlib.sha256(" ".join(sorted(run_ids)).encode()).hexdigest()[:6]


def _grouped(container: dict[str, Any], sweep: str) -> dict[str, Any]:
    """With the sweep's name as that of the group on Weights & Biases, where no other is given."""
    tracker = container["tracker"]
    return {**container, "tracker": {**tracker, "group": tracker["group"] or sweep}}


def skipped(planned: Plan) -> dict[str, int]:
    """By state, the runs that do not start."""
    counts: dict[str, int] = {}
    for run in planned.runs:
        if not run.starts:
            counts[run.state.state] = counts.get(run.state.state, 0) + 1
    return counts


def queue_of(
    planned: Plan, frozen: Path, kind: str, settings: dict[str, Any], runs_per_task: int = 1
) -> Queue:
    """The record of this launch."""
    runs = [run.waiting(i // runs_per_task) for i, run in enumerate(planned.starting)]
    labels = {run.run_id: run.label for run in planned.starting}
    settings = {**settings, "labels": labels, "skipped": skipped(planned)}
    return create(planned.runs_dir, kind=kind, sweep=planned.sweep, code=frozen, runs=runs, settings=settings)
