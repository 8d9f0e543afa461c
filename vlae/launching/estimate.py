"""The time that runs will take, by what finished runs of the same models took."""

import heapq
import itertools
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlae.config.run_id import exact_text, scientific
from vlae.config.schema import ESTIMATORS
from vlae.launching.plan import Plan, Planned
from vlae.launching.work import Work
from vlae.runs.directory import RunDirectory
from vlae.runs.trainings import Trainings
from vlae.system.disk import RecordError

Rates = dict[str, float]
"""Seconds of an epoch (``epoch``), and of each part of an evaluation, for one sample of one image; and IMAGES."""
IMAGES = "images"  # the number of test images that were scored
ENOUGH = 3  # runs that show what a model costs
FIT = 10_000
"""Samples that take as long as the fit of an image: 5,500 were measured on digits, 14,000 on a VAE of MNIST."""


class Estimates:
    """Seconds of runs by those of finished runs: of the plan, and of the same trainings."""

    def __init__(self, plan: Plan, trainings: Trainings) -> None:
        self.trainings = trainings
        self.known: dict[tuple[str, ...], list[Rates]] = {}
        """By model, dataset and output distribution; of a few runs each."""
        self.elsewhere: dict[str, list[Rates]] = {}
        """By model alone, from runs on any dataset."""
        for path, kind in _finished(plan, trainings) if plan.starting else ():
            if len(self.known.get(kind, ())) < ENOUGH and (rates := _rates_of(path)):
                self.known.setdefault(kind, []).append(rates)
        for kind in dict.fromkeys(map(_kind, plan.starting)):  # from other seeds, or other settings
            known = self.known.get(kind, [])
            if len(known) < ENOUGH and (found := _first_rates(trainings, "-".join(kind))):
                self.known[kind] = [*known, *found][:ENOUGH]

    def seconds(self, run: Planned, work: Work) -> float | None:
        """Seconds of this work; None: no finished run shows how long it takes."""
        rates = self.known.get(_kind(run)) or [each for some in self.known.values() for each in some]
        if not rates or (work.parts and not any(each.keys() - {"epoch", IMAGES} for each in rates)):
            return None  # runs that were not scored do not show how long that takes
        return self._seconds(run, work, rates)

    def cost(self, run: Planned, work: Work) -> float:
        """The same to compare runs by: a model without a finished run in the plan costs what it costs elsewhere."""
        if (seconds := self.seconds(run, work)) is not None:
            return seconds
        model = run.container["model"]["name"]
        if model not in self.elsewhere:
            self.elsewhere[model] = _first_rates(self.trainings, model)
        rates = self.elsewhere[model]
        return self._seconds(run, work, rates) if rates else 0.0

    @staticmethod
    def _seconds(run: Planned, work: Work, rates: Sequence[Rates]) -> float:
        """With these rates."""
        seconds, images = work.epochs * _mean(rates, "epoch"), _mean(rates, IMAGES)
        return seconds + sum(_size(part, run.container, images) * _mean(rates, part) for part in work.parts)


def _finished(plan: Plan, trainings: Trainings) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Directories of finished runs of the plan, and then of the trainings that it continues, with their kinds."""
    yield from ((run.path, _kind(run)) for run in plan.runs if run.state.state == "done" and not run.starts)
    for run in plan.starting:
        for each in trainings.siblings(run.run_id, run.container):
            if each.state == "done":
                yield each.directory.path, _kind(run)


def _first_rates(trainings: Trainings, prefix: str) -> list[Rates]:
    """The rates of a few finished runs whose ids begin so."""
    done = (path for path in trainings.runs_of(prefix) if (path / "results.json").is_file())
    return list(itertools.islice(filter(None, map(_rates_of, done)), ENOUGH))


def _kind(run: Planned) -> tuple[str, ...]:
    return tuple(run.container[section]["name"] for section in ("model", "dataset", "output_dist"))


def _mean(rates: Sequence[Rates], name: str) -> float:
    """The mean rate; that of ``own`` for a part that no run has had, 0 if none had that either."""
    found = [each[name] for each in rates if name in each] or [
        each.get("proposals.own", 0.0) for each in rates
    ]
    return statistics.mean(found)


def _size(part: str, container: Mapping[str, Any], images: float) -> float:
    """The number of samples of a part for all its images, with its fit. images: of the whole test set.

    A gradient takes as long as two samples. A bracket is of test images and of as many drawn from the model.
    """
    if part.startswith("proposals."):
        samples = container["evaluate"]["num_samples"] + (FIT if part == "proposals.fitted" else 0)
        return samples * float(container["evaluate"]["num_images"] or images)
    if part == "bracket":
        chains = container["evaluate"]["bracket"]
        gradients = 2 * chains["num_chains"] * chains["num_distributions"] * chains["num_leapfrog"]
        return 2 * min(images, chains["num_images"]) * (FIT + 2 * gradients)
    return float(container["evaluate"]["num_gap_images"]) if part == "gaps" else 1.0


def _rates_of(path: Path) -> Rates:
    """The rates that the results of a run show; empty: it has none."""
    try:
        directory = RunDirectory(path)
        return _rates(directory.results() or {}, directory.config())
    except (RecordError, LookupError, TypeError, AttributeError, ZeroDivisionError):  # of another version
        return {}


def _rates(results: Mapping[str, Any], container: Mapping[str, Any]) -> Rates:
    cost = results["cost"]
    by_proposal = cost.get("seconds_by_proposal") or {}
    found = {"epoch": cost["train_seconds"] / results["epochs"]}
    own = (results["test"].get("log_likelihood") or {}).get("own") or {}
    images = found[IMAGES] = float(own.get("num_images") or 1)
    for name, seconds in by_proposal.items():
        found[f"proposals.{name}"] = seconds / _size(f"proposals.{name}", container, images)
    others = sum(by_proposal.values())
    for name in ESTIMATORS:
        if seconds := cost.get(f"{name}_seconds"):
            part = "bdmc.lower" if name == "bdmc" else name  # of all its parts
            found[part] = seconds / _size(part, container, images)
            others += seconds
    if measured := _size("gaps", container, images):
        found["gaps"] = max(0.0, cost["evaluate_seconds"] - others) / measured
    return found


def complete_tables(
    plan: Plan, order: Iterable[Sequence[Planned]], seconds: Mapping[str, float], workers: int
) -> list[tuple[int, float]]:
    """How many of the runs that start, and how many seconds, each complete table with n = 1, 2, ... seeds takes.

    order: the chains that start, in their order; workers: chains at a time.
    """
    cells: dict[str, list[tuple[float, int]]] = {}
    for run in plan.runs:
        cells.setdefault(_cell(run), [])
        if run.state.state == "done" and not run.starts:
            cells[_cell(run)].append((0.0, 0))
    free, ended = [0.0] * max(1, workers), list[tuple[float, Planned]]()
    for chain in order:
        time = heapq.heappop(free)
        for run in chain:
            time += seconds.get(run.run_id, 1.0)
            ended.append((time, run))
        heapq.heappush(free, time)
    for number, (time, run) in enumerate(sorted(ended, key=lambda entry: entry[0]), 1):
        cells[_cell(run)].append((time, number))
    most = min((len(cell) for cell in cells.values()), default=0)
    return [_latest(cells.values(), n) for n in range(most)]


def _latest(cells: Iterable[Sequence[tuple[float, int]]], n: int) -> tuple[int, float]:
    ends = [cell[n] for cell in cells]
    return max(number for _, number in ends), max(time for time, _ in ends)


def _cell(run: Planned) -> str:
    return exact_text(scientific({**run.container, "seed": 0}))
