"""The epochs that a run need not train, because another run of the same training has: waited for, and taken over.

Decision record: docs/decisions/0022-a-training-is-computed-once.md.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from vlae.config.schema import Trainer
from vlae.experiment.session import Session
from vlae.experiment.take_over import caution, origin, own_elbos, take_over
from vlae.runs.directory import RunDirectory
from vlae.runs.rerun import run_to_replace
from vlae.runs.trainings import (
    WAITING_FOR,
    Sibling,
    Source,
    Trainings,
    end_of,
    first_to_train,
    sources,
)
from vlae.system.disk import DiskError, RecordError
from vlae.training.checkpoints import ask_for

LOOK_EVERY = 2.0  # seconds between two looks at a run that is waited for


@contextmanager
def share_training(session: Session, model: torch.nn.Module, made_with: Mapping[str, str]) -> Iterator[str]:
    """Train in the ``with`` block what no other run of the same training has trained; `Beginning` says how.

    made_with: the code and the torch of this process. It gives the words for where the first epochs came from. With
    ``force=true`` everything is trained.
    """
    if run_to_replace(session.directory.path) is not None:
        yield ""
        return
    Beginning(session, model, made_with).begin()
    yield origin(session.directory)
    # the last checkpoint is written: those who wait for it continue
    session.directory.write_status(trains=None)


def others_of_training(session: Session) -> list[RunDirectory]:
    """The other runs of the training, whose scores may be taken over; none with ``force=true``."""
    directory = session.directory
    if run_to_replace(directory.path) is not None:
        return []
    return Trainings(directory.path.parent).directories(directory.path.name, directory.config())


class Beginning:
    """The beginning of a training: take over what others have, wait while one trains what this run needs.

    Of two runs that begin at once the one with the smaller id trains: each says that it will before it looks for the
    other a last time.
    """

    def __init__(self, session: Session, model: torch.nn.Module, made_with: Mapping[str, str]) -> None:
        self.session, self.directory, self.made_with = session, session.directory, made_with
        self.container, self.training = self.directory.config(), self.directory.training()
        self.trainer = Trainer(**self.container["trainer"])
        self.shapes = {name: value.shape for name, value in model.state_dict().items()}
        self.trainings, self.said = Trainings(self.directory.path.parent), set[str]()

    def begin(self) -> None:
        """When it returns the run trains, and others wait for it, or nothing is left to train.

        Errors: Interrupted by a signal; RecordError: this run cannot be written.
        """
        own, decided = own_elbos(self.directory, self.trainer.selection), False
        while not end_of(self.trainer, own):
            siblings = self._look()
            others = sources(siblings, self.trainer, len(own))
            if any(self._take(each, complete=True) for each in others):
                break
            if first := first_to_train(siblings, self.trainer, self.directory.path.name):
                if decided:
                    decided = False
                    self._announce(False)
                self._wait_for(first)
            elif not decided:
                decided = True
                self._announce(True)
            else:
                any(self._take(each) for each in others)
                return
        self._announce(None)

    def _look(self) -> list[Sibling]:
        self.trainings.look_again()
        siblings = self.trainings.siblings(self.directory.path.name, self.container)
        for run, reason in self.trainings.refused.items():
            self._warn_once(f"nothing is taken over from {run}: {reason}")
        return siblings

    def _announce(self, trains: bool | None) -> None:
        self.directory.write_status(trains=trains)

    def _wait_for(self, other: Sibling) -> None:
        text = f"{WAITING_FOR}{other.run_id}"
        if text not in self.said:
            self.said.add(text)
            self.session.reporter.line(f"{text}, which trains the same model")
            ask_for(other.directory, self.trainer.epochs)
        self.session.attempt.heartbeat({"doing": text})
        time.sleep(LOOK_EVERY)
        self.session.interruption.check()

    def _warn_once(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            self.session.reporter.warn(text)

    def _take(self, source: Source, *, complete: bool = False) -> bool:
        """Take over what is usable of another run; False: it is damaged, or of less use than its record shows."""
        if complete and not source.usable.complete:
            return False
        other = source.sibling.directory
        try:
            other.config()  # an edited one is refused
            how = self.training, self.trainer, self.shapes
            taken = take_over(other, self.directory, *how, complete=complete)
        except DiskError:
            raise
        except RecordError as error:
            self._warn_once(f"nothing is taken over from {other.path.name}: {error}")
            return False
        if taken and (text := caution(taken, self.made_with)):
            self.session.reporter.warn(text)
        return taken is not None
