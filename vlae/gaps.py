"""Where the bound is lost: by the family of q(z | x), or by how inference chooses in it (Cremer, Li, Duvenaud 2018).

log p(x) - ELBO(q) = [log p(x) - ELBO(q*)] + [ELBO(q*) - ELBO(q)], the approximation gap and the amortisation gap,
with q* the best member of the model's own family for this image alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.distributions import FamilyMember, family_member, standard_normal_log_prob
from vlae.models.base import LatentVariableModel
from vlae.objective import elbo
from vlae.seeding import Noise, generator, image_noise

FIRST_STEP, SAMPLES, FINAL_SAMPLES = 0.1, 8, 500
"""Of the ascent: Adam's first learning rate, which falls to 0, and samples a step; and samples of the ELBOs."""


@dataclass
class Gaps:
    """Of each image, in nats; the ELBOs by common random numbers."""

    elbo: Float[Tensor, " images"]
    optimal_elbo: Float[Tensor, " images"]
    """Of q*, as well as gradient ascent finds it; never below ``elbo``."""
    iterations: int
    """Refinements that the model's own inference takes."""


def measure_gaps(
    model: LatentVariableModel,
    x: Float[Tensor, "images pixels"],
    *,
    seed: int,
    steps: int = 500,
    report: Callable[[int, int], None] = lambda step, steps: None,
) -> Gaps:
    """Gradient ascent on each image's ELBO from the model's own posterior, over the parameters of its family.

    Each image is its own problem: Adam moves every number by itself, and an image's noise is its own.
    """
    dtype = x.dtype
    noise = image_noise([generator(x.device, seed, "evaluate", i) for i in range(len(x))], dtype)
    with torch.no_grad():
        posterior = family_member(model.posterior(x, noise), "evaluate.gaps")
        iterations = max(0, len(model.refinements(x, noise)) - 1)
    start = posterior.detached()
    ascent = image_noise([generator(x.device, seed, "gaps", i) for i in range(len(x))], dtype)
    best = ascend(model, x, start, ascent, steps, report)
    with torch.no_grad():
        eps = ascent(FINAL_SAMPLES, start.noise_dim)
        before, after = (elbo(log_weights(model, x, q, eps)) for q in (start, best))
    # where the ascent has led down, the start is the best member known
    return Gaps(before.cpu().double(), torch.maximum(before, after).cpu().double(), iterations)


def ascend(
    model: LatentVariableModel,
    x: Float[Tensor, "images pixels"],
    start: FamilyMember,
    noise: Noise,
    steps: int,
    report: Callable[[int, int], None],
) -> FamilyMember:
    """The member of the family where Adam ends, its learning rate falling linearly to 0."""
    free = [p.detach().clone().requires_grad_() for p in start.parameters()]
    optimizer = torch.optim.Adam(free, lr=FIRST_STEP)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = FIRST_STEP * (1 - step / steps)
        with torch.enable_grad():
            q = start.with_parameters(*free)
            total = elbo(log_weights(model, x, q, noise(SAMPLES, q.noise_dim))).sum()
            gradients = torch.autograd.grad(-total, free)
        for value, gradient in zip(free, gradients, strict=True):
            value.grad = gradient
        optimizer.step()
        report(step + 1, steps)
    return start.with_parameters(*(p.detach() for p in free))


def log_weights(
    model: LatentVariableModel,
    x: Float[Tensor, "images pixels"],
    q: FamilyMember,
    eps: Float[Tensor, "samples images noise"],
) -> Float[Tensor, "samples images"]:
    z, log_q = q.rsample_with_log_prob(eps)
    return model.output.log_prob(x, model.decoder(z)) + standard_normal_log_prob(z) - log_q
