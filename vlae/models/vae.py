"""The variational autoencoder (Kingma and Welling 2014): an amortised diagonal Gaussian."""

from jaxtyping import Float
from torch import Tensor

from vlae.distributions.posteriors import DiagonalGaussian
from vlae.models.backbone import Backbone
from vlae.models.base import LatentVariableModel
from vlae.seeding import Noise


class VAE(LatentVariableModel):
    """q(z | x) = N(mu(x), diag exp(log_variance(x)))."""

    analytic_kl = True

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.amortised = backbone.gaussian_head()

    def posterior(self, x: Float[Tensor, "batch pixels"], noise: Noise) -> DiagonalGaussian:
        return DiagonalGaussian(*self.amortised(self.encoder(x)))
