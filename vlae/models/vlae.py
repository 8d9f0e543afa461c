"""The Variational Laplace Autoencoder (Park, Kim, Kim 2019): a Gaussian at the mode of p(z | x)."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from vlae.distributions.laplace import laplace, newton_step
from vlae.distributions.likelihood import Likelihood
from vlae.distributions.posteriors import Images, Latent, PrecisionGaussian
from vlae.models.backbone import Backbone
from vlae.models.base import LatentVariableModel
from vlae.seeding import Noise

Updates = Annotated[int, Field(ge=0)]


class VLAE(LatentVariableModel):
    """mu_0 from the encoder, refined by damped Newton steps, then q(z | x) = N(mu_T, P(mu_T)^-1).

    mu_{t+1} = mu_t + a_t d_t with d_t the full Gauss-Newton step at mu_t and a_t = damping / (t + 1)
    (damping 0.5 is the paper's setting). Gradients flow through all updates.
    For a linear decoder the distance to the mode shrinks by exactly prod_t (1 - a_t). P = J'VJ + I is the precision
    of the Laplace approximation (Park, Kim, Kim 2019, algorithm 1); `vlae.distributions.laplace` computes both.
    A subclass takes other steps by overriding `step_length`. NonFiniteError: P is not positive definite.

    >>> import torch
    >>> from vlae.distributions import GaussianOutput
    >>> from vlae.seeding import batch_noise, generator
    >>> model = VLAE(Backbone(latent_dim=2, hidden_dims=[8], pixels=16, output=GaussianOutput()), num_updates=3)
    >>> x, noise = torch.zeros(5, 16), batch_noise(5, generator("cpu", 0), torch.float32)
    >>> q = model.posterior(x, noise)
    >>> q.mu.shape, q.cholesky.shape  # the mode, and L of P = L L'
    (torch.Size([5, 2]), torch.Size([5, 2, 2]))
    >>> len(model.refinements(x, noise))  # mu_0 ... mu_3
    4
    """

    analytic_kl = True
    covariances = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_updates: Updates = 4,
        damping: Annotated[float, Field(gt=0, le=1)] = 0.5,
    ) -> None:
        super().__init__(backbone)
        self.mu = nn.Linear(backbone.features, backbone.latent_dim)
        self.num_updates, self.damping = num_updates, damping

    def posterior(self, x: Images, noise: Noise) -> PrecisionGaussian:
        likelihood = self.output.likelihood(self.decoder, x)
        return laplace(likelihood, self.decoder, self._path(likelihood, x)[-1])

    def stages(self, x: Images, noise: Noise) -> list[PrecisionGaussian]:
        likelihood = self.output.likelihood(self.decoder, x)
        return [laplace(likelihood, self.decoder, mu) for mu in self._path(likelihood, x)]

    def step_length(self, t: int, x: Images, mu: Latent, d: Latent) -> float | Float[Tensor, "batch 1"]:
        """a_t, the part of the full step d that update t (counted from 0) takes at mu."""
        return self.damping / (t + 1)

    def _path(self, likelihood: Likelihood, x: Images) -> list[Latent]:
        """mu_0 ... mu_T."""
        path = [self.mu(self.encoder(x))]
        for t in range(self.num_updates):
            mu = path[-1]
            d = newton_step(likelihood, self.decoder, mu)
            path.append(mu + self.step_length(t, x, mu, d) * d)
        return path
