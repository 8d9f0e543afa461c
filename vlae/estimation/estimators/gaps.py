"""Approximation and amortisation gaps between log p(x) and the ELBO (Cremer, Li, Duvenaud 2018).

log p(x) - ELBO(q) = [log p(x) - ELBO(q*)] + [ELBO(q*) - ELBO(q)], the approximation gap and the amortisation gap,
with q* the best member of the model's own family for this image alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.distributions.posteriors import (
    FamilyMember,
    Images,
    Posterior,
    require_family_member,
    standard_normal_log_prob,
)
from vlae.estimation.log_weights import LogWeights
from vlae.estimation.parts import Part, Subject, results_below
from vlae.estimation.per_image import Advance, Estimates, Report, Values, check_finite, in_groups, with_error
from vlae.models.base import LatentVariableModel
from vlae.nn.networks import largest_layer
from vlae.seeding import Noise, generator, image_noise
from vlae.training.objective import elbo

STEPS, FIRST_STEP, SAMPLES = 500, 0.1, 8
"""Steps of the ascent; Adam's first learning rate, which falls to 0; samples per step."""
FINAL_SAMPLES = 500
"""Samples that choose the better of start and end; as many others estimate their ELBOs."""
ARRAYS = 12
"""Number of arrays as wide as the widest layer in a step of the ascent."""
MAX_GROUP = 100


@dataclass
class Gaps(Estimates):
    """The ELBOs between which the gaps lie, in nats per image, both by common random numbers (Cremer et al. 2018)."""

    elbo: Float[Tensor, " images"]
    optimal_elbo: Float[Tensor, " images"]
    """ELBO of q*, as far as gradient ascent from q finds it."""
    log_likelihood: Float[Tensor, " images"]
    """Importance sampling from q*: not below its ELBO, if no other proposal is better."""
    iterations: int = 0
    """Refinements of the model's own inference."""


def measure_gaps(
    model: LatentVariableModel,
    x: Float[Tensor, "images pixels"],
    *,
    memory_budget: int,
    seed: int,
    steps: int = STEPS,
    result: Gaps | None = None,
    report: Report = lambda images: None,
) -> Gaps:
    """Gradient ascent on each image's ELBO from the model's own posterior, over the parameters of its family.

    Images are independent: Adam moves every number separately, and an image's noise is a function of (seed, position).
    Continues ``result`` if given. ``report`` is called after every step, see ``vlae.estimation.per_image``.
    ``memory_budget`` in MiB. Errors: NonFiniteError, an ELBO is NaN or infinite; TypeError, the model's posterior is no
    `FamilyMember`.

    >>> from vlae.distributions import GaussianOutput
    >>> from vlae.models.backbone import Backbone
    >>> from vlae.models.vae import VAE
    >>> model = VAE(Backbone(latent_dim=2, hidden_dims=[8], pixels=16, output=GaussianOutput()))
    >>> gaps = measure_gaps(model, torch.randn(3, 16), memory_budget=64, seed=0, steps=5)
    >>> bool((gaps.optimal_elbo - gaps.elbo > -0.5).all())  # the amortisation gap of each image
    True
    """
    result = Gaps.empty(len(x)) if result is None else result

    def measure(group: range, progress: Advance) -> None:
        images = slice(group.start, group.stop)
        batch = x[images]
        start = own_posterior(model, batch, group, seed)
        noise = image_noise([generator(x.device, seed, "gaps", i) for i in group], x.dtype)
        with torch.no_grad():
            result.iterations = max(0, len(model.refinements(batch, noise)) - 1)
        best = ascend(model, batch, start, noise, steps, progress)
        before, after = (weights.mean for weights in log_weights(model, batch, (start, best), noise))
        better = after > before  # the start is the best known member if the ascent has led down
        of_start, of_best = log_weights(model, batch, (start, best), noise)
        check_finite(of_start.mean + of_best.mean, group, "the ELBO that measures the gap of test image")
        result.put(
            images,
            elbo=of_start.mean,
            optimal_elbo=torch.where(better, of_best.mean, of_start.mean),
            log_likelihood=torch.where(better, of_best.log_mean, of_start.log_mean),
        )

    in_groups(result, group_size(model, x, memory_budget), measure, report)
    return result


def group_size(model: LatentVariableModel, x: Float[Tensor, "images pixels"], memory_budget: int) -> int:
    """Images at once."""
    an_image = ARRAYS * SAMPLES * max(x.shape[1], largest_layer(model)) * x.element_size()
    return max(1, min(MAX_GROUP, memory_budget * 2**20 // an_image))


@torch.no_grad()
def own_posterior(model: LatentVariableModel, x: Images, group: range, seed: int) -> FamilyMember:
    """The model's own posterior with the noise of the evaluation; image by image where those of a batch interact."""
    sources = [generator(x.device, seed, "evaluate", i) for i in group]
    at_once = 1 if model.batch_dependent else len(x)
    members = [
        require_family_member(
            model.posterior(part, image_noise(sources[i * at_once : (i + 1) * at_once], x.dtype)),
            "evaluate.num_gap_images",
        )
        for i, part in enumerate(x.split(at_once))
    ]
    together = zip(*(member.parameters() for member in members), strict=True)
    return members[0].with_parameters(*(torch.cat(parts) for parts in together)).detach()


def ascend(
    model: LatentVariableModel, x: Images, start: FamilyMember, noise: Noise, steps: int, progress: Advance
) -> FamilyMember:
    """The member of the family that Adam reaches, with a learning rate that falls linearly to 0."""
    free = [p.detach().clone().requires_grad_() for p in start.parameters()]
    optimizer = torch.optim.Adam(free, lr=FIRST_STEP)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = FIRST_STEP * (1 - step / steps)
        with torch.enable_grad():
            q = start.with_parameters(*free)
            z, log_q = q.rsample_with_log_prob(noise(SAMPLES, q.noise_dim))
            log_p = model.log_joint(x, z)
            gradients = torch.autograd.grad(-elbo(log_p - log_q).sum(), free)
        for value, gradient in zip(free, gradients, strict=True):
            value.grad = gradient
        optimizer.step()
        progress(step / steps)
    return start.with_parameters(*(p.detach() for p in free))


@torch.no_grad()
def log_weights(
    model: LatentVariableModel, x: Images, members: tuple[FamilyMember, ...], noise: Noise
) -> list[LogWeights]:
    """The log-weights of each member at the same FINAL_SAMPLES, as few at a time as in the ascent."""
    log_likelihood = model.output.scorer(model.decoder)(x)
    images = torch.arange(len(x))
    weights = [LogWeights(len(x), FINAL_SAMPLES) for _ in members]
    for eps in noise(FINAL_SAMPLES, members[0].noise_dim).split(SAMPLES):
        for of_member, q in zip(weights, members, strict=True):
            z, log_q = q.rsample_with_log_prob(eps)
            of_member.add(log_likelihood(z) + standard_normal_log_prob(z) - log_q, images)
    return weights


def has_family(subject: Subject) -> bool:
    """True if the model's posteriors are members of a family; a user's own model may return any `Posterior`."""
    return isinstance(first_posterior(subject), FamilyMember)


@torch.no_grad()
def first_posterior(subject: Subject) -> Posterior:
    """The model's posterior of the first test image."""
    noise = image_noise([generator(subject.x.device, subject.seed, "evaluate", 0)], subject.x.dtype)
    return subject.model.posterior(subject.x[:1], noise)


def parts(subject: Subject) -> Iterator[Part]:
    """The first ``evaluate.num_gap_images`` images; none, with a warning, of a model whose q has no family."""
    if not subject.evaluate.num_gap_images:
        return
    if not has_family(subject):
        kind = type(first_posterior(subject)).__name__
        subject.warn(f"no gaps: {kind} is no vlae.distributions.posteriors.FamilyMember")
        return
    x = subject.x[: subject.evaluate.num_gap_images]
    run = partial(measure_gaps, subject.model, x, **subject.limits)
    yield subject.part("gaps", "measuring gaps, image", Gaps.empty(len(x)), run)


def metrics(results: Mapping[str, Any], subject: Subject) -> dict[str, Any]:
    """The approximation gap (due to the family of q) and the amortisation gap (due to inference) of the first images.

    The estimate of log p(x) is the best one, by a proposal or by the best member of the family itself, see
    `best_of_other_half`: a lower bound in expectation. If it is too low, the true approximation gap is larger; if
    the ascent has not reached q*, the true amortisation gap is larger and the approximation gap smaller.
    """
    if (gaps := results.get("gaps")) is None:
        return {"gaps": None}
    images = len(gaps)
    proposals, log_jacobian = results_below(results, "proposals."), subject.log_jacobian[:images]
    estimates = {name: evaluation.log_likelihood[:images] for name, evaluation in proposals.items()}
    estimates["best of the family"] = gaps.log_likelihood
    log_likelihood, by = best_of_other_half(estimates)
    found = {
        "num_images": images,
        "elbo": (gaps.elbo + log_jacobian).mean().item(),
        "optimal_elbo": (gaps.optimal_elbo + log_jacobian).mean().item(),
        "log_likelihood": (log_likelihood + log_jacobian).mean().item(),
        "log_likelihood_by": ", ".join(by),
        **with_error("approximation", log_likelihood - gaps.optimal_elbo),
        **with_error("amortisation", gaps.optimal_elbo - gaps.elbo),
        "iterations": gaps.iterations,
    }
    return {"gaps": found}


def best_of_other_half(estimates: Mapping[str, Values]) -> tuple[Values, list[str]]:
    """Lower bounds of log p(x) by the estimates that suit best, and their names.

    Images at even places get the estimate with the highest mean on those at odd places, and the other way round. The
    highest mean of the same images would be no lower bound: the noise that makes it the highest would be in it.

    >>> best_of_other_half({"a": torch.tensor([-2.0, -1.0, -2.0]), "b": torch.tensor([-1.5, -3.0, -1.5])})
    (tensor([-2., -3., -2.]), ['a', 'b'])
    """
    found, names = torch.empty_like(next(iter(estimates.values()))), []
    for half, other in ((0, 1), (1, 0)):
        sums = {name: values[other::2].sum().item() for name, values in estimates.items()}
        best = max(sums, key=lambda name: sums[name])
        found[half::2] = estimates[best][half::2]
        names.append(best)
    return found, list(dict.fromkeys(names))


def arrays(results: Mapping[str, Any], subject: Subject) -> dict[str, Tensor]:
    """None."""
    return {}
