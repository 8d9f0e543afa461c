"""The scores of a test set, image by image, from all estimators."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from vlae.estimation.ais import Annealed
from vlae.estimation.gaps import Gaps
from vlae.estimation.importance import Evaluation

SIMULATED = 16
"""Images drawn from the model where evaluate.ais.num_images does not say how many."""


@dataclass
class Bracket:
    """log p(x) of images drawn from the model, from below and above, and by each proposal."""

    lower: Annealed
    upper: Annealed
    proposals: dict[str, Evaluation] = field(default_factory=dict)
    log_jacobian: Float[Tensor, " images"] | None = None
    """What turns log p(x) into that of pixels in [0, 1]."""

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
    """On the first images of the test set."""
    bracket: Bracket | None = None
    seconds: float = 0.0
    """Over all attempts."""
