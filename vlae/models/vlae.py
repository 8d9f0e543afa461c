"""The Variational Laplace Autoencoder (Park, Kim, Kim 2019): a Gaussian at the mode of p(z | x)."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from vlae.distributions import OutputDistribution, PrecisionGaussian
from vlae.laplace import laplace, newton_step
from vlae.likelihood import Likelihood
from vlae.models.base import Count, Dims, LatentVariableModel
from vlae.networks import Activation, ImageShape, Network
from vlae.seeding import Noise


class VLAE(LatentVariableModel):
    """mu_0 from the encoder, refined by damped Newton steps, then q(z | x) = N(mu_T, P(mu_T)^-1).

    mu_{t+1} = mu_t + a_t d_t with d_t the full Gauss-Newton step at mu_t and a_t = damping / (t + 1)
    (damping 0.5 is the paper's setting). Gradients flow through all updates.
    For a linear decoder the distance to the mode shrinks by exactly prod_t (1 - a_t).
    """

    def __init__(
        self,
        *,
        latent_dim: Count,
        hidden_dims: Dims,
        activation: Activation = "relu",
        network: Network = "mlp",
        num_updates: Annotated[int, Field(ge=0)] = 4,
        damping: Annotated[float, Field(gt=0, le=1)] = 0.5,
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
        self.num_updates, self.damping = num_updates, damping

    def posterior(self, x: Float[Tensor, "batch pixels"], noise: Noise) -> PrecisionGaussian:
        likelihood = self.output.likelihood(self.decoder, x)
        return laplace(likelihood, self.decoder, self._path(likelihood, x)[-1])

    def refinements(
        self, x: Float[Tensor, "batch pixels"], noise: Noise
    ) -> list[Float[Tensor, "batch latent"]]:
        return self._path(self.output.likelihood(self.decoder, x), x)

    def _path(
        self, likelihood: Likelihood, x: Float[Tensor, "batch pixels"]
    ) -> list[Float[Tensor, "batch latent"]]:
        path = [self.mu(self.encoder(x))]
        for t in range(self.num_updates):
            path.append(path[-1] + self.damping / (t + 1) * newton_step(likelihood, self.decoder, path[-1]))
        return path
