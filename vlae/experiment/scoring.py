"""The evaluation of a trained model as a person meets it: with progress, interruptible, resumable."""

import hashlib
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.config.schema import Config
from vlae.distributions.posteriors import FamilyMember
from vlae.estimation.ais import Annealed, anneal, simulated
from vlae.estimation.gaps import Gaps, measure_gaps
from vlae.estimation.importance import Evaluation, evaluate, unit_log_jacobian
from vlae.estimation.scores import SIMULATED, Bracket, Scores
from vlae.experiment.trained_model import TrainedModel
from vlae.runs import checkpoint
from vlae.system.console import Reporter
from vlae.system.interruption import Interruption

NAME, FORMAT = "evaluation", 2
"""Of the checkpoint of an unfinished evaluation; the number is raised where its contents change."""


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
        for name in self.cfg.evaluate.proposals:
            self._proposal(name)
        if self.cfg.evaluate.ais.num_images:
            self._ais()
        if self.cfg.evaluate.bdmc:
            self._bracket()
        if self.cfg.evaluate.num_gap_images:
            self._gaps()
        self.scores.seconds = self._seconds()
        return self.scores

    def _proposal(self, name: str) -> None:
        evaluation = self.scores.proposals.setdefault(name, Evaluation.empty(len(self.x)))
        self._evaluate("evaluating image", self.x, name, evaluation)

    def _evaluate(self, what: str, x: Tensor, name: str, evaluation: Evaluation) -> None:
        settings = self.cfg.evaluate
        if len(settings.proposals) > 1:
            what += f" by {name}"

        def report(evaluation: Evaluation) -> None:
            mean = evaluation.log_likelihood[: evaluation.done].mean().item()
            text = f"log-likelihood {mean:.2f} nats{self.trained.space} by {name}"
            last = evaluation.done == len(x)
            self._progress(what, evaluation.done, len(x), text, last=last)

        evaluate(
            self.trained.model,
            x,
            proposal=name,
            num_samples=settings.num_samples,
            target_standard_error=settings.target_standard_error,
            memory_budget=settings.memory_budget,
            seed=self.cfg.seed,
            evaluation=evaluation,
            interruption=self.interruption,
            report=report,
        )

    def _progress(self, what: str, done: float, total: int, text: str = "", *, last: bool) -> None:
        """Shown, recorded, and saved where it is time to."""
        self.reporter.advance(what, done, total, text, last=last)
        self.heartbeat({"doing": what, "image": math.floor(done), "images": total})
        overdue = time.monotonic() - self.saved > self.cfg.trainer.checkpoint_every
        if overdue or self.interruption.requested:
            self._save()

    def _ais(self) -> None:
        x = self.x[: self.cfg.evaluate.ais.num_images]
        self.scores.ais = self.scores.ais or self._empty(len(x))
        self._anneal("annealing image", x, self.scores.ais, "ais")

    def _bracket(self) -> None:
        """On images drawn from the model: chains down and up, then every proposal."""
        model, settings = self.trained.model, self.cfg.evaluate
        images = settings.ais.num_images or SIMULATED
        z, x = simulated(model.output, model.decoder, images, self.cfg.seed)
        if self.scores.bracket is None:
            self.scores.bracket = Bracket(self._empty(images), self._empty(images))
        bracket = self.scores.bracket
        bracket.log_jacobian = unit_log_jacobian(self.trained.preprocess, x)
        self._anneal("annealing simulated image", x, bracket.lower, "bdmc")
        self._anneal("annealing simulated image back", x, bracket.upper, "bdmc", z)
        self._save()
        for name in settings.proposals:
            evaluation = bracket.proposals.setdefault(name, Evaluation.empty(images))
            self._evaluate("evaluating simulated image", x, name, evaluation)

    def _empty(self, images: int) -> Annealed:
        ais = self.cfg.evaluate.ais
        return Annealed.empty(images, ais.num_chains, ais.num_distributions, ais.num_leapfrog)

    def _anneal(
        self, what: str, x: Tensor, annealed: Annealed, name: str, exact: Tensor | None = None
    ) -> None:
        self._save()

        def report(images: float) -> None:
            mean = annealed.log_likelihood[: annealed.done].mean().item()
            text = f"log-likelihood {mean:.2f} nats{self.trained.space} by {name}" if annealed.done else ""
            self._progress(what, images, len(x), text, last=images == len(x))
            self.interruption.check()

        anneal(
            self.trained.model.output,
            self.trained.model.decoder,
            x,
            annealed,
            memory_budget=self.cfg.evaluate.memory_budget,
            seed=self.cfg.seed,
            name=name,
            exact=exact,
            report=report,
        )

    def _gaps(self) -> None:
        x, model = self.x[: self.cfg.evaluate.num_gap_images], self.trained.model
        posterior = self.trained.posterior(x[:1])
        if not isinstance(posterior, FamilyMember):  # a user's own model need not be more than a Posterior
            self.reporter.warn(f"no gaps: {type(posterior).__name__} is no vlae.distributions.FamilyMember")
            return

        def report(images: float) -> None:
            self._progress("measuring gaps, image", images, len(x), last=images == len(x))
            self.interruption.check()

        self.scores.gaps = self.scores.gaps or Gaps.empty(len(x))
        budget, seed = self.cfg.evaluate.memory_budget, self.cfg.seed
        measure_gaps(model, x, memory_budget=budget, seed=seed, gaps=self.scores.gaps, report=report)

    def _seconds(self) -> float:
        return self.before + time.monotonic() - self.began

    def _save(self) -> None:
        if self.resumable:
            state = _plain(self.scores) | {
                "seconds": self._seconds(),
                "weights": self.digest,
                "format": FORMAT,
            }
            checkpoint.save(self.place, state, NAME)
            self.saved = time.monotonic()

    def _saved(self) -> Scores:
        state, warnings = checkpoint.load(self.place, NAME)
        for text in warnings:
            self.reporter.warn(text)
        if state is not None and state.get("format") != FORMAT:
            self.reporter.warn("the evaluation starts over: its checkpoint is of another version")
            state = None
        if state is not None and state["weights"] != self.digest:
            self.reporter.warn("the evaluation starts over: its checkpoint belongs to other weights")
            state = None
        if state is None:
            return Scores()
        return _restored(state)


def _plain(scores: Scores) -> dict[str, Any]:
    """As a checkpoint can hold it."""
    ais, bracket = scores.ais, scores.bracket
    return {
        "proposals": {name: vars(evaluation) for name, evaluation in scores.proposals.items()},
        "gaps": vars(scores.gaps) if scores.gaps else None,
        "ais": vars(ais) if ais else None,
        "lower": vars(bracket.lower) if bracket else None,
        "upper": vars(bracket.upper) if bracket else None,
        "bracketed": {n: vars(e) for n, e in bracket.proposals.items()} if bracket else {},
    }


def _restored(state: dict[str, Any]) -> Scores:
    def evaluations(entries: dict[str, Any]) -> dict[str, Evaluation]:
        return {name: Evaluation(**entry) for name, entry in entries.items()}

    scores = Scores(evaluations(state["proposals"]), seconds=state["seconds"])
    if state["gaps"]:
        scores.gaps = Gaps(**state["gaps"])
    if state["ais"]:
        scores.ais = Annealed(**state["ais"])
    if state["lower"]:
        lower, upper = Annealed(**state["lower"]), Annealed(**state["upper"])
        scores.bracket = Bracket(lower, upper, evaluations(state["bracketed"]))
    return scores


def weights_digest(model: torch.nn.Module) -> str:
    """One text for one set of weights."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()
