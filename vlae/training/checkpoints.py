"""The checkpoints of a training, and its errors, which name the last good one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from vlae.data.preprocess import Preprocess
from vlae.errors import NonFiniteError
from vlae.models.base import LatentVariableModel
from vlae.runs import checkpoint
from vlae.runs.directory import RecordError, RunDirectory
from vlae.system.files import check_inside


@dataclass
class Progress:
    """The state of a training; with the model and the optimiser it is a checkpoint."""

    epoch: int = 0
    """Complete epochs."""
    batch: int = 0
    """Complete steps of the current epoch."""
    step: int = 0
    means: list[list[float]] = field(default_factory=list)
    """The objective's metrics at each step of the current epoch, averaged over its images."""
    best_epoch: int = 0
    best_elbo: float = -float("inf")
    best_model: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    trained_with: list[dict[str, str]] = field(default_factory=list)
    """``code`` (its hash) and ``torch`` of all processes that have trained, each pair once."""


def read_checkpoint(directory: RunDirectory) -> tuple[dict[str, Any] | None, list[str]]:
    """The last good checkpoint of a run, if it has one, and warnings about damaged ones."""
    return checkpoint.load(check_inside(directory.path, "checkpoints"))


def ask_for(directory: RunDirectory, epoch: int) -> None:
    """Ask a run that trains to keep its state at the end of an epoch, for another run of the same training."""
    asked = _asked(directory.path / "checkpoints", epoch)
    with suppress(OSError):  # another user's run; then its other checkpoints have to do
        asked.parent.mkdir(exist_ok=True)
        asked.touch()


def _asked(folder: Path, epoch: int) -> Path:
    return folder / f".wanted-{epoch}"


def check_training(state: Mapping[str, Any], own: str | None, place: Path) -> None:
    """RecordError: a checkpoint in ``place`` says that it is of another training than ``own``."""
    if (claimed := state.get("training")) not in (None, own):
        raise RecordError(
            f"{place}: a checkpoint of the training {claimed}, expected one of {own}: it was copied there from another "
            "run. Delete it to train from the start"
        )


@runtime_checkable
class Stateful(Protocol):
    """A part of a training that a checkpoint restores."""

    def state_dict(self) -> dict[str, Any]:
        """Its state for a checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Continue from there."""
        ...


class Checkpoints:
    """Saves and restores one training: its model, its optimiser, its other parts and its progress."""

    def __init__(
        self,
        directory: RunDirectory,
        model: LatentVariableModel,
        optimizer: torch.optim.Optimizer,
        preprocess: Preprocess,
        training_id: str | None = None,
        made_with: dict[str, str] | None = None,
        parts: Mapping[str, Stateful] = MappingProxyType({}),
    ) -> None:
        """training_id: what it shares with other runs; made_with: the code and the torch of this process."""
        self.parts = parts
        self.directory, self.model, self.optimizer, self.preprocess = directory, model, optimizer, preprocess
        self.folder, self.training_id, self.made_with = directory.path / "checkpoints", training_id, made_with

    def save(self, progress: Progress) -> None:
        """Write a checkpoint: with the seed it determines the rest of the training, bit for bit on a CPU."""
        if not all(torch.isfinite(q).all() for q in self.model.parameters()):
            raise self.error(f"the weights became NaN or infinite by step {progress.step}", progress)
        if self.made_with and self.made_with not in progress.trained_with:
            progress.trained_with.append(self.made_with)
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": vars(progress),
            "metrics_size": self.directory.metrics_size(),
            "preprocess": self.preprocess.state(),
            "training": self.training_id,
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
        }
        checkpoint.save(self.folder, state)

    def keep_if_wanted(self, progress: Progress) -> bool:
        """Save and keep the state at the end of this epoch, if another run has asked for it by `ask_for`."""
        asked = _asked(self.folder, progress.epoch)
        if not asked.exists():
            return False
        self.save(progress)
        checkpoint.keep(self.folder, progress.epoch)
        asked.unlink(missing_ok=True)
        return True

    def resume(self) -> tuple[Progress, list[str]]:
        """Restore the last good checkpoint, if there is one. Returns its progress, and warnings about damaged ones."""
        state, warnings = read_checkpoint(self.directory)
        progress = Progress()
        if state is not None:
            check_training(state, self.training_id, self.folder)
            if state["model"] is not None:  # else the training is over, and only its best model is kept
                self.model.load_state_dict(state["model"])
                self.optimizer.load_state_dict(state["optimizer"])
                for name, part in state.get("parts", {}).items():  # checkpoints from before had none
                    self.parts[name].load_state_dict(part)
            progress = Progress(**state["progress"])
        self.directory.truncate_metrics(state["metrics_size"] if state is not None else 0)
        return progress, warnings

    def error(self, problem: str, progress: Progress) -> NonFiniteError:
        """The error of a training that diverged: in which epoch, and what is left."""
        last = self.folder / "last.pt"
        good = f"The last good checkpoint is {last}." if last.exists() else "There is no checkpoint yet."
        return NonFiniteError(
            f"{problem} (epoch {progress.epoch + 1}). {good} "
            "A smaller optimizer.lr or trainer.clip_grad_norm usually helps."
        )

    @contextmanager
    def locate_errors(self, where: str, progress: Progress) -> Iterator[None]:
        """Turn a NonFiniteError of the ``with`` block into an `error` that says where it happened."""
        try:
            yield
        except NonFiniteError as error:
            raise self.error(f"{error}, {where}", progress) from error
