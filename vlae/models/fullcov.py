"""The variational autoencoder with a full covariance: an amortised Gaussian with all its correlations."""

from torch import nn

from vlae.distributions.posteriors import CholeskyGaussian, Images
from vlae.models.backbone import SeveralDims
from vlae.models.base import LatentVariableModel
from vlae.seeding import Noise


class FullCovariance(LatentVariableModel):
    """q(z | x) = N(mu(x), L(x) L(x)'), L lower triangular: VLAE's family, the VAE's inference.

    diag L = exp(log_variance / 2) as in the VAE. The encoder's outputs for the entries below are divided by
    latent_dim, the number of terms in a dimension of z = mu + L eps, so the model begins nearly as a VAE. Undivided,
    their noise costs the first epochs of training: -133.2 instead of -127.0 nats per image after four epochs on MNIST
    (Bernoulli, latent 20).

    >>> import torch
    >>> from vlae.distributions import GaussianOutput
    >>> from vlae.models.backbone import Backbone
    >>> from vlae.seeding import batch_noise, generator
    >>> model = FullCovariance(Backbone(latent_dim=2, hidden_dims=[8], pixels=16, output=GaussianOutput()))
    >>> x, noise = torch.zeros(3, 16), batch_noise(3, generator("cpu", 0), torch.float32)
    >>> model.posterior(x, noise).cholesky.shape  # L of each image
    torch.Size([3, 2, 2])
    """

    analytic_kl = True
    covariances = True

    def __init__(self, backbone: SeveralDims) -> None:
        super().__init__(backbone)
        self.amortised = backbone.gaussian_head()
        dim = backbone.latent_dim
        self.below = nn.Linear(backbone.features, dim * (dim - 1) // 2)

    def posterior(self, x: Images, noise: Noise) -> CholeskyGaussian:
        h = self.encoder(x)
        mu, log_variance = self.amortised(h)
        return CholeskyGaussian(mu, 0.5 * log_variance, self.below(h) / self.latent_dim)
