"""The parts of an evaluation: which estimator measures which images."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from vlae.config.schema import Config
from vlae.distributions.posteriors import FamilyMember
from vlae.estimation.ais import Annealed, anneal, simulate
from vlae.estimation.gaps import Gaps, measure_gaps
from vlae.estimation.importance import Evaluation, evaluate
from vlae.estimation.metrics import Bracket, Scores
from vlae.experiment.part_settings import SIMULATED_IMAGES, part_settings
from vlae.experiment.trained_model import TrainedModel


@dataclass(frozen=True)
class Part:
    """One estimator on one set of images."""

    key: str
    """The name of its result in the checkpoint."""
    settings: dict[str, Any]
    """What determines its numbers, see `vlae.experiment.part_settings`."""
    doing: str
    """The text shown while it runs."""
    result: Any
    """The empty ``Estimates`` to fill."""
    run: Callable[..., Any]
    """``run(result=result, report=report)`` measures the images of ``result`` that are not done."""
    by: str | None
    """The name shown beside its log-likelihood; None: nothing is shown."""
    long: bool = False
    """Results are saved before and after a part that takes long."""


@dataclass
class Parts:
    """The parts of an evaluation that ``cfg.evaluate`` asks for, in order; each is made when it is reached."""

    trained: TrainedModel
    cfg: Config
    x: Float[Tensor, "images pixels"]
    warn: Callable[[str], None]

    def __post_init__(self) -> None:
        self.limits = {"memory_budget": self.cfg.evaluate.memory_budget, "seed": self.cfg.seed}
        self.settings = part_settings(self.cfg.evaluate)

    def __iter__(self) -> Iterator[Part]:
        settings, x = self.cfg.evaluate, self.x
        for name in settings.proposals:
            yield self._importance(f"proposals.{name}", "evaluating image", x, name)
        if images := settings.ais.num_images:
            yield self._annealing("ais", "annealing image", x[:images], "ais")
        if settings.bdmc:
            z, simulated = self._simulate()
            yield self._annealing("bdmc.lower", "annealing simulated image", simulated, "bdmc")
            yield self._annealing("bdmc.upper", "annealing simulated image back", simulated, "bdmc", z)
            for name in settings.proposals:
                yield self._importance(
                    f"bdmc.proposals.{name}", "evaluating simulated image", simulated, name
                )
        if images := settings.num_gap_images:
            posterior = self.trained.posterior(x[:1])
            if isinstance(posterior, FamilyMember):
                run = partial(measure_gaps, self.trained.model, x[:images], **self.limits)
                yield Part(
                    "gaps",
                    self.settings["gaps"],
                    "measuring gaps, image",
                    Gaps.empty(len(x[:images])),
                    run,
                    None,
                )
            else:  # a user's own model may return any Posterior
                kind = type(posterior).__name__
                self.warn(f"no gaps: {kind} is no vlae.distributions.posteriors.FamilyMember")

    def _simulate(self) -> tuple[Tensor, Tensor]:
        """z [images, latent] and images x [images, pixels] drawn from the model, to bracket their log p(x)."""
        images = self.cfg.evaluate.ais.num_images or SIMULATED_IMAGES
        return simulate(self.trained.model.output, self.trained.model.decoder, images, self.cfg.seed)

    def _importance(self, key: str, doing: str, x: Tensor, name: str) -> Part:
        run = partial(evaluate, self.trained.model, x, proposal=name, **self._options(key), **self.limits)
        doing += f" by {name}" if len(self.cfg.evaluate.proposals) > 1 else ""
        return Part(key, self.settings[key], doing, Evaluation.empty(len(x)), run, name)

    def _annealing(self, key: str, doing: str, x: Tensor, name: str, exact: Tensor | None = None) -> Part:
        model, empty = self.trained.model, Annealed.empty(len(x), **self._options(key))
        run = partial(anneal, model.output, model.decoder, x, name=name, exact=exact, **self.limits)
        return Part(key, self.settings[key], doing, empty, run, name, long=True)

    def _options(self, key: str) -> dict[str, Any]:
        """The settings of a part that its estimator takes; it sees the number of images by itself."""
        return {name: value for name, value in self.settings[key].items() if name != "images"}

    def scores(
        self, results: Mapping[str, Any], seconds: float, taken_over: dict[str, dict[str, Any]]
    ) -> Scores:
        """The results of all parts, by their keys, as one object."""

        def below(prefix: str) -> dict[str, Evaluation]:
            return {
                key.removeprefix(prefix): value for key, value in results.items() if key.startswith(prefix)
            }

        bracket = None
        if self.cfg.evaluate.bdmc:
            _, x = self._simulate()
            log_jacobian = self.trained.preprocess.unit_log_jacobian(x)
            lower, upper = results["bdmc.lower"], results["bdmc.upper"]
            bracket = Bracket(lower, upper, below("bdmc.proposals."), log_jacobian)
        gaps, ais = results.get("gaps"), results.get("ais")
        return Scores(below("proposals."), gaps, ais, bracket, seconds, taken_over)
