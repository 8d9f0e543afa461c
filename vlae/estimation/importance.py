"""Importance-sampled log-likelihood of a test set, image by image, in bounded memory and resumable."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.distributions.laplace import Modes
from vlae.distributions.posteriors import Posterior, standard_normal_log_prob
from vlae.estimation.log_weights import NOISE_BLOCK, LogWeights, log_mean_standard_error, rounds
from vlae.estimation.pareto import unreliable_above
from vlae.estimation.per_image import PerImage, Report, check_finite, in_groups
from vlae.estimation.proposals import propose, select_images
from vlae.models.base import LatentVariableModel
from vlae.nn.networks import largest_layer
from vlae.seeding import generator, image_noise
from vlae.system.console import advanced

CACHED_ROWS = 3072
"""On a CPU, more rows (images x samples) at once leave the cache and are slower."""
MAX_GROUP = 64
"""Images whose posteriors are inferred together."""
EXTRA_NOISE = 10
"""Most numbers that a sample of any proposal needs beside latent_dim: the degrees of freedom of student_t."""


@dataclass
class Evaluation(PerImage):
    """Importance-sampled estimates of log p(x) by one proposal, in nats per test image."""

    elbo: Float[Tensor, " images"]
    """Mean log w: the evidence lower bound of this proposal."""
    log_likelihood: Float[Tensor, " images"]
    """log mean w."""
    ess: Float[Tensor, " images"]
    """Effective sample size (sum w)^2 / sum w^2, between 1 and the number of samples."""
    k_hat: Float[Tensor, " images"]
    """Shape of the weights' tail, see ``vlae.estimation.pareto``."""
    samples: Float[Tensor, " images"]
    """Number of samples drawn."""
    steps: Float[Tensor, " images"]
    """Steps of the search for the mode; like the next two, NaN if the proposal has none."""
    converged: Float[Tensor, " images"]
    stalled: Float[Tensor, " images"]

    @property
    def monte_carlo_error(self) -> Float[Tensor, " images"]:
        """Standard error of each image's own estimate, in nats."""
        return log_mean_standard_error(self.ess, self.samples)

    @property
    def unreliable(self) -> list[bool | None]:
        """True if k-hat is above the limit for that number of samples; None if they are too few for a k-hat."""
        pairs = zip(self.k_hat.tolist(), self.samples.tolist(), strict=True)
        return [None if math.isnan(k) else k > unreliable_above(int(n)) for k, n in pairs]


@dataclass(frozen=True)
class Chunks:
    """Numbers of images and samples per batch; they change a result only by rounding."""

    images: int
    samples: int

    @classmethod
    def within(cls, memory_budget: int, model: LatentVariableModel, num_samples: int, x: Tensor) -> "Chunks":
        """Half of ``memory_budget`` (MiB) is for arrays that grow with the group's images, half for activations.

        The former are noise or, before it, the Jacobians of inference: three copies, of the widest layer at most.
        """
        half, size = memory_budget * 2**20 // 2, x.element_size()
        most = 1 if model.batch_dependent else MAX_GROUP
        width = largest_layer(model)
        noise = 2 * min(num_samples, NOISE_BLOCK) * (model.latent_dim + EXTRA_NOISE)
        an_image = max(noise, 3 * width * model.latent_dim)
        images = max(1, min(most, half // (an_image * size)))
        rows = half // (4 * width * size)
        if x.device.type == "cpu":
            rows = min(rows, CACHED_ROWS)
        return cls(images, max(1, min(num_samples, rows // images)))


@torch.no_grad()
def evaluate(
    model: LatentVariableModel,
    x: Float[Tensor, "images pixels"],
    *,
    proposal: str = "own",
    num_samples: int,
    target_standard_error: float | None = None,
    memory_budget: int,
    seed: int,
    result: Evaluation | None = None,
    report: Report = lambda images: None,
) -> Evaluation:
    """log p(x) >= E log (1/S) sum_s p(x, z_s) / q(z_s | x), z_s ~ q, and the ELBO, for each image.

    q is the proposal of that name. S is ``num_samples``; with ``target_standard_error`` (nats) an image leaves the
    batch as soon as its estimate is that precise. Image i's noise is a function of (seed, proposal, i) alone, so
    neither chunking nor a restart changes a number. Continues ``result`` if given. ``report``, see
    ``vlae.estimation.per_image``, is called after every group; ``memory_budget`` in MiB.
    NonFiniteError: an estimate is NaN or infinite.
    """
    result = Evaluation.empty(len(x)) if result is None else result
    chunks = Chunks.within(memory_budget, model, num_samples, x)
    scorer, sizes = model.output.scorer(model.decoder), list(rounds(num_samples, target_standard_error))

    def measure(group: range, progress: Callable[[float], None]) -> None:
        images = slice(group.start, group.stop)
        q, modes, sources = propose_for(group, proposal, model, x[images], seed)
        weights = log_weights(q, scorer, x[images], sources, sizes, target_standard_error, chunks)
        check_finite(weights.log_mean + weights.mean, group, "the log-likelihood of test image")
        result.put(images, elbo=weights.mean, log_likelihood=weights.log_mean, samples=weights.count)
        result.put(images, ess=weights.effective_sample_size, k_hat=weights.k_hat)
        if modes is not None:
            result.put(images, steps=modes.steps, converged=modes.converged, stalled=modes.stalled)

    in_groups(result, chunks.images, measure, report)
    return result


def propose_for(
    group: range, proposal: str, model: LatentVariableModel, x: Float[Tensor, "batch pixels"], seed: int
) -> tuple[Posterior, Modes | None, list[torch.Generator]]:
    """The proposal for images at these positions, the end of its search, and each image's source of noise."""
    sources = [generator(x.device, seed, "evaluate", i) for i in group]
    q, modes = propose(proposal, model, x, image_noise(sources, x.dtype))
    if proposal != "own":  # own samples continue the noise of inference, with which every proposal begins
        sources = [generator(x.device, seed, "evaluate", proposal, i) for i in group]
    return q, modes, sources


def log_weights(
    q: Posterior,
    scorer: Callable[[Tensor], Callable[[Tensor], Tensor]],
    x: Float[Tensor, "batch pixels"],
    sources: Sequence[torch.Generator],
    sizes: Sequence[int],
    target_standard_error: float | None,
    chunks: Chunks,
) -> LogWeights:
    """log p(x, z) - log q(z | x) for z ~ q, in rounds of these ``sizes``, or until the target is reached."""
    weights, active = LogWeights(len(x), sum(sizes)), torch.arange(len(x))
    log_likelihood = scorer(x)
    for size in sizes:
        noise = image_noise([sources[i] for i in active.tolist()], x.dtype)(size, q.noise_dim)
        log_w = []
        for eps in noise.split(max(1, chunks.samples * chunks.images // len(active))):
            z, log_q = q.rsample_with_log_prob(eps)
            advanced()
            log_w.append(log_likelihood(z) + standard_normal_log_prob(z) - log_q)
        weights.add(torch.cat(log_w), active)
        if target_standard_error is None:
            continue
        left = ~weights.settled(target_standard_error)[active]
        if not left.any():
            break
        if not left.all():
            active, q = active[left], select_images(q, left)
            log_likelihood = scorer(x[active])
    return weights
