"""A network near one z per image: its value and its Jacobian, as products with vectors and as a matrix."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn


@runtime_checkable
class Linearisation(Protocol):
    """h(z) and A = dh/dz for each image, differentiable with respect to z and the weights.

    h are a decoder's hidden features, or its pixels if it has no linear last layer. `Decoder.linearise` makes one.

    >>> at = ReLULinearisation.at([nn.Linear(2, 8)], torch.zeros(3, 2))
    >>> isinstance(at, Linearisation), at.features.shape
    (True, torch.Size([3, 8]))
    """

    @property
    def features(self) -> Float[Tensor, "batch hidden"]:
        """h(z)."""
        ...

    def split(self, images: int) -> "list[Linearisation]":
        """The same in parts of at most ``images`` images, without gradient."""
        ...

    def jvp(self, v: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch hidden"]:
        """A v."""
        ...

    def vjp(self, u: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch latent"]:
        """A' u."""
        ...

    def jacobian(self) -> Float[Tensor, "batch latent hidden"]:
        """A', one row per latent dimension, so that every large product is one plain matrix product."""
        ...


@dataclass
class ReLULinearisation:
    """Linearisation of linear layers with ReLUs: exact as long as no unit changes sign.

    With D_l the 0/1 diagonal of the active units of layer l, A = D_L W_L ... D_1 W_1. The masks D_l are constants
    almost everywhere.

    >>> layer = nn.Linear(2, 3)
    >>> at = ReLULinearisation.at([layer], torch.zeros(1, 2))
    >>> torch.equal(at.jacobian()[0].T, (layer.bias > 0).unsqueeze(1) * layer.weight)
    True
    """

    linears: list[nn.Linear]
    masks: list[Float[Tensor, "batch _"]]
    features: Float[Tensor, "batch hidden"]

    @classmethod
    def at(cls, linears: list[nn.Linear], z: Float[Tensor, "batch latent"]) -> "ReLULinearisation":
        """The linearisation of these layers, each followed by a ReLU, at z."""
        masks, h = [], z
        for linear in linears:
            h = torch.relu(linear(h))
            masks.append(
                h.detach().sign()
            )  # 0 or 1, in one pass where a comparison and a conversion take two
        return cls(linears, masks, h)

    def split(self, images: int) -> list[Linearisation]:
        masks = zip(*(mask.split(images) for mask in self.masks), strict=True)
        features = self.features.detach().split(images)
        return [ReLULinearisation(self.linears, list(m), h) for m, h in zip(masks, features, strict=True)]

    def jvp(self, v: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch hidden"]:
        for linear, mask in zip(self.linears, self.masks, strict=True):
            v = (v @ linear.weight.T) * mask
        return v

    def vjp(self, u: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch latent"]:
        for linear, mask in zip(reversed(self.linears), reversed(self.masks), strict=True):
            u = (u * mask) @ linear.weight
        return u

    def jacobian(self) -> Float[Tensor, "batch latent hidden"]:
        rows = self.masks[0].unsqueeze(1) * self.linears[0].weight.T
        for linear, mask in zip(self.linears[1:], self.masks[1:], strict=True):
            rows = (rows @ linear.weight.T).mul_(mask.unsqueeze(1))
        return rows


class FunctionLinearisation:
    """Linearisation of any network that maps each image's z on its own, by automatic differentiation.

    Where its units are smooth, A changes with z and with every weight, and so has gradients of its own.

    >>> at = FunctionLinearisation(torch.sin, torch.zeros(1, 2))
    >>> torch.equal(at.jacobian()[0], torch.eye(2))  # cos 0 = 1
    True
    """

    def __init__(self, function: Callable[[Tensor], Tensor], z: Float[Tensor, "batch latent"]) -> None:
        self.function, self.z = function, z
        value_and_pullback = torch.func.vjp(function, z)
        self.features: Float[Tensor, "batch hidden"] = value_and_pullback[0]
        self._pullback = value_and_pullback[1]

    def split(self, images: int) -> list[Linearisation]:
        with torch.no_grad():
            return [FunctionLinearisation(self.function, z) for z in self.z.detach().split(images)]

    def jvp(self, v: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch hidden"]:
        with _quiet():
            return torch.func.jvp(self.function, (self.z,), (v,))[1]

    def vjp(self, u: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch latent"]:
        return self._pullback(u)[0]

    def jacobian(self) -> Float[Tensor, "batch latent hidden"]:
        def of_one(z: Tensor) -> Tensor:
            return self.function(z.unsqueeze(0)).squeeze(0)

        with _quiet():
            return torch.func.vmap(torch.func.jacfwd(of_one))(self.z).mT


@dataclass
class ThenLinear:
    """Linearisation of a network and a linear layer W after it: f = W h + b, J = W A.

    >>> body = ReLULinearisation.at([nn.Linear(2, 8)], torch.zeros(3, 2))
    >>> at = ThenLinear(body, last=nn.Linear(8, 16))
    >>> at.features.shape, at.vjp(torch.ones(3, 16)).shape
    (torch.Size([3, 16]), torch.Size([3, 2]))
    """

    inner: Linearisation
    last: nn.Linear

    @property
    def features(self) -> Float[Tensor, "batch hidden"]:
        return self.last(self.inner.features)

    def split(self, images: int) -> list[Linearisation]:
        return [ThenLinear(part, self.last) for part in self.inner.split(images)]

    def jvp(self, v: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch hidden"]:
        return self.inner.jvp(v) @ self.last.weight.T

    def vjp(self, u: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch latent"]:
        return self.inner.vjp(u @ self.last.weight)

    def jacobian(self) -> Float[Tensor, "batch latent hidden"]:
        return self.inner.jacobian() @ self.last.weight.T


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide a warning of torch about itself: it loads forward-mode rules through its deprecated torch.jit.script."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".torch.jit.script. is", FutureWarning)
        warnings.filterwarnings("ignore", ".torch.jit.script. is", DeprecationWarning)
        yield
