"""What an importance-sampled log-likelihood is drawn from: the model's own posterior, or one found at its decoder.

Scored each by its own posterior, models are compared together with their estimators. The Laplace approximation at
a model's own decoder is the same estimator for all of them.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.distributions import Posterior, PrecisionStudentT
from vlae.laplace import Modes, find_modes, laplace
from vlae.models.base import LatentVariableModel
from vlae.seeding import Noise

PROPOSALS = {
    "own": "the model's q(z | x)",
    "laplace": "a Gaussian at the mode of p(z | x), of precision J'VJ + I",
    "student_t": "the same with the tails of a Student t with 10 degrees of freedom",
}
"""Every name that ``evaluate.proposals`` may hold, and what it is."""


def propose(
    name: str, model: LatentVariableModel, x: Float[Tensor, "batch pixels"], noise: Noise
) -> tuple[Posterior, Modes | None]:
    """The proposal of that name for each image, and how the search for its mode ended, if there was one.

    The search begins where the model's own posterior takes the noise 0 to, which is its mean where it is Gaussian.
    """
    own = model.posterior(x, noise)
    if name == "own":
        return own, None
    zero = torch.zeros(1, len(x), own.noise_dim, dtype=x.dtype, device=x.device)
    modes = find_modes(model.output, model.decoder, x, own.rsample_with_log_prob(zero)[0][0])
    gaussian = laplace(model.output.likelihood(model.decoder, x), model.decoder, modes.z)
    return (PrecisionStudentT(gaussian) if name == "student_t" else gaussian), modes
