"""What a latent-variable model is: a decoder, an output distribution, and a way to compute q(z | x)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from vlae.distributions.outputs import OutputDistribution
from vlae.distributions.posteriors import DiagonalGaussian, Posterior, PrecisionGaussian
from vlae.nn.networks import MLP, Activation, ConvEncoder, Decoder, ImageShape, Network
from vlae.seeding import Noise

Count = Annotated[int, Field(ge=1)]
Gaussian = DiagonalGaussian | PrecisionGaussian
Dims = Annotated[Sequence[Count], Field(min_length=1)]


class LatentVariableModel(nn.Module, ABC):
    """p(z) = N(0, I), p(x | z) = output(f(z)), and q(z | x), which is all that models differ in.

    The encoder's body has the layers ``hidden_dims``, the decoder the same in reverse; with ``network="conv"`` there
    are convolutions between them and the image, whose shape must then be known.
    """

    batch_dependent = False
    """Whether an image's posterior depends on the other images of its batch; evaluation then takes one at a time."""

    analytic_kl = False
    """Whether its posteriors have the method kl_to_prior (``distributions.ClosedFormKL``), for trainer.kl=analytic."""

    covariances = False
    """Whether inference holds a latent x latent matrix for each image of a batch."""

    def __init__(
        self,
        *,
        latent_dim: int,
        hidden_dims: Sequence[int],
        activation: Activation = "relu",
        network: Network = "mlp",
        pixels: int,
        image_shape: ImageShape | None = None,
        output: OutputDistribution,
    ) -> None:
        super().__init__()
        self.latent_dim, self.pixels = latent_dim, pixels
        reverse = list(reversed(hidden_dims))
        if network == "mlp":
            self.encoder = MLP(pixels, hidden_dims, activation)
            self.decoder = Decoder.mlp(latent_dim, reverse, pixels, activation)
        elif image_shape is None:
            raise ValueError("network='conv' needs image_shape: channels, height, width")
        else:
            self.encoder = ConvEncoder(image_shape, hidden_dims, activation)
            self.decoder = Decoder.conv(latent_dim, reverse, image_shape, activation)
        self.output = output

    @abstractmethod
    def posterior(self, x: Float[Tensor, "batch pixels"], noise: Noise) -> Posterior:
        """q(z | x) of each image; ``noise`` only where inference itself is random."""

    def stages(self, x: Float[Tensor, "batch pixels"], noise: Noise) -> Sequence[Gaussian]:
        """q(z | x) before and after each refinement of inference, the last one `posterior`; empty without any."""
        return []

    def refinements(
        self, x: Float[Tensor, "batch pixels"], noise: Noise
    ) -> list[Float[Tensor, "batch latent"]]:
        """The posterior's location at each of its `stages`."""
        return [q.mu for q in self.stages(x, noise)]
