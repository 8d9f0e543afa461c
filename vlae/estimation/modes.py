"""Modes of p(z | x) that are found from the decoder alone, so that they are the same for every model with it."""

import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlae.distributions.laplace import find_modes
from vlae.distributions.outputs import OutputDistribution, Scorer
from vlae.distributions.posteriors import LOG_2PI, Images, Points, cholesky
from vlae.nn.networks import Decoder, largest_layer

FIRST_STEPS, LAST_STEPS = 4, 15
"""Steps of all searches; then of those that have not come near a better one of the same image."""
TOLERANCE = 0.5
"""Nats: chains start from the modes, so a mode need not be found exactly."""
SAME, APART = 3.0, 4.0
"""Standard deviations of the Laplace approximation: searches closer than SAME become one. Modes closer than APART are
one component, because its chains cross from one to the other."""
JACOBIAN_NUMBERS = 2**26
"""Most numbers in the Jacobians of the searches that go together: 256 MiB in float32."""
NEGLIGIBLE = 8.0
"""Nats: a mode whose Laplace evidence is so far below the best one's is left out."""


@dataclass
class Components:
    """Modes of the images of a group, the best of each image first."""

    images: Int[Tensor, " components"]
    """Positions of their images, in ascending order."""
    ranks: Int[Tensor, " components"]
    """0 for the best mode of an image, then 1, 2, ..."""
    z: Float[Tensor, "components latent"]
    cholesky: Float[Tensor, "components latent latent"]
    """L of the precision P = J'VJ + I = L L' at each."""


@torch.no_grad()
def find_components(
    output: OutputDistribution, decoder: Decoder, x: Images, starts: Points, most: int, scorer: Scorer
) -> Components:
    """The modes that searches from ``starts`` end at, at most ``most`` for each image, with their Laplace precision.

    Two modes of an image are the same where (z - z')'P(z - z') < APART^2 with the precision at the better one.
    NonFiniteError: a precision is not finite.

    >>> from vlae.distributions import GaussianOutput
    >>> decoder, output, x = Decoder.mlp(2, [8], 16), GaussianOutput(), torch.randn(3, 16)
    >>> found = find_components(output, decoder, x, torch.randn(5, 3, 2), most=4, scorer=output.scorer(decoder))
    >>> sorted(set(found.images.tolist()))
    [0, 1, 2]
    """
    images = torch.arange(len(x), device=x.device).repeat(len(starts))
    z, heights, L = _search(output, decoder, x[images], starts.flatten(0, 1), FIRST_STEPS, scorer)
    chosen, _ = _distinct(images, z, heights, L, SAME, most=len(starts), lowest=math.inf, ended=False)
    images = images[chosen]
    z, heights, L = _search(output, decoder, x[images], z[chosen], LAST_STEPS, scorer)
    chosen, ranks = _distinct(images, z, heights, L, APART, most, NEGLIGIBLE, ended=True)
    return Components(images[chosen], ranks, z[chosen], L[chosen])


def _search(
    output: OutputDistribution, decoder: Decoder, x: Images, start: Tensor, steps: int, scorer: Scorer
) -> tuple[Tensor, Float[Tensor, " rows"], Float[Tensor, "rows latent latent"]]:
    """z, the Laplace approximation of log p(x) in nats, and L with P = L L', where each search ends."""
    latent = start.shape[-1]
    rows = max(1, JACOBIAN_NUMBERS // (latent * largest_layer(decoder)))
    parts = [
        find_modes(output, decoder, *part, tolerance=TOLERANCE, max_steps=steps, scorer=scorer)
        for part in zip(x.split(rows), start.split(rows), strict=True)
    ]
    z, value, P = (torch.cat([getattr(part, name) for part in parts]) for name in ("z", "value", "precision"))
    L = cholesky(P)
    log_volume = 0.5 * latent * LOG_2PI - L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return z, value + log_volume, L


def _distinct(
    images: Int[Tensor, " rows"],
    z: Float[Tensor, "rows latent"],
    heights: Float[Tensor, " rows"],
    L: Float[Tensor, "rows latent latent"],
    apart: float,
    most: int,
    lowest: float,
    ended: bool,
) -> tuple[Int[Tensor, " chosen"], Int[Tensor, " chosen"]]:
    """The rows to keep, image by image from the best down, and their ranks.

    A row is left out that is nearer than ``apart`` to a better one of its image, or more than ``lowest`` nats below the
    best. Near means by the precision at the better row; where searches have not ``ended``, by that at the other, too:
    where units are saturated the precision is I, and one search would take all others of its image for itself.
    """
    rows = images.sort(stable=True).indices
    of_image = [part.tolist() for part in rows.split(images.bincount().tolist()) if len(part)]
    pairs = torch.tensor(
        [(i, j) for same in of_image for i, j in itertools.product(same, same)], device=z.device
    )
    from_row, to_row = pairs.unbind(-1)
    offsets = torch.einsum("pi,pij->pj", z[from_row] - z[to_row], L[to_row])
    distances = dict(zip(map(tuple, pairs.tolist()), offsets.norm(dim=-1).tolist(), strict=True))
    if not ended:
        distances = {(i, j): max(distance, distances[j, i]) for (i, j), distance in distances.items()}
    level, chosen, ranks = heights.tolist(), list[int](), list[int]()
    for same in of_image:
        kept: list[int] = []
        same.sort(key=lambda row: -level[row])
        for row in same:
            if len(kept) == most or level[row] < level[same[0]] - lowest:
                break
            if all(distances[row, better] >= apart for better in kept):
                kept.append(row)
        chosen += kept
        ranks += range(len(kept))
    return torch.tensor(chosen, device=z.device), torch.tensor(ranks, device=z.device)
