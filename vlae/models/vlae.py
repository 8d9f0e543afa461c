"""The Variational Laplace Autoencoder (Park, Kim, Kim 2019): a Gaussian at the mode of p(z | x)."""

from collections.abc import Callable
from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from vlae.distributions.laplace import laplace, newton_step
from vlae.distributions.likelihood import Likelihood
from vlae.distributions.outputs import OutputDistribution
from vlae.distributions.posteriors import PrecisionGaussian
from vlae.models.base import Count, Dims, LatentVariableModel
from vlae.nn.networks import Activation, Decoder, ImageShape, Network
from vlae.seeding import Noise

StepLength = Callable[
    [int, Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]], float | Float[Tensor, "batch 1"]
]
"""(number of the update from 0, mu, full step) -> how much of the step to take."""


def newton_path(
    likelihood: Likelihood,
    decoder: Decoder,
    mu: Float[Tensor, "batch latent"],
    num_updates: int,
    step_length: StepLength,
) -> list[Float[Tensor, "batch latent"]]:
    """mu before and after each update mu_{t+1} = mu_t + a_t d_t, with d_t the full Gauss-Newton step at mu_t."""
    path = [mu]
    for t in range(num_updates):
        d = newton_step(likelihood, decoder, path[-1])
        path.append(path[-1] + step_length(t, path[-1], d) * d)
    return path


class VLAE(LatentVariableModel):
    """mu_0 from the encoder, refined by damped Newton steps, then q(z | x) = N(mu_T, P(mu_T)^-1).

    mu_{t+1} = mu_t + a_t d_t with d_t the full Gauss-Newton step at mu_t and a_t = damping / (t + 1)
    (damping 0.5 is the paper's setting). Gradients flow through all updates.
    For a linear decoder the distance to the mode shrinks by exactly prod_t (1 - a_t).
    """

    analytic_kl = True
    covariances = True

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

    def stages(self, x: Float[Tensor, "batch pixels"], noise: Noise) -> list[PrecisionGaussian]:
        likelihood = self.output.likelihood(self.decoder, x)
        return [laplace(likelihood, self.decoder, mu) for mu in self._path(likelihood, x)]

    def _path(
        self, likelihood: Likelihood, x: Float[Tensor, "batch pixels"]
    ) -> list[Float[Tensor, "batch latent"]]:
        return newton_path(
            likelihood, self.decoder, self.mu(self.encoder(x)), self.num_updates, self._step_length
        )

    def _step_length(self, t: int, mu: Tensor, step: Tensor) -> float:
        return self.damping / (t + 1)
