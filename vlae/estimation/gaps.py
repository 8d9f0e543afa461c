"""Where the bound is lost: by the family of q(z | x), or by how inference chooses in it (Cremer, Li, Duvenaud 2018).

log p(x) - ELBO(q) = [log p(x) - ELBO(q*)] + [ELBO(q*) - ELBO(q)], the approximation gap and the amortisation gap,
with q* the best member of the model's own family for this image alone.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.distributions.posteriors import FamilyMember, family_member, standard_normal_log_prob
from vlae.errors import NonFiniteError
from vlae.estimation.log_weights import LogWeights
from vlae.models.base import LatentVariableModel
from vlae.nn.networks import widest
from vlae.seeding import Noise, generator, image_noise
from vlae.training.objective import elbo

STEPS, FIRST_STEP, SAMPLES = 500, 0.1, 8
"""Of the ascent: steps, Adam's first learning rate, which falls to 0, and samples a step."""
FINAL_SAMPLES = 500
"""By which the better one of start and end is chosen; and by as many others their ELBOs are compared."""
ARRAYS = 12
"""About so many arrays as wide as the widest layer live in a step of the ascent."""
MAX_GROUP = 100


@dataclass
class Gaps:
    """Of each image, in nats; the first ``done`` are known. The two ELBOs are by common random numbers."""

    elbo: Float[Tensor, " images"]
    optimal_elbo: Float[Tensor, " images"]
    """Of q*, as well as gradient ascent from q finds it."""
    log_likelihood: Float[Tensor, " images"]
    """Importance sampling from q*: not below its ELBO, where no other proposal is any better."""
    iterations: int = 0
    """Refinements that the model's own inference takes."""
    done: int = 0
    seconds: float = 0.0

    @classmethod
    def empty(cls, images: int) -> "Gaps":
        unknown = torch.full((images,), math.nan, dtype=torch.float64)
        return cls(elbo=unknown, optimal_elbo=unknown.clone(), log_likelihood=unknown.clone())


def measure_gaps(
    model: LatentVariableModel,
    x: Float[Tensor, "images pixels"],
    *,
    memory_budget: int,
    seed: int,
    steps: int = STEPS,
    gaps: Gaps | None = None,
    report: Callable[[float], None] = lambda images: None,
) -> Gaps:
    """Gradient ascent on each image's ELBO from the model's own posterior, over the parameters of its family.

    Each image is its own problem: Adam moves every number by itself, and an image's noise is a function of (seed, its
    position). Goes on from ``gaps`` if given. ``report`` is called after every step with the images done so far, a
    group's in parts; what it raises ends the work, and whole groups are kept. ``memory_budget`` in MiB.
    """
    gaps = gaps or Gaps.empty(len(x))
    size = group_size(model, x, memory_budget)
    while gaps.done < len(x):
        began = time.monotonic()
        group = range(gaps.done, min(gaps.done + size, len(x)))
        images = slice(group.start, group.stop)

        def progress(share: float, group: range = group) -> None:
            report(group.start + share * len(group))

        _measure(model, x[images], gaps, images, seed, steps, progress)
        gaps.done = group.stop
        gaps.seconds += time.monotonic() - began
        report(gaps.done)
    return gaps


def group_size(model: LatentVariableModel, x: Float[Tensor, "images pixels"], memory_budget: int) -> int:
    """Images at once."""
    an_image = ARRAYS * SAMPLES * max(x.shape[1], widest(model)) * x.element_size()
    return max(1, min(MAX_GROUP, memory_budget * 2**20 // an_image))


def _measure(
    model: LatentVariableModel,
    x: Float[Tensor, "batch pixels"],
    gaps: Gaps,
    images: slice,
    seed: int,
    steps: int,
    progress: Callable[[float], None],
) -> None:
    positions = range(images.start, images.stop)
    start = inferred(model, x, positions, seed)
    noise = image_noise([generator(x.device, seed, "gaps", i) for i in positions], x.dtype)
    with torch.no_grad():
        gaps.iterations = max(0, len(model.refinements(x, noise)) - 1)
    best = ascend(model, x, start, noise, steps, progress)
    before, after = (weights.mean for weights in weighed(model, x, (start, best), noise))
    better = after > before  # the start is the best member known where the ascent has led down
    of_start, of_best = weighed(model, x, (start, best), noise)
    total = of_start.mean + of_best.mean
    if not torch.isfinite(total).all():
        first = images.start + int((~torch.isfinite(total)).nonzero()[0])
        raise NonFiniteError(f"the ELBO of test image {first} is NaN or infinite where its gap is measured")
    gaps.elbo[images] = of_start.mean
    gaps.optimal_elbo[images] = torch.where(better, of_best.mean, of_start.mean)
    gaps.log_likelihood[images] = torch.where(better, of_best.log_mean, of_start.log_mean)


@torch.no_grad()
def inferred(
    model: LatentVariableModel, x: Float[Tensor, "batch pixels"], positions: range, seed: int
) -> FamilyMember:
    """The model's own posterior, with the noise of the evaluation; alone for each image where it must be."""
    sources = [generator(x.device, seed, "evaluate", i) for i in positions]
    at_once = 1 if model.batch_dependent else len(x)
    members = [
        family_member(
            model.posterior(part, image_noise(sources[i * at_once : (i + 1) * at_once], x.dtype)),
            "evaluate.num_gap_images",
        )
        for i, part in enumerate(x.split(at_once))
    ]
    together = zip(*(member.parameters() for member in members), strict=True)
    return members[0].with_parameters(*(torch.cat(parts) for parts in together)).detached()


def ascend(
    model: LatentVariableModel,
    x: Float[Tensor, "batch pixels"],
    start: FamilyMember,
    noise: Noise,
    steps: int,
    progress: Callable[[float], None],
) -> FamilyMember:
    """The member of the family where Adam ends, its learning rate falling linearly to 0."""
    free = [p.detach().clone().requires_grad_() for p in start.parameters()]
    optimizer = torch.optim.Adam(free, lr=FIRST_STEP)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = FIRST_STEP * (1 - step / steps)
        with torch.enable_grad():
            q = start.with_parameters(*free)
            z, log_q = q.rsample_with_log_prob(noise(SAMPLES, q.noise_dim))
            log_p = model.output.log_prob(x, model.decoder(z)) + standard_normal_log_prob(z)
            gradients = torch.autograd.grad(-elbo(log_p - log_q).sum(), free)
        for value, gradient in zip(free, gradients, strict=True):
            value.grad = gradient
        optimizer.step()
        progress(step / steps)
    return start.with_parameters(*(p.detach() for p in free))


@torch.no_grad()
def weighed(
    model: LatentVariableModel,
    x: Float[Tensor, "batch pixels"],
    members: tuple[FamilyMember, ...],
    noise: Noise,
) -> list[LogWeights]:
    """The log-weights of each member at the same FINAL_SAMPLES, a few at a time, as the ascent has them."""
    log_likelihood = model.output.scorer(model.decoder)(x)
    images = torch.arange(len(x))
    weights = [LogWeights(len(x), FINAL_SAMPLES) for _ in members]
    for eps in noise(FINAL_SAMPLES, members[0].noise_dim).split(SAMPLES):
        for of_member, q in zip(weights, members, strict=True):
            z, log_q = q.rsample_with_log_prob(eps)
            of_member.add(log_likelihood(z) + standard_normal_log_prob(z) - log_q, images)
    return weights
