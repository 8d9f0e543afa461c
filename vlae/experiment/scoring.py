"""The evaluation of a trained model: a list of parts, with progress, that can be interrupted and resumed."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.config.schema import Config
from vlae.distributions.posteriors import FamilyMember
from vlae.estimation.ais import Annealed, anneal, simulate
from vlae.estimation.gaps import Gaps, measure_gaps
from vlae.estimation.importance import Evaluation, evaluate
from vlae.estimation.metrics import Bracket, Scores
from vlae.estimation.per_image import PerImage
from vlae.experiment.trained_model import TrainedModel
from vlae.runs import checkpoint
from vlae.system.console import Reporter
from vlae.system.interruption import Interruption

NAME, FORMAT = "evaluation", 3
"""Name of the checkpoint of an unfinished evaluation; number of its format, raised where its contents change."""
SIMULATED_IMAGES = 16
"""Images drawn from the model if evaluate.ais.num_images is 0."""


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
    """The scores of ``x`` that ``cfg.evaluate`` asks for.

    ``resumable``: continue from a checkpoint beside that of the training, and write one.
    Errors: Interrupted by a signal; NonFiniteError; RecordError if a checkpoint cannot be read or written.
    """
    return _Scoring(trained, cfg, x, interruption, reporter, heartbeat, resumable).run()


@dataclass(frozen=True)
class Part:
    """One estimator on one set of images."""

    key: str
    """The name of its result in the checkpoint."""
    doing: str
    """The text shown while it runs."""
    result: Any
    """The empty ``PerImage`` to fill."""
    run: Callable[..., PerImage]
    """``run(result=result, report=report)`` measures the images of ``result`` that are not done."""
    by: str | None
    """The name shown beside its log-likelihood; None: nothing is shown."""
    long: bool = False
    """Results are saved before and after a part that takes long."""


@dataclass
class _Scoring:
    """One evaluation under way: its results so far, saved between groups of images."""

    trained: TrainedModel
    cfg: Config
    x: Float[Tensor, "images pixels"]
    interruption: Interruption
    reporter: Reporter
    heartbeat: Callable[[dict[str, Any]], None]
    resumable: bool

    def __post_init__(self) -> None:
        self.place = self.trained.directory.path / "checkpoints"
        self.digest = weights_digest(self.trained.model)
        self.results: dict[str, Any] = {}
        state = self._saved() if self.resumable else {"results": {}, "seconds": 0.0}
        self.saved_results, self.before = state["results"], state["seconds"]
        self.began = self.saved = time.monotonic()

    def run(self) -> Scores:
        after_long = False
        for part in self._parts():
            result = part.result
            if part.key in self.saved_results:
                result = type(result)(**self.saved_results[part.key])
            self.results[part.key] = result
            if part.long or after_long:
                self._save()
            self.interruption.check()
            part.run(result=result, report=partial(self._report, part))
            after_long = part.long
        return self._scores()

    def _parts(self) -> Iterator[Part]:
        """The parts that ``cfg.evaluate`` asks for, in order; each is made when it is reached."""
        settings, x = self.cfg.evaluate, self.x
        for name in settings.proposals:
            yield self._importance(f"proposals.{name}", "evaluating image", x, name)
        if images := settings.ais.num_images:
            yield self._annealing("ais", "annealing image", x[:images], "ais")
        if settings.bdmc:
            z, simulated = self._simulated_images()
            yield self._annealing("bdmc.lower", "annealing simulated image", simulated, "bdmc")
            yield self._annealing("bdmc.upper", "annealing simulated image back", simulated, "bdmc", z)
            for name in settings.proposals:
                yield self._importance(
                    f"bdmc.proposals.{name}", "evaluating simulated image", simulated, name
                )
        if images := settings.num_gap_images:
            posterior = self.trained.posterior(x[:1])
            if isinstance(posterior, FamilyMember):
                run = partial(measure_gaps, self.trained.model, x[:images], **self._shared)
                yield Part("gaps", "measuring gaps, image", Gaps.empty(len(x[:images])), run, None)
            else:  # a user's own model may return any Posterior
                kind = type(posterior).__name__
                self.reporter.warn(f"no gaps: {kind} is no vlae.distributions.posteriors.FamilyMember")

    @property
    def _shared(self) -> dict[str, Any]:
        return {"memory_budget": self.cfg.evaluate.memory_budget, "seed": self.cfg.seed}

    def _simulated_images(self) -> tuple[Tensor, Tensor]:
        """z [images, latent] and images x [images, pixels] drawn from the model, to bracket their log p(x)."""
        images = self.cfg.evaluate.ais.num_images or SIMULATED_IMAGES
        return simulate(self.trained.model.output, self.trained.model.decoder, images, self.cfg.seed)

    def _importance(self, key: str, doing: str, x: Tensor, name: str) -> Part:
        settings = self.cfg.evaluate
        precision = settings.model_dump(include={"num_samples", "target_standard_error"})
        run = partial(evaluate, self.trained.model, x, proposal=name, **precision, **self._shared)
        doing += f" by {name}" if len(settings.proposals) > 1 else ""
        return Part(key, doing, Evaluation.empty(len(x)), run, name)

    def _annealing(self, key: str, doing: str, x: Tensor, name: str, exact: Tensor | None = None) -> Part:
        model, settings = self.trained.model, self.cfg.evaluate.ais.model_dump(exclude={"num_images"})
        run = partial(anneal, model.output, model.decoder, x, name=name, exact=exact, **self._shared)
        return Part(key, doing, Annealed.empty(len(x), **settings), run, name, long=True)

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

    def _scores(self) -> Scores:
        def below(prefix: str) -> dict[str, Evaluation]:
            results = self.results.items()
            return {key.removeprefix(prefix): value for key, value in results if key.startswith(prefix)}

        bracket = None
        if self.cfg.evaluate.bdmc:
            _, x = self._simulated_images()
            log_jacobian = self.trained.preprocess.unit_log_jacobian(x)
            lower, upper = self.results["bdmc.lower"], self.results["bdmc.upper"]
            bracket = Bracket(lower, upper, below("bdmc.proposals."), log_jacobian)
        gaps, ais = self.results.get("gaps"), self.results.get("ais")
        return Scores(below("proposals."), gaps, ais, bracket, self._seconds())

    def _seconds(self) -> float:
        return self.before + time.monotonic() - self.began

    def _save(self) -> None:
        if self.resumable:
            results = self.saved_results | {key: vars(result) for key, result in self.results.items()}
            state = {"results": results, "seconds": self._seconds(), "weights": self.digest, "format": FORMAT}
            checkpoint.save(self.place, state, NAME)
            self.saved = time.monotonic()

    def _saved(self) -> dict[str, Any]:
        """The state of an evaluation of the same weights that was interrupted, else an empty one."""
        state, warnings = checkpoint.load(self.place, NAME)
        for text in warnings:
            self.reporter.warn(text)
        if state is None:
            return {"results": {}, "seconds": 0.0}
        if state.get("format") == FORMAT and state["weights"] == self.digest:
            return state
        other = "is of another version" if state.get("format") != FORMAT else "belongs to other weights"
        self.reporter.warn(f"the evaluation starts over: its checkpoint {other}")
        return {"results": {}, "seconds": 0.0}


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 of a model's weights and their names, in hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()
