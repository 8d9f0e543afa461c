"""The base class of all models: a decoder, an output distribution, and a way to compute q(z | x)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from vlae.distributions.posteriors import (
    DiagonalGaussian,
    Images,
    Latent,
    Posterior,
    PrecisionGaussian,
    standard_normal_log_prob,
)
from vlae.models.backbone import Backbone
from vlae.seeding import Noise

Gaussian = DiagonalGaussian | PrecisionGaussian


class LatentVariableModel(nn.Module, ABC):
    """p(z) = N(0, I), p(x | z) = output(f(z)), and q(z | x), the only part in which models differ.

    A model derives from this class and defines `posterior`. Its constructor takes a `Backbone` and passes it on. Images
    are [batch, pixels] in model space; the backbone's networks are its ``encoder`` and its ``decoder``.

    >>> import torch
    >>> from vlae.distributions import GaussianOutput
    >>> class Prior(LatentVariableModel):
    ...     def posterior(self, x, noise):  # knows nothing of x
    ...         return DiagonalGaussian(torch.zeros(len(x), self.latent_dim), torch.zeros(len(x), self.latent_dim))
    >>> model = Prior(Backbone(latent_dim=2, hidden_dims=[8], pixels=16, output=GaussianOutput()))
    >>> model.log_joint(torch.zeros(3, 16), z=torch.zeros(5, 3, 2)).shape  # 5 samples for each of 3 images
    torch.Size([5, 3])
    """

    batch_dependent = False
    """True if an image's posterior depends on the other images of its batch: evaluation takes one image at a time."""

    validation_batch = 500
    """Number of images whose posteriors validation computes together; their noise is drawn together."""

    analytic_kl = False
    """True if its posteriors have the method kl_to_prior (``distributions.ClosedFormKL``), for trainer.kl=analytic."""

    covariances = False
    """Inference holds a latent x latent matrix for each image of a batch."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.latent_dim, self.pixels = backbone.latent_dim, backbone.pixels
        self.encoder, self.decoder = backbone.encoder(), backbone.decoder()
        self.output = backbone.output

    @abstractmethod
    def posterior(self, x: Images, noise: Noise) -> Posterior:
        """q(z | x) of each image; ``noise`` is used only where inference itself is random."""

    def log_joint(
        self, x: Images, z: Float[Tensor, "*samples batch latent"]
    ) -> Float[Tensor, "*samples batch"]:
        """log p(x, z) = log p(x | z) + log p(z) of each z, in nats."""
        return self.output.log_prob(x, self.decoder(z)) + standard_normal_log_prob(z)

    def stages(self, x: Images, noise: Noise) -> Sequence[Gaussian]:
        """q(z | x) before and after each refinement of inference, the last one `posterior`; empty without any."""
        return []

    def refinements(self, x: Images, noise: Noise) -> list[Latent]:
        """The posterior's location [batch, latent] at each of its `stages`."""
        return [q.mu for q in self.stages(x, noise)]
