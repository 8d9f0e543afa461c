"""The models computed the plain way: what the platform's short cuts are measured and tested against.

The mathematics is the platform's, the way of computing is that of the code released with the paper: the
explicit [batch, pixels, latent] Jacobian at every update, the inverse of the precision and then the Cholesky
factor of that inverse, all of an image's posterior repeated for each of its samples, one image at a time,
reflections as matrices, masked weights multiplied in every pass, images decoded one by one. Written for this
purpose in plain torch; it takes the parameters of the platform's models and nothing of their methods. Where the
released code departs from what is right (docs/decisions/0001) the reference does what is right, at the same cost.
"""

import math
from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ToTensor
from zuko.nn import MaskedLinear

from vlae.distributions.outputs import GaussianOutput
from vlae.models.base import LatentVariableModel
from vlae.models.hf import HF
from vlae.models.iaf import IAF, AutoregressiveNetwork
from vlae.models.vae import VAE
from vlae.models.vlae import VLAE
from vlae.nn.networks import GaussianHead
from vlae.seeding import Noise

LOG_2PI = math.log(2 * math.pi)


def elbo(
    model: LatentVariableModel, x: Float[Tensor, "batch pixels"], noise: Noise
) -> Float[Tensor, " batch"]:
    """log p(x, z) - log q(z | x) at one z per image: its mean over images is maximised in training."""
    return log_weights(model, x, noise(1, model.latent_dim)[0])


def log_likelihood(
    model: LatentVariableModel, x: Float[Tensor, "1 pixels"], noise: Noise, samples: int
) -> Float[Tensor, ""]:
    """log (1/S) sum_s w_s of ONE image, which is repeated ``samples`` times and goes through as a batch."""
    eps = noise(samples, model.latent_dim)[:, 0]
    logs = log_weights(model, x, eps)
    largest = logs.max()
    return torch.log(torch.exp(logs - largest).mean()) + largest


def log_weights(
    model: LatentVariableModel, x: Float[Tensor, "images pixels"], eps: Float[Tensor, "batch latent"]
) -> Float[Tensor, " batch"]:
    """log p(x | z) + log p(z) - log q(z | x) with batch = images x samples, samples of an image adjacent."""
    samples = len(eps) // len(x)
    z, log_q = _DRAW[type(model)](model, x, eps, samples)
    log_p = output_log_prob(model, repeat(x, samples), decode(model, z))
    zero = torch.zeros(1, 1, dtype=z.dtype, device=z.device)
    return log_p + diagonal_log_prob(z, zero, zero) - log_q


def encode(model: LatentVariableModel, x: Float[Tensor, "batch pixels"]) -> Float[Tensor, "batch hidden"]:
    """The encoder's last hidden layer."""
    for layer in _linears(model.encoder):
        x = torch.relu(affine(layer, x))
    return x


def decode(model: LatentVariableModel, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch pixels"]:
    for layer in _linears(model.decoder.body):
        z = torch.relu(affine(layer, z))
    return affine(_last(model), z)


def linearise(
    model: LatentVariableModel, z: Float[Tensor, "batch latent"]
) -> tuple[Float[Tensor, "batch pixels"], Float[Tensor, "batch pixels latent"]]:
    """f(z) and J = W_last D_L W_L ... D_1 W_1, the whole of it; D_l masks layer l's inactive units."""
    first, *others = _linears(model.decoder.body)
    h = torch.relu(affine(first, z))
    J = (h > 0).to(h.dtype).unsqueeze(-1) * first.weight
    for layer in others:
        h = torch.relu(affine(layer, h))
        J = (h > 0).to(h.dtype).unsqueeze(-1) * torch.matmul(layer.weight, J)
    last = _last(model)
    return affine(last, h), torch.matmul(last.weight, J)


def affine(layer: nn.Linear, h: Float[Tensor, "batch before"]) -> Float[Tensor, "batch after"]:
    return F.linear(h, layer.weight, layer.bias)


def _last(model: LatentVariableModel) -> nn.Linear:
    if model.decoder.last is None:
        raise ValueError("the reference knows fully connected ReLU networks only")
    return model.decoder.last


def _linears(network: nn.Module) -> Iterator[nn.Linear]:
    return (layer for layer in network.children() if isinstance(layer, nn.Linear))


def output_log_prob(
    model: LatentVariableModel, x: Float[Tensor, "batch pixels"], f: Float[Tensor, "batch pixels"]
) -> Float[Tensor, " batch"]:
    """log p(x | z): Gaussian from means, Bernoulli from probabilities (not logits), kept off 0 and 1."""
    if isinstance(model.output, GaussianOutput):
        log_variance = model.output.log_variance
        terms = LOG_2PI + log_variance + (x - f) ** 2 / torch.exp(log_variance)
        return -0.5 * terms.sum(-1)
    p = _probability(f)
    return (x * torch.log(p) + (1 - x) * torch.log(1 - p)).sum(-1)


def diagonal_log_prob(
    z: Float[Tensor, "batch latent"],
    mu: Float[Tensor, "#batch #latent"],
    log_variance: Float[Tensor, "#batch #latent"],
) -> Float[Tensor, " batch"]:
    return -0.5 * (LOG_2PI + log_variance + (z - mu) ** 2 / torch.exp(log_variance)).sum(-1)


class DenseGaussian:
    """N(mu, P^-1), by the inverse of P and the Cholesky factor C of that inverse: z = mu + C eps.

    Held with the latent axis reversed. In that order C is the (reversed) L^-T of P = L L', so that the same
    noise gives the same z as in the platform; in the given order both would be right, and different.
    """

    def __init__(
        self, mu: Float[Tensor, "batch latent"], precision: Float[Tensor, "batch latent latent"]
    ) -> None:
        self.mu, self.precision = mu.flip(-1), precision.flip(-1, -2)
        self._factorise()

    def _factorise(self) -> None:
        self.factor = torch.linalg.cholesky(torch.inverse(self.precision))

    def repeat(self, samples: int) -> "DenseGaussian":
        """The same Gaussian ``samples`` times over, each factorised for itself."""
        copies = DenseGaussian.__new__(DenseGaussian)
        copies.mu, copies.precision = repeat(self.mu, samples), repeat(self.precision, samples)
        copies._factorise()
        return copies

    def sample(self, eps: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        z = self.mu + torch.matmul(self.factor, eps.flip(-1).unsqueeze(-1)).squeeze(-1)
        return z.flip(-1)

    def log_prob(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, " batch"]:
        offset = (z.flip(-1) - self.mu).unsqueeze(-1)
        quadratic = torch.matmul(torch.matmul(offset.mT, self.precision), offset).squeeze(-1).squeeze(-1)
        half_log_det = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * (z.shape[-1] * LOG_2PI + quadratic) - half_log_det


def repeat(t: Tensor, samples: int) -> Tensor:
    """Every row of ``t``, ``samples`` times, as a copy."""
    return t if samples == 1 else t.repeat_interleave(samples, dim=0)


def _probability(f: Tensor) -> Tensor:
    """sigmoid(f), clamped where the logarithm of it or of 1 minus it would not be finite."""
    smallest = torch.finfo(f.dtype).eps
    return torch.sigmoid(f).clamp(smallest, 1 - smallest)


Draw = tuple[Float[Tensor, "batch latent"], Float[Tensor, " batch"]]


def _draw_diagonal(head: GaussianHead, h: Tensor, eps: Tensor, samples: int) -> Draw:
    mu, log_variance = repeat(affine(head.mu, h), samples), repeat(affine(head.log_variance, h), samples)
    z = mu + torch.exp(0.5 * log_variance) * eps
    return z, diagonal_log_prob(z, mu, log_variance)


def _draw_vae(model: VAE, x: Tensor, eps: Tensor, samples: int) -> Draw:
    return _draw_diagonal(model.amortised, encode(model, x), eps, samples)


def vlae_moments(
    model: VLAE, x: Float[Tensor, "batch pixels"]
) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent latent"]]:
    """mu_T and P(mu_T): T damped updates, each with the explicit Jacobian and the inverse of P = J'VJ + I."""
    mu = affine(model.mu, encode(model, x))
    for t in range(model.num_updates):
        f, J = linearise(model, mu)
        weighted, precision = _weights_and_precision(model, f, J)
        if isinstance(model.output, GaussianOutput):
            residual = x.unsqueeze(-1) - f.unsqueeze(-1) + torch.matmul(J, mu.unsqueeze(-1))
            new = torch.matmul(torch.inverse(precision), torch.matmul(weighted, residual)).squeeze(-1)
        else:
            gradient = torch.matmul(J.mT, (x - torch.sigmoid(f)).unsqueeze(-1)) - mu.unsqueeze(-1)
            new = mu + torch.matmul(torch.inverse(precision), gradient).squeeze(-1)
        rate = model.damping / (t + 1)
        mu = (1 - rate) * mu + rate * new
    return mu, _weights_and_precision(model, *linearise(model, mu))[1]


def _weights_and_precision(
    model: VLAE, f: Float[Tensor, "batch pixels"], J: Float[Tensor, "batch pixels latent"]
) -> tuple[Float[Tensor, "batch latent pixels"], Float[Tensor, "batch latent latent"]]:
    """J'V and J'VJ + I."""
    if isinstance(model.output, GaussianOutput):
        V = torch.exp(-model.output.log_variance)
    else:
        p = _probability(f)
        V = torch.exp(torch.log(p * (1 - p))).unsqueeze(1)
    weighted = J.mT * V
    precision = torch.matmul(weighted, J)
    precision = precision + torch.eye(precision.shape[-1], dtype=f.dtype, device=f.device)
    return weighted, precision


def _draw_vlae(model: VLAE, x: Tensor, eps: Tensor, samples: int) -> Draw:
    q = DenseGaussian(*vlae_moments(model, x))
    if samples > 1:
        q = q.repeat(samples)
    z = q.sample(eps)
    return z, q.log_prob(z)


def _draw_hf(model: HF, x: Tensor, eps: Tensor, samples: int) -> Draw:
    """The reflections are multiplied to one matrix per row of the batch, z_0 is multiplied with that."""
    h = v = encode(model, x)
    identity = torch.eye(model.latent_dim, dtype=x.dtype, device=x.device)
    H = identity.expand(len(x), -1, -1)
    for normal in _linears(model.normals):
        v = affine(normal, v)
        outer = torch.matmul(v.unsqueeze(-1), v.unsqueeze(-2))
        H = torch.matmul(identity - 2 * outer / (v**2).sum(-1)[:, None, None], H)
    z, log_q = _draw_diagonal(model.amortised, h, eps, samples)
    return torch.matmul(repeat(H, samples), z.unsqueeze(-1)).squeeze(-1), log_q


def _draw_iaf(model: IAF, x: Tensor, eps: Tensor, samples: int) -> Draw:
    """The context stands beside z for every sample; the weights are masked again in every pass."""
    h = encode(model, x)
    z, log_q = _draw_diagonal(model.amortised, h, eps, samples)
    context = repeat(h[:, : model.context_dim], samples)
    for step, network in enumerate(model.flows):
        if step > 0:
            z = z.flip(-1)
        y = torch.cat([z, context], dim=-1)
        for layer in cast(AutoregressiveNetwork, network).masked:
            if isinstance(layer, MaskedLinear):
                y = F.linear(y, layer.weight * cast(Tensor, layer.mask), layer.bias)
            else:
                y = torch.relu(y)
        m, s = y[:, : model.latent_dim], y[:, model.latent_dim :] + 2
        gate = torch.sigmoid(s)
        z = gate * z + (1 - gate) * m
        log_q = log_q - torch.log(gate).sum(-1)
    return (z.flip(-1) if len(model.flows) % 2 == 0 else z), log_q


_DRAW = {VAE: _draw_vae, VLAE: _draw_vlae, HF: _draw_hf, IAF: _draw_iaf}


class DecodedImages(Dataset[Tensor]):
    """uint8 images [n, height, width], handed out one by one through PIL as torchvision's MNIST does."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.transform = images, ToTensor()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.fromarray(self.images[index].numpy()))


def loader(images: Tensor, batch_size: int, device: torch.device) -> DataLoader[Tensor]:
    """Shuffled batches. As released: four workers and pinned memory where there is CUDA, no worker on a CPU.

    That is also the fair choice on two cores, which the training step fills by itself.
    """
    workers: dict = {"num_workers": 4, "pin_memory": True} if device.type == "cuda" else {}
    return DataLoader(DecodedImages(images), batch_size=batch_size, shuffle=True, **workers)
