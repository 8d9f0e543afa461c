"""The evaluation of a trained model, part by part, with progress; it can be interrupted and resumed."""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.config.schema import Config
from vlae.estimation.metrics import Scores
from vlae.experiment.evaluation_parts import Part, Parts
from vlae.experiment.trained_model import TrainedModel
from vlae.runs import checkpoint
from vlae.system.console import Reporter
from vlae.system.interruption import Interruption

NAME, FORMAT = "evaluation", 3
"""Name of the checkpoint of an unfinished evaluation; number of its format, raised where its contents change."""


@dataclass
class Scoring:
    """One evaluation; `run` gives the scores of ``x`` that ``cfg.evaluate`` asks for.

    ``resumable``: continue from a checkpoint beside that of the training, and write one between groups of images.
    Errors: Interrupted by a signal; NonFiniteError; RecordError if a checkpoint cannot be read or written.
    """

    trained: TrainedModel
    cfg: Config
    x: Float[Tensor, "images pixels"]
    interruption: Interruption
    reporter: Reporter
    heartbeat: Callable[[dict[str, Any]], None] = lambda progress: None
    _: KW_ONLY
    resumable: bool = True

    def __post_init__(self) -> None:
        self.place = self.trained.directory.path / "checkpoints"
        self.digest = weights_digest(self.trained.model)
        self.results: dict[str, Any] = {}
        state = self._load_state()
        self.saved_results, self.before = state["results"], state["seconds"]
        self.began = self.saved = time.monotonic()

    def run(self) -> Scores:
        """Measure every part of the evaluation, in order."""
        parts, after_long = Parts(self.trained, self.cfg, self.x, self.reporter.warn), False
        for part in parts:
            result = part.result
            if part.key in self.saved_results:
                result = type(result)(**self.saved_results[part.key])
            self.results[part.key] = result
            if part.long or after_long:
                self._save()
            self.interruption.check()
            part.run(result=result, report=partial(self._report, part))
            after_long = part.long
        return parts.scores(self.results, self._seconds())

    def _report(self, part: Part, images: float) -> None:
        """Show and record the progress of a part, and save it when due."""
        text, result, total = "", self.results[part.key], len(part.result)
        if part.by and result.done:
            mean = result.log_likelihood[: result.done].mean().item()
            text = f"log-likelihood {mean:.2f} nats{self.trained.preprocess.space_note} by {part.by}"
        self.reporter.advance(part.doing, images, total, text, last=images == total)
        self.heartbeat({"doing": part.doing, "image": math.floor(images), "images": total})
        overdue = time.monotonic() - self.saved > self.cfg.trainer.checkpoint_every
        if overdue or self.interruption.requested:
            self._save()
        self.interruption.check()

    def _seconds(self) -> float:
        return self.before + time.monotonic() - self.began

    def _save(self) -> None:
        if self.resumable:
            results = self.saved_results | {key: vars(result) for key, result in self.results.items()}
            state = {"results": results, "seconds": self._seconds(), "weights": self.digest, "format": FORMAT}
            checkpoint.save(self.place, state, NAME)
            self.saved = time.monotonic()

    def _load_state(self) -> dict[str, Any]:
        """The state of an evaluation of the same weights that was interrupted, else an empty one."""
        state, warnings = checkpoint.load(self.place, NAME) if self.resumable else (None, [])
        for text in warnings:
            self.reporter.warn(text)
        empty: dict[str, Any] = {"results": {}, "seconds": 0.0}
        if state is None:
            return empty
        if state.get("format") == FORMAT and state["weights"] == self.digest:
            return state
        other = "is of another version" if state.get("format") != FORMAT else "belongs to other weights"
        self.reporter.warn(f"the evaluation starts over: its checkpoint {other}")
        return empty


def score_again(trained: TrainedModel, cfg: Config, x: Float[Tensor, "images pixels"]) -> Scores:
    """The scores for a command of its own: shown in the terminal, without checkpoints."""
    with Interruption() as interruption, Reporter() as reporter:
        return Scoring(trained, cfg, x, interruption, reporter, resumable=False).run()


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 of a model's weights and their names, in hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()
