"""A trained model that is scored, and one part of its evaluation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxtyping import Float
from torch import Tensor

from vlae.config.schema import Evaluate
from vlae.data.preprocess import Preprocess
from vlae.estimation.part_settings import settings_of
from vlae.estimation.per_image import Estimates
from vlae.models.base import LatentVariableModel


@dataclass(frozen=True)
class Part:
    """One estimator on one set of images."""

    key: str
    """The name of its result in the checkpoint."""
    settings: dict[str, Any]
    """What determines its numbers, see `vlae.estimation.part_settings`."""
    doing: str
    """The text shown while it runs."""
    result: Any
    """The empty ``Estimates`` to fill."""
    run: Callable[..., Any]
    """``run(result=result, report=report)`` measures the images of ``result`` that are not done."""
    by: str | None = None
    """The name shown beside its log-likelihood; None: nothing is shown."""
    long: bool = False
    """Results are saved before and after a part that takes long."""


@dataclass
class Subject:
    """A trained model and the test images on which it is scored: what an estimator measures."""

    model: LatentVariableModel
    preprocess: Preprocess
    x: Float[Tensor, "images pixels"]
    """In model space."""
    evaluate: Evaluate
    """The settings of the evaluation."""
    seed: int
    warn: Callable[[str], None] = lambda text: None
    """Show a warning."""

    @cached_property
    def log_jacobian(self) -> Float[Tensor, " images"]:
        """Added to log p(x) in model space, it gives the log-density of pixels in [0, 1]."""
        return self.preprocess.unit_log_jacobian(self.x)

    @property
    def limits(self) -> dict[str, int]:
        """Keywords that every estimator takes: its memory in MiB, and the seed."""
        return {"memory_budget": self.evaluate.memory_budget, "seed": self.seed}

    def options(self, key: str) -> dict[str, Any]:
        """The settings of a part that its estimator takes; it knows the others by itself."""
        settings = settings_of(self.evaluate, key)
        return {name: value for name, value in settings.items() if name not in ("images", "pilot", "fit")}

    def part(
        self,
        key: str,
        doing: str,
        result: Estimates,
        run: Callable[..., Any],
        *,
        by: str | None = None,
        long: bool = False,
    ) -> Part:
        """The part of this key, with the settings that the evaluation gives it."""
        return Part(key, settings_of(self.evaluate, key), doing, result, run, by, long)


def results_below(results: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The results whose keys begin so, by the rest of their keys.

    >>> results_below({"proposals.own": 1, "gaps": 2}, "proposals.")
    {'own': 1}
    """
    return {key.removeprefix(prefix): value for key, value in results.items() if key.startswith(prefix)}
