"""The Householder flow (Tomczak and Welling 2016): a diagonal Gaussian, reflected."""

import itertools
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlae.distributions.flows import FlowedGaussian, FlowOutput
from vlae.distributions.posteriors import DiagonalGaussian, Images, Latent, Points
from vlae.models.backbone import Backbone, Count
from vlae.models.base import LatentVariableModel
from vlae.seeding import Noise


class Reflections:
    """The flow z = H_T ... H_1 z_0 with H_t = I - 2 v_t v_t' / |v_t|^2, v_t one per image; log |det| = 0.

    >>> flow = Reflections([torch.tensor([[1.0, 0.0]])])  # one image, its reflection flips the first axis
    >>> flow(torch.tensor([[[3.0, 4.0]]]))
    (tensor([[[-3.,  4.]]]), tensor([[0.]]))
    """

    orthogonal = True

    def __init__(self, normals: Iterable[Latent]) -> None:
        # pairwise, as they come: the order of operations decides the last bits of gradients
        pairs = [(v, nn.functional.normalize(v, dim=-1)) for v in normals]
        self.normals, self._units = tuple(v for v, _ in pairs), [unit for _, unit in pairs]

    def __call__(self, z0: Points) -> FlowOutput:
        return self._reflect(z0, self._units)

    def inverse(self, z: Points) -> FlowOutput:
        """The reflections in reverse order: each is its own inverse."""
        return self._reflect(z, self._units[::-1])

    def parameters(self) -> tuple[Tensor, ...]:
        return self.normals

    def with_parameters(self, *parameters: Tensor) -> "Reflections":
        return Reflections(parameters)

    def detach(self) -> "Reflections":
        return Reflections(v.detach() for v in self.normals)

    def _reflect(self, z: Points, units: list[Latent]) -> FlowOutput:
        for u in units:
            z = z - 2 * (z * u).sum(-1, keepdim=True) * u
        return z, torch.zeros(z.shape[:-1], dtype=z.dtype, device=z.device)


class HF(LatentVariableModel):
    """z = H_T ... H_1 z_0 with H_t = I - 2 v_t v_t' / |v_t|^2; v_1 from the encoder's features, v_{t+1} from v_t.

    Every H_t is orthogonal, so the flow's log-determinant is 0. The reflections are applied to z, at a cost of
    T x latent per sample; the matrices are never formed. T is ``num_flows`` (Tomczak and Welling 2016, section 3).

    >>> from vlae.distributions import GaussianOutput
    >>> from vlae.seeding import batch_noise, generator
    >>> model = HF(Backbone(latent_dim=2, hidden_dims=[8], pixels=16, output=GaussianOutput()), num_flows=3)
    >>> x, noise = torch.zeros(5, 16), batch_noise(5, generator("cpu", 0), torch.float32)
    >>> [v.shape for v in model.posterior(x, noise).flow.normals]
    [torch.Size([5, 2]), torch.Size([5, 2]), torch.Size([5, 2])]
    """

    analytic_kl = True

    def __init__(self, backbone: Backbone, *, num_flows: Count = 4) -> None:
        super().__init__(backbone)
        self.amortised = backbone.gaussian_head()
        dims = [backbone.features] + [backbone.latent_dim] * num_flows
        self.normals = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(dims))

    def posterior(self, x: Images, noise: Noise) -> FlowedGaussian:
        h = self.encoder(x)
        base = DiagonalGaussian(*self.amortised(h))
        return FlowedGaussian(base, Reflections(self._normals(h)))

    def _normals(self, v: Float[Tensor, "batch _"]) -> Iterator[Latent]:
        for normal in self.normals:
            v = normal(v)
            yield v
