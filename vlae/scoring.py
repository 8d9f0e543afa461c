"""The evaluation of a trained model as a person meets it: with progress, interruptible, resumable."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlae import checkpoint
from vlae.config import Config
from vlae.console import Reporter
from vlae.evaluate import Evaluation, evaluate
from vlae.gaps import Gaps, measure_gaps
from vlae.interruption import Interruption
from vlae.trained import TrainedModel

NAME = "evaluation"
"""Of the checkpoint of an unfinished evaluation."""


@dataclass
class Scores:
    """Everything that was measured on the test set, in model space."""

    proposals: dict[str, Evaluation] = field(default_factory=dict)
    gaps: Gaps | None = None
    seconds: float = 0.0
    """Over all attempts."""


def score(
    trained: TrainedModel,
    cfg: Config,
    x: Float[Tensor, "images pixels"],
    interruption: Interruption,
    reporter: Reporter,
    heartbeat: Callable[[dict[str, Any]], None] = lambda progress: None,
    *,
    resumable: bool = True,
) -> Scores:
    """What ``cfg.evaluate`` asks for. ``resumable``: goes on from, and leaves, a checkpoint beside the training's."""
    return _Scoring(trained, cfg, x, interruption, reporter, heartbeat, resumable).run()


class _Scoring:
    """One evaluation under way: its parts in a row, saved between groups of images."""

    def __init__(
        self,
        trained: TrainedModel,
        cfg: Config,
        x: Float[Tensor, "images pixels"],
        interruption: Interruption,
        reporter: Reporter,
        heartbeat: Callable[[dict[str, Any]], None],
        resumable: bool,
    ) -> None:
        self.trained, self.cfg, self.x = trained, cfg, x
        self.interruption, self.reporter, self.heartbeat = interruption, reporter, heartbeat
        self.resumable = resumable
        self.place, self.digest = trained.directory.path / "checkpoints", weights_digest(trained.model)
        self.scores = self._saved() if resumable else Scores()
        self.before, self.began = self.scores.seconds, time.monotonic()
        self.saved = self.began

    def run(self) -> Scores:
        for number, name in enumerate(self.cfg.evaluate.proposals):
            self._proposal(number, name)
        if self.cfg.evaluate.num_gap_images:
            self._gaps()
        self.scores.seconds = self._seconds()
        return self.scores

    def _proposal(self, number: int, name: str) -> None:
        settings, images = self.cfg.evaluate, len(self.x)
        total = len(settings.proposals) * images

        def report(evaluation: Evaluation) -> None:
            mean = evaluation.log_likelihood[: evaluation.done].mean().item()
            text = f"log-likelihood {mean:.2f} nats{self.trained.space} by {name}"
            done, last = number * images + evaluation.done, evaluation.done == images
            self.reporter.advance("evaluating image", done, total, text, last=last)
            self.heartbeat({"image": done, "images": total})
            overdue = time.monotonic() - self.saved > self.cfg.trainer.checkpoint_every
            if overdue or self.interruption.requested:
                self._save()

        evaluate(
            self.trained.model,
            self.x,
            proposal=name,
            num_samples=settings.num_samples,
            target_standard_error=settings.target_standard_error,
            memory_budget=settings.memory_budget,
            seed=self.cfg.seed,
            evaluation=self.scores.proposals.setdefault(name, Evaluation.empty(images)),
            interruption=self.interruption,
            report=report,
        )

    def _gaps(self) -> None:
        self._save()

        def report(step: int, steps: int) -> None:
            self.interruption.check()
            self.reporter.advance("measuring gaps, step", step, steps)

        x = self.x[: self.cfg.evaluate.num_gap_images]
        self.scores.gaps = measure_gaps(self.trained.model, x, seed=self.cfg.seed, report=report)

    def _seconds(self) -> float:
        return self.before + time.monotonic() - self.began

    def _save(self) -> None:
        if self.resumable:
            entries = {name: vars(evaluation) for name, evaluation in self.scores.proposals.items()}
            state = {"proposals": entries, "seconds": self._seconds(), "weights": self.digest}
            checkpoint.save(self.place, state, NAME)
            self.saved = time.monotonic()

    def _saved(self) -> Scores:
        state, warnings = checkpoint.load(self.place, NAME)
        for text in warnings:
            self.reporter.warn(text)
        if state is not None and state["weights"] != self.digest:
            self.reporter.warn("the evaluation starts over: its checkpoint belongs to other weights")
            state = None
        if state is None:
            return Scores()
        return Scores({n: Evaluation(**e) for n, e in state["proposals"].items()}, None, state["seconds"])


def weights_digest(model: torch.nn.Module) -> str:
    """One text for one set of weights."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()
