"""Trainings: what runs share that differ only in how long they train or in how they are scored.

A training is a function of its configuration alone, so the epochs of one run are the first epochs of every other run of
the same training. Decision record: docs/decisions/0022-a-training-is-computed-once.md.
"""

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vlae.config.run_id import training_id
from vlae.config.schema import Trainer
from vlae.runs.directory import RunDirectory, is_run, read_status
from vlae.system.disk import RecordError
from vlae.system.files import StrPath, read_json

TAKEN_OVER = "taken_over.json"
"""The file of a run directory that says whose epochs it took over: `vlae.runs.schema.TakenOver`."""
WAITING_FOR = "waiting for "
"""With an id: what a run does, by its record, while another one trains."""


class End(NamedTuple):
    """The last epoch of a training, and its best one."""

    epoch: int
    best_epoch: int


def end_of(trainer: Trainer, elbos: Sequence[float]) -> End | None:
    """The end of a training whose epochs have these selection ELBOs; None: it is not among these epochs.

    >>> end_of(Trainer(epochs=10, patience=2), [1.0, 3.0, 2.0, 2.5, 4.0])
    End(epoch=4, best_epoch=2)
    """
    best, best_epoch = -math.inf, 0
    for epoch, elbo in enumerate(elbos, 1):
        if elbo > best:
            best, best_epoch = elbo, epoch
        if trainer.is_over(epoch, best_epoch):
            return End(epoch, best_epoch)
    return None


class Usable(NamedTuple):
    """The epochs that a run takes from another run of its training."""

    epochs: int
    complete: bool
    """True if nothing is left to train."""


def usable_of(trainer: Trainer, elbos: Sequence[float], trained: int) -> Usable | None:
    """What a run can take from a checkpoint of its training after ``trained`` epochs; None: nothing.

    elbos: the selection ELBOs of these epochs, and perhaps of later ones. A longer training is of use if its best model
    is from the epochs that the run asks for: it keeps no other.

    >>> longer = usable_of(Trainer(epochs=2), [1.0, 3.0, 2.0], trained=3)
    >>> longer, usable_of(Trainer(epochs=1), [1.0, 3.0, 2.0], trained=3)
    (Usable(epochs=2, complete=True), None)
    """
    end = end_of(trainer, elbos)
    if end is None or trained < end.epoch:
        return Usable(trained, False)
    best_epoch = elbos.index(max(elbos[:trained])) + 1
    return Usable(end.epoch, True) if best_epoch <= end.epoch else None


@dataclass(frozen=True)
class Sibling:
    """Another run of the same training, as it is on disk."""

    directory: RunDirectory
    state: str
    trains: bool
    """True if its living process trains."""
    undecided: bool
    """True if its living process has not decided yet whether it trains."""
    elbos: tuple[float, ...]
    """Selection ELBOs of the epochs in its metrics.jsonl."""
    has_checkpoint: bool = True
    whole: bool = True
    """False if only its best model is there, so that nothing can be trained on."""
    kept: frozenset[int] = frozenset()
    """Epochs at whose end its state is kept, because others asked for them."""

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self.directory.path.name


class Trainings:
    """The runs of a runs directory by their training; each is read once."""

    def __init__(self, runs_dir: StrPath) -> None:
        self.runs_dir = Path(runs_dir)
        self.refused: dict[str, str] = {}
        """Why nothing can be taken from some runs, by run id."""
        self._claimed: dict[str, str | None] = {}
        self.look_again()

    def look_again(self) -> None:
        """Read the runs again. The training of a run is read once: it never changes."""
        self._read: dict[str, Sibling | None] = {}
        self._names: dict[str, list[str]] | None = None
        self._of_training: dict[str, dict[str | None, list[str]]] = {}

    def siblings(self, run_id: str, container: dict[str, Any]) -> list[Sibling]:
        """The other runs of the training of ``container``, with what can be taken from them."""
        selection = container["trainer"]["selection"]
        siblings = (self._sibling(name, selection) for name in self._others(run_id, container))
        return [each for each in siblings if each is not None]

    def directories(self, run_id: str, container: dict[str, Any]) -> list[RunDirectory]:
        """The directories of the same runs, of which nothing is read but the training that they claim."""
        return [RunDirectory(self.runs_dir / name) for name in self._others(run_id, container)]

    def _others(self, run_id: str, container: dict[str, Any]) -> list[str]:
        """Names of the other runs of the training of ``container``.

        They have the same model, dataset, output distribution and seed, so that their ids begin alike.
        """
        alike = run_id.rpartition("-")[0]
        if alike not in self._of_training:
            found = self._of_training.setdefault(alike, {})
            for name in self._by_prefix().get(alike, []):
                found.setdefault(self._claim_of(name), []).append(name)
        return [name for name in self._of_training[alike].get(training_id(container), []) if name != run_id]

    def runs_of(self, prefix: str) -> Iterator[Path]:
        """The directories of all runs whose ids begin so: with a model, or with ``model-dataset-output``."""
        for alike, names in self._by_prefix().items():
            if alike.startswith(f"{prefix}-"):
                yield from (self.runs_dir / name for name in names)

    def _by_prefix(self) -> dict[str, list[str]]:
        """Names of directories by what is before their hash."""
        if self._names is None:
            self._names = {}
            for name in sorted(os.listdir(self.runs_dir)) if self.runs_dir.is_dir() else ():
                self._names.setdefault(name.rpartition("-")[0], []).append(name)
        return self._names

    def _claim_of(self, name: str) -> str | None:
        """The training that a run claims; None: it is none, or cannot be read."""
        if name not in self._claimed and is_run(self.runs_dir / name):
            directory = RunDirectory(self.runs_dir / name)
            try:
                # older runs did not record it
                claimed = read_status(str(directory.path))["training"] or training_id(directory.config())
            except RecordError as error:
                claimed, self.refused[name] = None, str(error)
            self._claimed[name] = claimed
        return self._claimed.get(name)

    def _sibling(self, name: str, selection: str) -> Sibling | None:
        if name not in self._read:
            try:
                self._read[name] = read_sibling(RunDirectory(self.runs_dir / name), selection)
            except RecordError as error:
                self._read[name], self.refused[name] = None, str(error)
        return self._read[name]


def read_sibling(directory: RunDirectory, selection: str) -> Sibling:
    """A run as others of its training see it. RecordError: its record is damaged."""
    status = directory.status()
    running, folder = status["state"] == "running", directory.path / "checkpoints"
    kept = (re.fullmatch(r"epoch-(\d+)\.pt", path.name) for path in folder.glob("epoch-*.pt"))
    return Sibling(
        directory,
        str(status["state"]),
        trains=running and status["trains"] is True,
        undecided=running and status["trains"] is False,
        elbos=selection_elbos(directory.metrics(), selection),
        has_checkpoint=(folder / "last.pt").is_file(),
        whole=(read_json(directory.path / TAKEN_OVER) or {}).get("whole", True) is not False,
        kept=frozenset(int(match[1]) for match in kept if match),
    )


def selection_elbos(lines: Sequence[dict[str, Any]], selection: str) -> tuple[float, ...]:
    """The ELBO by which the best epoch is chosen, of each epoch."""
    values = (line.get(f"{selection}/elbo_nats") for line in lines)
    return tuple(math.nan if value is None else float(value) for value in values)


class Source(NamedTuple):
    """A run to take epochs from, and what is usable of it as far as its record shows."""

    sibling: Sibling
    usable: Usable


def sources(found: Sequence[Sibling], trainer: Trainer, own: int) -> list[Source]:
    """What is worth taking, the best first: complete trainings, then those with the most epochs.

    own: epochs that the run itself has.
    """
    every = [(each, _usable_now(trainer, each)) for each in found]
    useful = [Source(each, u) for each, u in every if u and u.epochs and (u.complete or u.epochs > own)]

    def rank(source: Source) -> tuple[bool, bool, int, str]:
        whole = source.usable.epochs == len(source.sibling.elbos)  # it can be trained on, too
        return not source.usable.complete, not whole, -source.usable.epochs, source.sibling.run_id

    return sorted(useful, key=rank)


def _usable_now(trainer: Trainer, sibling: Sibling) -> Usable | None:
    """What is usable of a run as far as its record shows; of one that trains, only if it is past the end asked for."""
    end, usable = end_of(trainer, sibling.elbos), usable_of(trainer, sibling.elbos, len(sibling.elbos))
    if end and end.epoch in sibling.kept:
        return Usable(end.epoch, True)
    if not sibling.has_checkpoint or (sibling.trains and not end):
        return None
    if sibling.trains and usable is None and end:
        usable = Usable(end.epoch - 1, False)  # its last checkpoint may be from before that end
    return usable if usable and (usable.complete or sibling.whole) else None


def first_to_train(found: Sequence[Sibling], trainer: Trainer, own: str) -> Sibling | None:
    """A run to wait for: its training may serve, or it decides first whether it trains.

    One that trains is waited for until its checkpoint serves, or until it has a better epoch behind the end asked for.
    """
    for each in found:
        end = end_of(trainer, each.elbos)
        may_serve = end is None or usable_of(trainer, each.elbos, len(each.elbos)) is not None
        if (each.trains and may_serve) or (each.undecided and each.run_id < own):
            return each
    return None
