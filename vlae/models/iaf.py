"""Inverse autoregressive flow (Kingma et al. 2016): a diagonal Gaussian through gated autoregressive steps."""

from collections.abc import Callable, Sequence
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from zuko.nn import MaskedMLP

from vlae.distributions import DiagonalGaussian, FlowedGaussian, OutputDistribution
from vlae.models.base import Count, Dims, LatentVariableModel
from vlae.networks import Activation, GaussianHead, ImageShape, Network
from vlae.seeding import Noise

Conditioned = Callable[
    [Float[Tensor, "samples batch latent"]],
    tuple[Float[Tensor, "samples batch latent"], Float[Tensor, "samples batch latent"]],
]


class AutoregressiveNetwork(nn.Module):
    """z -> (m, s), given a context: m_i and s_i see z_1 ... z_{i-1} and all of the context.

    The masked network is zuko's, over z and context side by side. Its first layer is applied in two parts, so that
    the context's part is computed once per image instead of once per sample, and weights are masked once per batch.
    """

    def __init__(self, latent_dim: int, context_dim: int, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        sees_z = torch.ones(latent_dim, latent_dim).tril(-1) > 0
        sees_context = torch.ones(latent_dim, context_dim).bool()
        of_m = torch.cat([sees_z, sees_context], dim=1)
        adjacency = cast(torch.BoolTensor, torch.cat([of_m, of_m]))
        self.masked = MaskedMLP(adjacency, hidden_dims)

    def forward(self, context: Float[Tensor, "batch context"]) -> Conditioned:
        linears = [layer for layer in self.masked if isinstance(layer, nn.Linear)]
        weights = [torch.where(layer.get_buffer("mask"), layer.weight, 0.0) for layer in linears]
        of_z, of_context = weights[0].split([self.latent_dim, context.shape[-1]], dim=1)
        offset = F.linear(context, of_context, linears[0].bias)

        def network(
            z: Float[Tensor, "samples batch latent"],
        ) -> tuple[Float[Tensor, "samples batch latent"], Float[Tensor, "samples batch latent"]]:
            h = F.linear(z.contiguous(), of_z).add_(offset)  # contiguous: one product, not one per image
            for layer, weight in zip(linears[1:], weights[1:], strict=True):
                h = F.linear(h.relu_(), weight, layer.bias)
            m, s = h.chunk(2, dim=-1)
            return m, s + 2  # the gate starts almost open (Kingma et al. 2016, section 4)

        return network


class IAF(LatentVariableModel):
    """z <- sigmoid(s) z + (1 - sigmoid(s)) m, ``num_flows`` times, the order of dimensions reversed in between.

    log |det| = sum log sigmoid(s). ``conditional=False`` hides the encoder's features from the flow, as the
    released code's masks do: its flow ignores x (docs/decisions/0001).
    """

    def __init__(
        self,
        *,
        latent_dim: Annotated[int, Field(ge=2)],
        hidden_dims: Dims,
        activation: Activation = "relu",
        network: Network = "mlp",
        num_flows: Count = 4,
        flow_hidden_dims: Dims = (500,),
        conditional: bool = True,
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
        self.context_dim = hidden_dims[-1] if conditional else 0
        self.flows = nn.ModuleList(
            AutoregressiveNetwork(latent_dim, self.context_dim, flow_hidden_dims) for _ in range(num_flows)
        )

    def posterior(self, x: Float[Tensor, "batch pixels"], noise: Noise) -> FlowedGaussian:
        h = self.encoder(x)
        networks = [flow(h[:, : self.context_dim]) for flow in self.flows]

        def flow(
            z: Float[Tensor, "samples batch latent"],
        ) -> tuple[Float[Tensor, "samples batch latent"], Float[Tensor, "samples batch"]]:
            log_det = torch.zeros(z.shape[:-1], dtype=z.dtype, device=z.device)
            for step, network in enumerate(networks):
                z = z.flip(-1) if step else z
                m, s = network(z)
                z = torch.lerp(m, z, torch.sigmoid(s))
                log_det = log_det + F.logsigmoid(s).sum(-1)
            # an even number of steps has reversed the order an odd number of times
            return (z if len(networks) % 2 else z.flip(-1)), log_det

        return FlowedGaussian(DiagonalGaussian(*self.amortised(h)), flow)
