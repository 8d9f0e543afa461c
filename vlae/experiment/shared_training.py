"""The epochs that a run need not train, because another run of the same training has: waited for, and taken over.

Decision record: docs/decisions/0022-a-training-is-computed-once.md.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vlae.config.schema import Trainer
from vlae.experiment.session import Session
from vlae.experiment.take_over import caution, origin, take_over
from vlae.runs.directory import RunDirectory
from vlae.runs.rerun import run_to_replace
from vlae.runs.trainings import (
    WAITING_FOR,
    Sibling,
    Source,
    Trainings,
    end_of,
    first_to_train,
    selection_elbos,
    sources,
)
from vlae.system.disk import DiskError, RecordError

LOOK_EVERY = 2.0  # seconds between two looks at a run that is waited for


@contextmanager
def share_training(session: Session) -> Iterator[str]:
    """Train in the ``with`` block what no other run of the same training has trained; `_begin` says how.

    It gives the words for where the first epochs came from. With ``force=true`` everything is trained.
    """
    if run_to_replace(session.directory.path) is not None:
        yield ""
        return
    _begin(session, session.directory.config())
    yield origin(session.directory)
    _announce(session, None)  # the last checkpoint is written: those who wait for it continue


def others_of_training(session: Session) -> list[RunDirectory]:
    """The other runs of the training, whose scores may be taken over; none with ``force=true``."""
    directory = session.directory
    if run_to_replace(directory.path) is not None:
        return []
    siblings = Trainings(directory.path.parent).siblings(directory.path.name, directory.config())
    return [sibling.directory for sibling in siblings]


def _begin(session: Session, container: dict[str, Any]) -> None:
    """Take over what another run of the training has, and wait while one trains.

    When it returns the run trains, and later ones wait for it, or nothing is left to train. Of two that begin at once
    the one with the smaller id trains: each says that it will before it looks for the other a last time.
    Errors: Interrupted by a signal; RecordError: this run cannot be written.
    """
    directory, trainer, said = session.directory, Trainer(**container["trainer"]), set[str]()
    own = selection_elbos(directory.metrics(), trainer.selection)
    decided = False
    while True:
        found = Trainings(directory.path.parent)
        siblings = found.siblings(directory.path.name, container)
        for run, reason in found.refused.items():
            _warn_once(session, said, f"nothing is taken over from {run}: {reason}")
        others = sources(siblings, trainer, len(own))
        if end_of(trainer, own) or any(_take(session, each, said, complete=True) for each in others):
            break
        if first := first_to_train(siblings, trainer, directory.path.name):
            if decided:
                decided = False
                _announce(session, False)
            _wait_for(session, first, said)
        elif not decided:
            decided = True
            _announce(session, True)
        else:
            any(_take(session, each, said) for each in others)
            return
    _announce(session, None)


def _announce(session: Session, trains: bool | None) -> None:
    session.directory.write_status(trains=trains)


def _wait_for(session: Session, other: Sibling, said: set[str]) -> None:
    text = f"{WAITING_FOR}{other.run_id}"
    if text not in said:
        said.add(text)
        session.reporter.line(f"{text}, which trains the same model")
    session.attempt.heartbeat({"doing": text})
    time.sleep(LOOK_EVERY)
    session.interruption.check()


def _warn_once(session: Session, said: set[str], text: str) -> None:
    if text not in said:
        said.add(text)
        session.reporter.warn(text)


def _take(session: Session, source: Source, said: set[str], *, complete: bool = False) -> bool:
    """Take over what is usable of another run; False: it is damaged, or of less use than its record shows."""
    if complete and not source.usable.complete:
        return False
    own, other = session.directory, source.sibling.directory
    try:
        other.config()  # an edited one is refused
        trainer = Trainer(**own.config()["trainer"])
        taken = take_over(other, own, trainer, own.training(), complete=complete)
    except DiskError:
        raise
    except RecordError as error:
        _warn_once(session, said, f"nothing is taken over from {other.path.name}: {error}")
        return False
    if taken and (text := caution(taken)):
        session.reporter.warn(text)
    return taken is not None
