"""The variational autoencoder with a full covariance: an amortised Gaussian with all its correlations."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from vlae.distributions import CholeskyGaussian, OutputDistribution
from vlae.models.base import Dims, LatentVariableModel
from vlae.networks import Activation, ImageShape, Network
from vlae.seeding import Noise


class FullCovariance(LatentVariableModel):
    """q(z | x) = N(mu(x), L(x) L(x)'), L lower triangular with a diagonal exp(.): VLAE's family, VAE's inference.

    The encoder gives the factor of the covariance and not of the precision, because z = mu + L eps stays moderate
    for whatever L an untrained encoder makes, where L^-T eps can be enormous.
    """

    analytic_kl = True

    def __init__(
        self,
        *,
        latent_dim: Annotated[int, Field(ge=2)],
        hidden_dims: Dims,
        activation: Activation = "relu",
        network: Network = "mlp",
        pixels: int,
        image_shape: ImageShape | None = None,
        output: OutputDistribution,
    ) -> None:
        super().__init__(
            latent_dim=latent_dim,
            hidden_dims=hidden_dims,
            activation=activation,
            network=network,
            pixels=pixels,
            image_shape=image_shape,
            output=output,
        )
        self.mu = nn.Linear(hidden_dims[-1], latent_dim)
        self.log_diagonal = nn.Linear(hidden_dims[-1], latent_dim)
        self.below = nn.Linear(hidden_dims[-1], latent_dim * (latent_dim - 1) // 2)

    def posterior(self, x: Float[Tensor, "batch pixels"], noise: Noise) -> CholeskyGaussian:
        h = self.encoder(x)
        return CholeskyGaussian(self.mu(h), self.log_diagonal(h), self.below(h))
