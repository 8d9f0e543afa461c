"""Scores of a test set per image, from all estimators."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from vlae.estimation.ais import Annealed
from vlae.estimation.gaps import Gaps
from vlae.estimation.importance import Evaluation

SIMULATED_IMAGES = 16
"""Images drawn from the model where evaluate.ais.num_images does not say how many."""


@dataclass
class Bracket:
    """log p(x) of images drawn from the model: a lower and an upper bound, and each proposal's estimate."""

    lower: Annealed
    upper: Annealed
    proposals: dict[str, Evaluation]
    log_jacobian: Float[Tensor, " images"]
    """Added to log p(x), it gives the log-density of pixels in [0, 1]."""

    @property
    def seconds(self) -> float:
        parts = [self.lower, self.upper, *self.proposals.values()]
        return sum(part.seconds for part in parts)


@dataclass
class Scores:
    """Everything that was measured on the test set, in model space."""

    proposals: dict[str, Evaluation] = field(default_factory=dict)
    gaps: Gaps | None = None
    ais: Annealed | None = None
    """Of the first images of the test set."""
    bracket: Bracket | None = None
    seconds: float = 0.0
    """Time of the evaluation over all attempts."""
