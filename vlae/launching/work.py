"""The work of a run that starts, as far as the records show: the epochs it trains, the parts of its evaluation."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlae.config.schema import Evaluate, Trainer
from vlae.estimation.part_settings import images_of, part_settings
from vlae.launching.plan import Planned
from vlae.runs.directory import RunDirectory
from vlae.runs.trainings import Sibling, Trainings, end_of, read_sibling, sources
from vlae.system.disk import RecordError

Parts = dict[str, tuple[dict[str, Any], float]]
"""The parts of an evaluation by key: the settings of each, and the number of its images."""


@dataclass(frozen=True)
class Work:
    """What a run computes itself; it takes over the rest.

    >>> str(Work(epochs=0, of=20, source="vae-0", parts=("proposals.student_t",), every=False))
    'trains 0 of 20 epochs (from vae-0), scores student_t only'
    """

    epochs: int
    of: int
    source: str = ""
    """The run that others of its epochs come from; empty: itself."""
    parts: tuple[str, ...] = ()
    every: bool = True
    """True if these are all parts of its evaluation."""

    def __str__(self) -> str:
        source = f" (from {self.source})" if self.source else ""
        said = [f"trains {self.epochs} of {self.of} epochs{source}"] if self.epochs < self.of else []
        if not self.every:
            names = ", ".join(part.removeprefix("proposals.") for part in self.parts)
            said.append(f"scores {names} only" if names else "scores nothing")
        return ", ".join(said)


def work_of(chains: Sequence[Sequence[Planned]], trainings: Trainings) -> dict[str, Work]:
    """The work of each run of these chains, by its id. Those before it in its chain count as done."""
    known, found = _Known(trainings), dict[str, Work]()
    for chain in chains:
        for place, run in enumerate(chain):
            found[run.run_id] = known.work(run, chain[:place])
    return found


class _Known:
    """What is on disk of the trainings of a plan."""

    def __init__(self, trainings: Trainings) -> None:
        self.trainings = trainings
        self.parts: dict[str, Parts] = {}

    def work(self, run: Planned, before: Sequence[Planned]) -> Work:
        trainer, wanted = Trainer(**run.container["trainer"]), _parts(run.container)
        if run.state.is_rerun:
            return Work(trainer.epochs, trainer.epochs, parts=tuple(wanted))
        siblings = self.trainings.siblings(run.run_id, run.container)
        own = self._elbos_of(run, trainer)
        # complete trainings first, then those of the most epochs
        taken = [
            (each.usable.complete, each.usable.epochs, each.sibling.run_id)
            for each in sources(siblings, trainer, len(own))
        ]
        taken += [(length_of(each) == length_of(run), length_of(each)[0], each.run_id) for each in before]
        complete, epochs, source = max(taken, default=(False, 0, ""))
        if end_of(trainer, own) or (not complete and len(own) >= epochs):
            complete, epochs, source = bool(end_of(trainer, own)), len(own), ""
        same = [each for each in siblings if _same_weights(each, siblings, trainer)] if complete else []
        scored = [self._scores_of(each) for each in same]
        scored += [_parts(each.container) for each in before if length_of(each) == length_of(run)]
        open_parts = tuple(key for key, part in wanted.items() if not _is_known(key, part, scored))
        left = 0 if complete else max(0, trainer.epochs - epochs)
        return Work(left, trainer.epochs, source, open_parts, open_parts == tuple(wanted))

    def _elbos_of(self, run: Planned, trainer: Trainer) -> tuple[float, ...]:
        """Those of the epochs that an interrupted run has."""
        if run.state.attempts == 0:
            return ()
        try:
            found = read_sibling(RunDirectory(run.path), trainer.selection)
        except RecordError:
            return ()
        return found.elbos if found.has_checkpoint else ()

    def _scores_of(self, sibling: Sibling) -> Parts:
        if sibling.run_id not in self.parts:
            self.parts[sibling.run_id] = {}
            with contextlib.suppress(RecordError, ValueError):
                # an older version kept no scores that can be shared
                if "taken_over" in (sibling.directory.results() or {}):
                    self.parts[sibling.run_id] = _parts(sibling.directory.config())
        return self.parts[sibling.run_id]


def _parts(container: Mapping[str, Any]) -> Parts:
    evaluate = Evaluate(**container["evaluate"])
    found = part_settings(evaluate).items()
    return {key: (settings, images_of(evaluate, key)) for key, settings in found}


def _is_known(key: str, part: tuple[dict[str, Any], float], scored: Sequence[Parts]) -> bool:
    """True if a run has scored the same images; of more or fewer, only whole groups are taken over."""
    return any(each.get(key) == part for each in scored)


def _same_weights(sibling: Sibling, siblings: Sequence[Sibling], trainer: Trainer) -> bool:
    """True if a run that is done has the best model that a run of this length has."""
    ends = [end for each in siblings if (end := end_of(trainer, each.elbos))]
    if not ends or sibling.state != "done" or not sibling.elbos:
        return False
    return sibling.elbos.index(max(sibling.elbos)) + 1 == ends[0].best_epoch


def length_of(run: Planned) -> tuple[int, float]:
    """What runs of one training are ordered by: epochs, then patience."""
    trainer = run.container["trainer"]
    return trainer["epochs"], math.inf if trainer["patience"] is None else trainer["patience"]
