"""Inverse autoregressive flow (Kingma et al. 2016): a diagonal Gaussian through gated autoregressive steps."""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from zuko.nn import MaskedMLP

from vlae.distributions.flows import FlowedGaussian, FlowOutput
from vlae.distributions.posteriors import DiagonalGaussian, Images, Points
from vlae.models.backbone import Count, Dims, SeveralDims
from vlae.models.base import LatentVariableModel
from vlae.seeding import Noise

Layer = tuple[Float[Tensor, "_ _"], Float[Tensor, " _"]]
"""Weight, already masked, and bias."""


class ConditionalNetwork:
    """An autoregressive network given the context of each image: z -> (m, s).

    The first layer is applied in two parts, so that the context's part is computed once per image instead of once
    per sample.
    """

    def __init__(self, layers: Sequence[Layer], context: Float[Tensor, "batch context"]) -> None:
        self.layers, self.context = layers, context
        first, bias = layers[0]
        width = context.shape[-1]
        self._z_weight, context_weight = first.split([first.shape[1] - width, width], dim=1)
        self._offset = F.linear(context, context_weight, bias)

    def __call__(self, z: Points) -> tuple[Points, Points]:
        # contiguous: one product, not one per image
        h = F.linear(z.contiguous(), self._z_weight).add_(self._offset)
        for weight, bias in self.layers[1:]:
            h = F.linear(h.relu_(), weight, bias)
        m, s = h.chunk(2, dim=-1)
        return m, s + 2  # the gate starts almost open (Kingma et al. 2016, section 4)

    def detach(self) -> "ConditionalNetwork":
        return ConditionalNetwork([(w.detach(), b.detach()) for w, b in self.layers], self.context.detach())


class AutoregressiveNetwork(nn.Module):
    """z -> (m, s), given a context: m_i and s_i see z_1 ... z_{i-1} and all of the context.

    The masked network is zuko's, over z and context side by side; weights are masked once per batch.

    >>> network = AutoregressiveNetwork(latent_dim=3, context_dim=2, hidden_dims=[8])(torch.zeros(1, 2))
    >>> m, s = network(torch.randn(5, 1, 3))
    >>> m.shape, bool((m[..., 0] == m[0, 0, 0]).all())  # m_1 sees no z
    (torch.Size([5, 1, 3]), True)
    """

    def __init__(self, latent_dim: int, context_dim: int, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        sees_z = torch.ones(latent_dim, latent_dim).tril(-1) > 0
        sees_context = torch.ones(latent_dim, context_dim).bool()
        of_m = torch.cat([sees_z, sees_context], dim=1)
        adjacency = cast(torch.BoolTensor, torch.cat([of_m, of_m]))
        self.masked = MaskedMLP(adjacency, hidden_dims)

    def forward(self, context: Float[Tensor, "batch context"]) -> ConditionalNetwork:
        linears = [layer for layer in self.masked if isinstance(layer, nn.Linear)]
        layers = [(torch.where(layer.get_buffer("mask"), layer.weight, 0.0), layer.bias) for layer in linears]
        return ConditionalNetwork(layers, context)


class Gates:
    """z <- sigmoid(s) z + (1 - sigmoid(s)) m, once per network, the order of dimensions reversed in between.

    log |det| = sum log sigmoid(s).
    """

    orthogonal = False

    def __init__(self, networks: Sequence[ConditionalNetwork]) -> None:
        self.networks = networks

    def __call__(self, z0: Points) -> FlowOutput:
        z, log_det = z0, torch.zeros(z0.shape[:-1], dtype=z0.dtype, device=z0.device)
        for step, network in enumerate(self.networks):
            z = z.flip(-1) if step else z
            m, s = network(z)
            z = torch.lerp(m, z, torch.sigmoid(s))
            log_det = log_det + F.logsigmoid(s).sum(-1)
        # an even number of steps has reversed the order an odd number of times
        return (z if len(self.networks) % 2 else z.flip(-1)), log_det

    def inverse(self, z: Points) -> FlowOutput:
        """The exact inverse: latent_dim passes of each network (forward: one), all kept for a gradient."""
        log_det = torch.zeros(z.shape[:-1], dtype=z.dtype, device=z.device)
        z = z if len(self.networks) % 2 else z.flip(-1)
        for step, network in reversed(list(enumerate(self.networks))):
            z, log_gates = invert_gate(network, z)
            log_det = log_det + log_gates
            z = z.flip(-1) if step else z
        return z, log_det

    def parameters(self) -> tuple[Float[Tensor, "batch context"]]:
        """The context, which all networks share."""
        return (self.networks[0].context,)

    def with_parameters(self, *parameters: Tensor) -> "Gates":
        (context,) = parameters
        return Gates([ConditionalNetwork(network.layers, context) for network in self.networks])

    def detach(self) -> "Gates":
        return Gates([network.detach() for network in self.networks])


def invert_gate(network: ConditionalNetwork, y: Points) -> FlowOutput:
    """z with y = sigmoid(s) z + (1 - sigmoid(s)) m, and sum log sigmoid(s): dimension by dimension.

    m_i and s_i follow from z_1 ... z_{i-1}, and z_i = m_i + (y_i - m_i) / sigmoid(s_i) from them. Where gates are
    almost closed, z can exceed the largest number: it counts as infinite then, and its density as 0.
    """
    latent = y.shape[-1]
    known, log_gates = y[..., :0], torch.zeros(y.shape[:-1], dtype=y.dtype, device=y.device)
    beyond = torch.zeros_like(log_gates, dtype=torch.bool)
    for i in range(latent):
        m, s = (out[..., i] for out in network(F.pad(known, (0, latent - i))))
        z_i = m + (y[..., i] - m) * (1 + torch.exp(-s))
        beyond = beyond | ~torch.isfinite(z_i)
        # the network of an infinite number would be NaN, in all dimensions: masked weights are 0, and 0 * inf is NaN
        known = torch.cat([known, torch.where(beyond, 0.0, z_i).unsqueeze(-1)], dim=-1)
        log_gates = log_gates + torch.where(beyond, 0.0, F.logsigmoid(s))
    return torch.where(beyond.unsqueeze(-1), torch.where(y.isnan(), y, math.inf), known), log_gates


class IAF(LatentVariableModel):
    """A diagonal Gaussian through ``num_flows`` gated autoregressive steps, which see the encoder's features.

    ``conditional=False`` hides the features, as the masks of the released code do: its flow ignores x
    (docs/decisions/0001). ``flow_hidden_dims``: widths of each step's hidden layers. The step is Kingma et al. 2016,
    equations 13 and 14.

    >>> from vlae.distributions import GaussianOutput
    >>> from vlae.models.backbone import Backbone
    >>> from vlae.seeding import batch_noise, generator
    >>> model = IAF(Backbone(latent_dim=2, hidden_dims=[8], pixels=16, output=GaussianOutput()), flow_hidden_dims=[10])
    >>> q = model.posterior(torch.zeros(3, 16), batch_noise(3, generator("cpu", 0), torch.float32))
    >>> z, log_q = q.rsample_with_log_prob(torch.randn(5, 3, q.noise_dim))
    >>> torch.allclose(q.log_prob(z), log_q, atol=1e-4)  # by the flow's exact inverse
    True
    """

    def __init__(
        self,
        backbone: SeveralDims,
        *,
        num_flows: Count = 4,
        flow_hidden_dims: Dims = (500,),
        conditional: bool = True,
    ) -> None:
        super().__init__(backbone)
        self.amortised = backbone.gaussian_head()
        self.context_dim = backbone.features if conditional else 0
        self.flows = nn.ModuleList(
            AutoregressiveNetwork(backbone.latent_dim, self.context_dim, flow_hidden_dims)
            for _ in range(num_flows)
        )

    def posterior(self, x: Images, noise: Noise) -> FlowedGaussian:
        h = self.encoder(x)
        flow = Gates([network(h[:, : self.context_dim]) for network in self.flows])
        return FlowedGaussian(DiagonalGaussian(*self.amortised(h)), flow)
