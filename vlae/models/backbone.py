"""The networks and the output distribution that every model has, whatever its inference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import nn

from vlae.distributions.outputs import OutputDistribution
from vlae.nn.networks import MLP, Activation, ConvEncoder, Decoder, GaussianHead, ImageShape, Network

Count = Annotated[int, Field(ge=1)]
Dims = Annotated[Sequence[Count], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """Settings that all models share: sizes and kind of the encoder and the decoder, and the output distribution.

    The encoder has the layers ``hidden_dims``, the decoder the same in reverse. ``network="conv"`` puts convolutions
    between them and the image, and needs ``image_shape`` (channels, height, width; ``pixels`` is their product).
    In a configuration the fields are keys of the model's section, beside those of its own constructor, except
    ``pixels``, ``output`` and ``image_shape``, which other sections determine.

    >>> from vlae.distributions import BernoulliOutput
    >>> backbone = Backbone(latent_dim=2, hidden_dims=[32, 16], pixels=64, output=BernoulliOutput())
    >>> backbone.features, backbone.decoder().last
    (16, Linear(in_features=32, out_features=64, bias=True))
    """

    latent_dim: Count
    hidden_dims: Dims
    activation: Activation = "relu"
    network: Network = "mlp"
    pixels: int
    image_shape: ImageShape | None = None
    output: OutputDistribution

    @property
    def features(self) -> int:
        """Width of the encoder's output."""
        return self.hidden_dims[-1]

    def encoder(self) -> nn.Sequential:
        """A new encoder, [batch, pixels] -> [batch, features]. ValueError: a convolution without image_shape."""
        if self.network == "mlp":
            return MLP(self.pixels, self.hidden_dims, self.activation)
        return ConvEncoder(self._shape(), self.hidden_dims, self.activation)

    def decoder(self) -> Decoder:
        """A new decoder, [..., latent] -> [..., pixels]. ValueError: a convolution without image_shape."""
        widths = self.hidden_dims[::-1]
        if self.network == "mlp":
            return Decoder.mlp(self.latent_dim, widths, self.pixels, self.activation)
        return Decoder.conv(self.latent_dim, widths, self._shape(), self.activation)

    def gaussian_head(self) -> GaussianHead:
        """New layers for an amortised Gaussian, [batch, features] -> mean and log-variance, each [batch, latent]."""
        return GaussianHead(self.features, self.latent_dim)

    def _shape(self) -> ImageShape:
        if self.image_shape is None:
            raise ValueError("network='conv' needs image_shape: channels, height, width")
        return self.image_shape


SeveralDims = Annotated[Backbone, {"latent_dim": Annotated[int, Field(ge=2)]}]
"""A backbone with at least two latent dimensions: the dictionary narrows the types of fields in configurations."""
