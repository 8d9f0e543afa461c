"""The evaluation of a trained model, part by part, with progress; it can be interrupted and resumed."""

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from vlae.config.schema import Config
from vlae.estimation.estimators import Part, Subject, parts
from vlae.estimation.metrics import Scores
from vlae.experiment.results import code_and_torch
from vlae.experiment.saved_scores import SavedScores
from vlae.experiment.session import Session
from vlae.experiment.shared_training import others_of_training
from vlae.experiment.trained_model import TrainedModel


@dataclass
class Scoring:
    """The evaluation of a run; `run` gives the scores of ``x`` that ``cfg.evaluate`` asks for.

    It continues from a checkpoint beside that of the training, which is written between groups of images. What other
    runs of the training have measured with the same weights and settings is taken over.
    Errors: Interrupted by a signal; NonFiniteError; RecordError if a checkpoint cannot be read or written.
    """

    session: Session
    trained: TrainedModel
    cfg: Config
    x: Float[Tensor, "images pixels"]

    def __post_init__(self) -> None:
        others = others_of_training(self.session)
        place, reporter = self.session.directory, self.session.reporter
        self.scores = SavedScores(place, self.trained.model, others, reporter, code_and_torch())
        warn, trained = reporter.warn, self.trained
        self.subject = Subject(
            trained.model, trained.preprocess, self.x, self.cfg.evaluate, self.cfg.seed, warn
        )
        self.began = self.saved = time.monotonic()

    def run(self) -> Scores:
        """Measure every part of the evaluation, in order."""
        after_long = False
        for part in parts(self.subject):
            result = self.scores.begin(part)
            if part.long or after_long:
                self._save()
            self.session.interruption.check()
            part.run(result=result, report=partial(self._report, part, result))
            after_long = part.long
        self._save()  # others may take it over
        taken = self.scores.taken_over
        seconds = self._seconds() + sum(each["seconds"] for each in taken.values())
        return Scores(self.subject, self.scores.results, seconds, taken)

    def _report(self, part: Part, result: Any, images: float) -> None:
        """Show and record the progress of a part, and save it when due."""
        text, total = "", len(part.result)
        if part.by and result.done:
            mean = result.log_likelihood[: result.done].mean().item()
            text = f"log-likelihood {mean:.2f} nats{self.trained.preprocess.space_note} by {part.by}"
        self.session.reporter.advance(part.doing, images, total, text, last=images == total)
        self.session.attempt.heartbeat({"doing": part.doing, "image": math.floor(images), "images": total})
        overdue = time.monotonic() - self.saved > self.cfg.trainer.checkpoint_every
        if overdue or self.session.interruption.requested:
            self._save()
        self.session.interruption.check()

    def _seconds(self) -> float:
        """Time spent by this run."""
        return self.scores.seconds_before + time.monotonic() - self.began

    def _save(self) -> None:
        self.scores.save(self._seconds())
        self.saved = time.monotonic()
