"""laplace: a Gaussian at the mode of p(z | x), of precision J'VJ + I."""

import torch

from vlae.distributions.laplace import Modes, find_modes, laplace
from vlae.distributions.posteriors import Images, Posterior, PrecisionGaussian
from vlae.models.base import LatentVariableModel


def propose(model: LatentVariableModel, x: Images, own: Posterior) -> tuple[PrecisionGaussian, Modes]:
    """The Laplace approximation at the model's decoder.

    The search for the mode begins where ``own`` takes the noise 0 to, which is its mean where it is Gaussian.
    """
    zero = torch.zeros(1, len(x), own.noise_dim, dtype=x.dtype, device=x.device)
    modes = find_modes(model.output, model.decoder, x, own.rsample_with_log_prob(zero)[0][0])
    return laplace(model.output.likelihood(model.decoder, x), model.decoder, modes.z), modes
