"""The variational autoencoder (Kingma and Welling 2014): an amortised diagonal Gaussian."""

from jaxtyping import Float
from torch import Tensor

from vlae.distributions.outputs import OutputDistribution
from vlae.distributions.posteriors import DiagonalGaussian
from vlae.models.base import Count, Dims, LatentVariableModel
from vlae.nn.networks import Activation, GaussianHead, ImageShape, Network
from vlae.seeding import Noise


class VAE(LatentVariableModel):
    """q(z | x) = N(mu(x), diag exp(log_variance(x)))."""

    analytic_kl = True

    def __init__(
        self,
        *,
        latent_dim: Count,
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
        self.amortised = GaussianHead(hidden_dims[-1], latent_dim)

    def posterior(self, x: Float[Tensor, "batch pixels"], noise: Noise) -> DiagonalGaussian:
        return DiagonalGaussian(*self.amortised(self.encoder(x)))
