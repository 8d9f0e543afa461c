"""log p(x | z) of fixed images as a function of z: its local quadratic model, and its value at very many z.

With J = df/dz and V the diagonal curvature of the output distribution, the Gauss-Newton model of -log p(x, z)
has precision P = J'VJ + I (Park, Kim, Kim 2019). The short cuts below compute the same
numbers with less work than the explicit form; tests compare both.
"""

import copy
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlae.distributions.posteriors import LOG_2PI, Images, Latent
from vlae.nn.linearisation import Linearisation
from vlae.nn.networks import Decoder


@runtime_checkable
class Likelihood(Protocol):
    """The local quadratic model of log p(x | z) around one z per image, made by ``output.likelihood(decoder, x)``.

    ``at`` is the linearisation of the decoder's body there, ``decoder.linearise(z)``.
    """

    def gradient(self, at: Linearisation) -> Latent:
        """grad_z log p(x | z) = J' score."""
        ...

    def value_and_gradient(self, at: Linearisation) -> tuple[Float[Tensor, " batch"], Latent]:
        """log p(x | z) in nats, and its gradient, from one pass through the decoder."""
        ...

    def curvature_product(self, at: Linearisation, v: Latent) -> Latent:
        """J'V J v."""
        ...

    def precision(self, at: Linearisation) -> Float[Tensor, "batch latent latent"]:
        """P = J'V J + I, the precision of the Laplace approximation (Park, Kim, Kim 2019)."""
        ...

    def select(self, chosen: Int[Tensor, " chosen"]) -> "Likelihood":
        """The same for the images at these positions only."""
        ...


class PixelLikelihood:
    """Likelihood for any output distribution with independent pixels and any decoder; forms the Jacobian J.

    >>> from vlae.distributions.outputs import BernoulliOutput
    >>> decoder, x, z = Decoder.mlp(2, [6], 16), torch.ones(3, 16), torch.zeros(3, 2)
    >>> P = BernoulliOutput().likelihood(decoder, x).precision(decoder.linearise(z))
    >>> J = torch.autograd.functional.jacobian(decoder, z[0])  # [pixels, latent]
    >>> p = torch.sigmoid(decoder(z[0]))
    >>> torch.allclose(P[0], J.T @ torch.diag(p * (1 - p)) @ J + torch.eye(2), atol=1e-6)
    True
    """

    def __init__(
        self,
        decoder: Decoder,
        x: Images,
        log_prob: Callable[[Tensor, Tensor], Tensor],
        score: Callable[[Tensor, Tensor], Tensor],
        curvature: Callable[[Tensor], Tensor],
    ) -> None:
        self.linearise_pixels, self.x = decoder.linearise_pixels, x
        self.log_prob, self.score, self.curvature = log_prob, score, curvature

    def gradient(self, at: Linearisation) -> Latent:
        f = self.linearise_pixels(at)
        return f.vjp(self.score(self.x, f.features))

    def value_and_gradient(self, at: Linearisation) -> tuple[Float[Tensor, " batch"], Latent]:
        f = self.linearise_pixels(at)
        features = f.features
        return self.log_prob(self.x, features), f.vjp(self.score(self.x, features))

    def curvature_product(self, at: Linearisation, v: Latent) -> Latent:
        f = self.linearise_pixels(at)
        Jv = f.jvp(v)  # first: the order of the forward pass is that in which gradients are added and rounded
        return f.vjp(self.curvature(f.features) * Jv)

    def precision(self, at: Linearisation) -> Float[Tensor, "batch latent latent"]:
        f = self.linearise_pixels(at)
        return plus_identity(WeightedGram.apply(f.jacobian(), self.curvature(f.features)))

    def select(self, chosen: Int[Tensor, " chosen"]) -> "PixelLikelihood":
        fewer = copy.copy(self)
        fewer.x = self.x[chosen]
        return fewer


class GramLikelihood:
    """Gaussian output with a linear last layer W: everything happens in the space of hidden features.

    J'J = A' (W'W) A and J' (x - f) = A' (W'(x - b) - W'W h), with W'W shared by the whole batch: the
    [batch, pixels, latent] Jacobian is never formed.

    >>> from vlae.distributions.outputs import GaussianOutput
    >>> decoder, x, z = Decoder.mlp(2, [6], 16), torch.zeros(3, 16), torch.zeros(3, 2)
    >>> P = GaussianOutput().likelihood(decoder, x).precision(decoder.linearise(z))
    >>> J = torch.autograd.functional.jacobian(decoder, z[0])  # [pixels, latent]; the variance of a pixel is 1
    >>> torch.allclose(P[0], J.T @ J + torch.eye(2), atol=1e-6)
    True
    """

    def __init__(self, last: nn.Linear, x: Images, inverse_variance: Float[Tensor, ""]) -> None:
        W, b = last.weight, last.bias
        self.gram = (W.T @ W) * inverse_variance
        self.target = ((x - b) @ W) * inverse_variance
        self._images = x, b, inverse_variance

    def gradient(self, at: Linearisation) -> Latent:
        return at.vjp(self.target - at.features @ self.gram)

    def value_and_gradient(self, at: Linearisation) -> tuple[Float[Tensor, " batch"], Latent]:
        """Its value loses digits where |x - b|^2 / s2 is large: moves bear that, a figure wants `RotatedGaussian`."""
        h = at.features
        product = h @ self.gram
        value = self._at_zero_features + (h * (self.target - 0.5 * product)).sum(-1)
        return value, at.vjp(self.target - product)

    @cached_property
    def _at_zero_features(self) -> Float[Tensor, " batch"]:
        """log N(x; b, s2 I)."""
        x, b, inverse_variance = self._images
        log_determinant = x.shape[-1] * (LOG_2PI - torch.log(inverse_variance))
        return -0.5 * (inverse_variance * (x - b).square().sum(-1) + log_determinant)

    def curvature_product(self, at: Linearisation, v: Latent) -> Latent:
        return at.vjp(at.jvp(v) @ self.gram)

    def precision(self, at: Linearisation) -> Float[Tensor, "batch latent latent"]:
        return plus_identity(SharedGram.apply(at.jacobian(), self.gram))

    def select(self, chosen: Int[Tensor, " chosen"]) -> "GramLikelihood":
        fewer = copy.copy(self)
        fewer.__dict__.pop("_at_zero_features", None)
        x, *others = self._images
        fewer.target, fewer._images = self.target[chosen], (x[chosen], *others)
        return fewer


def plus_identity(P: Float[Tensor, "batch latent latent"]) -> Float[Tensor, "batch latent latent"]:
    """P + I: the precision of the prior N(0, I) added."""
    return P + torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)


class SharedGram(torch.autograd.Function):
    """A G A' for one symmetric G [hidden, hidden] and A [batch, latent, hidden].

    Its backward pass uses the symmetry of G: with C the symmetrised gradient, dA = C (A G) reuses the product of
    the forward pass, where automatic differentiation would multiply with G once more.
    """

    @staticmethod
    def forward(ctx: Any, A: Tensor, G: Tensor) -> Tensor:
        AG = A @ G
        ctx.save_for_backward(A, G, AG)
        return AG @ A.mT

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        A, G, AG = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again: a saved product has no history
            AG = A @ G
        C = grads[0] + grads[0].mT
        dG = torch.mm(A.flatten(0, 1).T, (0.5 * C @ A).flatten(0, 1))
        return C @ AG, dG


class WeightedGram(torch.autograd.Function):
    """J diag(V) J' for J [batch, latent, pixels] and weights V [batch, pixels]; same saving as SharedGram."""

    @staticmethod
    def forward(ctx: Any, J: Tensor, V: Tensor) -> Tensor:
        ctx.save_for_backward(J, V)
        return (J * V.unsqueeze(1)) @ J.mT

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        J, V = ctx.saved_tensors
        CJ = (grads[0] + grads[0].mT) @ J
        dV = 0.5 * (CJ * J).sum(1)
        dJ = CJ * V.unsqueeze(1) if torch.is_grad_enabled() else CJ.mul_(V.unsqueeze(1))
        return dJ, dV


class RotatedGaussian:
    """Gaussian output at very many z: the decode costs hidden x hidden / 2 instead of hidden x pixels.

    With W = Q R, |x - b - W h|^2 = |Q'(x - b) - R h|^2 + (|x - b|^2 - |Q'(x - b)|^2), and only the first term
    depends on z. R is upper triangular; most of its zeros are left out of the product, block by block of rows.
    """

    BLOCK = 128
    """Rows of R in one product: a narrower block leaves out more zeros, but runs at a lower rate."""

    def __init__(self, body: nn.Module, last: nn.Linear, log_variance: Float[Tensor, ""]) -> None:
        self.body, self.log_variance = body, log_variance
        self.W, self.b = last.weight, last.bias
        pixels, hidden = self.W.shape
        self.Q, R = None, self.W
        if pixels > hidden:  # on the CPU, because not every device has this factorisation
            self.Q, R = (factor.to(self.W.device) for factor in torch.linalg.qr(self.W.cpu()))
        edges = [0, len(R)] if self.Q is None else [*range(0, hidden, self.BLOCK), hidden]
        self.rows = [(a, b, R[a:b, a:].T.contiguous()) for a, b in pairwise(edges)]

    def __call__(self, x: Images) -> Callable[[Tensor], Tensor]:
        target = x - self.b if self.Q is None else (x - self.b) @ self.Q
        constant = (x - self.b).square().sum(-1) - target.square().sum(-1)
        log_normaliser = 0.5 * x.shape[-1] * (LOG_2PI + self.log_variance)
        scale = -0.5 * torch.exp(-self.log_variance)

        def log_prob(z: Float[Tensor, "samples batch latent"]) -> Float[Tensor, "samples batch"]:
            residual = self._decode(self.body(z)).sub_(target)
            squared_error = torch.linalg.vector_norm(residual, dim=-1).square()
            return scale * (squared_error + constant) - log_normaliser

        return log_prob

    def _decode(self, h: Float[Tensor, "samples batch hidden"]) -> Float[Tensor, "samples batch rotated"]:
        """R h."""
        features = h.flatten(0, 1)
        rotated = features.new_empty(len(features), self.rows[-1][1])
        for first, last, block in self.rows:
            torch.mm(features[:, -len(block) :], block, out=rotated[:, first:last])
        return rotated.view(*h.shape[:2], -1)
