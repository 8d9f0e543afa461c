"""The variational autoencoder (Kingma and Welling 2014): an amortised diagonal Gaussian."""

from vlae.distributions.posteriors import DiagonalGaussian, Images
from vlae.models.backbone import Backbone
from vlae.models.base import LatentVariableModel
from vlae.seeding import Noise


class VAE(LatentVariableModel):
    """q(z | x) = N(mu(x), diag exp(log_variance(x))), both from the encoder's features by one linear layer each.

    >>> import torch
    >>> from vlae.distributions import BernoulliOutput
    >>> model = VAE(Backbone(latent_dim=2, hidden_dims=[32, 16], pixels=64, output=BernoulliOutput()))
    >>> q = model.posterior(torch.zeros(3, 64), noise=lambda samples, dim: torch.randn(samples, 3, dim))
    >>> z, log_q = q.rsample_with_log_prob(torch.randn(5, 3, q.noise_dim))
    >>> model.log_joint(torch.zeros(3, 64), z).shape  # log p(x, z) of 5 samples for each of 3 images
    torch.Size([5, 3])
    """

    analytic_kl = True

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.amortised = backbone.gaussian_head()

    def posterior(self, x: Images, noise: Noise) -> DiagonalGaussian:
        return DiagonalGaussian(*self.amortised(self.encoder(x)))
