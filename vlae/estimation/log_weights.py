"""Importance weights of a group of images, drawn block by block: their mean, and its reliability."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlae.distributions.posteriors import Images, Posterior, require_family_member, standard_normal_log_prob
from vlae.estimation.estimator_error import BLOCKS, BlockStatistics, block_statistics
from vlae.estimation.estimator_error import EstimatorError as EstimatorError
from vlae.estimation.estimator_error import estimator_error as estimator_error
from vlae.estimation.pareto import is_heavy, k_hat, tail_length
from vlae.estimation.part_settings import PILOT
from vlae.seeding import image_noise
from vlae.system.console import note_progress

NOISE_BLOCK = 1000
"""Samples whose noise is drawn at once. It defines an image's noise, so it is no setting."""
HUNDRED = 100
"""A pilot's number of samples is rounded up to hundreds, so that images of a group are computed together."""


class LogWeights:
    """The log-weights of a group of images: mean log w, log mean w, effective sample size, tail; all in float64.

    >>> weights = LogWeights(images=2, num_samples=3)
    >>> weights.add(torch.tensor([[-1.0, 0.0], [-1.0, 0.0], [-1.0, -9.0]]), images=torch.arange(2))
    >>> weights.mean, weights.effective_sample_size
    (tensor([-1., -3.], dtype=torch.float64), tensor([3.0000, 2.0002], dtype=torch.float64))
    """

    def __init__(self, images: int, num_samples: int) -> None:
        """num_samples: the largest number that will be added per image."""

        def start(value: float, *shape: int) -> Tensor:
            return torch.full(shape, value, dtype=torch.float64)

        self.count: Int[Tensor, " images"] = torch.zeros(images, dtype=torch.long)
        self._total = start(0.0, images)
        self._log_sums, self._log_sum_of_squares = start(-math.inf, BLOCKS, images), start(-math.inf, images)
        self._counts = torch.zeros(BLOCKS, images, dtype=torch.long)
        self._largest = start(-math.inf, tail_length(num_samples) + 1, images)

    @classmethod
    def of(cls, log_w: Float[Tensor, "samples images"]) -> "LogWeights":
        """These log-weights of each image, and no more."""
        weights = cls(log_w.shape[1], len(log_w))
        weights.add(log_w, torch.arange(log_w.shape[1]))
        return weights

    def add(self, log_w: Float[Tensor, "samples some"], images: Int[Tensor, " some"]) -> None:
        """Add log-weights of the ``images`` at these positions of the group. They go to the blocks in turn."""
        log_w = log_w.cpu().double()  # in this order: not every device has float64
        # the next sample's is in turn
        block_of = (torch.arange(BLOCKS)[:, None] - self.count[images]) % BLOCKS
        self.count[images] += len(log_w)
        self._total[images] += log_w.sum(0)
        in_turn = F.pad(log_w, (0, 0, 0, -len(log_w) % BLOCKS), value=-math.inf).unflatten(0, (-1, BLOCKS))
        log_sums = in_turn.logsumexp(0).gather(0, block_of)
        self._log_sums[:, images] = torch.logaddexp(self._log_sums[:, images], log_sums)
        self._counts[:, images] += (len(log_w) + BLOCKS - 1 - block_of) // BLOCKS
        squares = (2 * log_w).logsumexp(0)
        self._log_sum_of_squares[images] = torch.logaddexp(self._log_sum_of_squares[images], squares)
        candidates = torch.cat([self._largest[:, images], log_w])
        self._largest[:, images] = candidates.topk(len(self._largest), 0).values

    @property
    def _log_sum(self) -> Float[Tensor, " images"]:
        return self._log_sums.logsumexp(0)

    @property
    def mean(self) -> Float[Tensor, " images"]:
        """Mean log w: the evidence lower bound."""
        return self._total / self.count

    @property
    def log_mean(self) -> Float[Tensor, " images"]:
        """log mean w: the estimate of log p(x)."""
        return self._log_sum - self.count.double().log()

    @property
    def effective_sample_size(self) -> Float[Tensor, " images"]:
        """(sum w)^2 / sum w^2, between 1 and the number of samples (Kong 1992)."""
        return torch.exp(2 * self._log_sum - self._log_sum_of_squares)

    @property
    def blocks(self) -> BlockStatistics:
        """The log-mean on parts of the samples, for `estimator_error`."""
        return block_statistics(self._log_sums, self._counts)

    @property
    def standard_error(self) -> Float[Tensor, " images"]:
        """Standard error of ``log_mean``, in nats."""
        return log_mean_standard_error(self.effective_sample_size, self.count)

    @property
    def k_hat(self) -> Float[Tensor, " images"]:
        """The shape of the weights' tail, see ``vlae.estimation.pareto``."""
        tails = [min(tail_length(n) + 1, n) for n in self.count.tolist()]
        found = [k_hat(self._largest[:n, i : i + 1].numpy()) for i, n in enumerate(tails)]
        return torch.tensor([k.item() for k in found], dtype=torch.float64)

    @property
    def unreliable(self) -> Bool[Tensor, " images"]:
        """True if they have too heavy a tail, see ``vlae.estimation.pareto.is_heavy``."""
        images = zip(*(v.tolist() for v in (self.k_hat, self.effective_sample_size, self.count)), strict=True)
        return torch.tensor([is_heavy(k, effective, n) for k, effective, n in images])


def log_mean_standard_error(
    effective_sample_size: Float[Tensor, " images"],
    samples: Float[Tensor, " images"] | Int[Tensor, " images"],
) -> Float[Tensor, " images"]:
    """Standard error of log mean w over S samples in nats, by the delta method.

    sd(w) / (mean(w) sqrt S) = sqrt(1/ESS - 1/S).

    >>> log_mean_standard_error(torch.tensor([50.0, 100.0]), torch.tensor([100, 100]))
    tensor([0.1000, 0.0000], dtype=torch.float64)
    """
    return (1 / effective_sample_size - 1 / samples.double()).clamp(min=0).sqrt()


def samples_for_target(
    pilot: LogWeights, target_standard_error: float, num_samples: int
) -> Int[Tensor, " images"]:
    """The number of samples whose log mean w has this standard error (nats), by a pilot; ``num_samples`` at most.

    (S/ESS - 1) / target^2 with the pilot's S and ESS, by the delta method. An image whose pilot has a bad k-hat takes
    all: its ESS is unreliable. The pilot itself must not be averaged, nor may samples decide when they suffice: those
    that happen to look alike lack the large weights, which makes log p(x) too low by up to tenths of a nat.

    >>> pilot = LogWeights(images=2, num_samples=200)
    >>> quantiles = (torch.arange(200) + 0.5) / 200
    >>> pilot.add(torch.stack([quantiles, -2 * quantiles.log()], 1), images=torch.arange(2))  # the second has k = 2
    >>> samples_for_target(pilot, target_standard_error=0.02, num_samples=5000)
    tensor([ 300, 5000])
    """
    variance = (pilot.count / pilot.effective_sample_size - 1).clamp(min=0)
    hundreds = (variance / (HUNDRED * target_standard_error**2)).ceil().clamp(min=1)
    needed = (HUNDRED * hundreds).clamp(max=num_samples)
    return torch.where(pilot.unreliable, num_samples, needed).long()


def draw_log_weights(
    q: Posterior,
    scorer: Callable[[Tensor], Callable[[Tensor], Tensor]],
    x: Images,
    sources: Sequence[torch.Generator],
    num_samples: int,
    at_once: int,
    counts: Int[Tensor, " images"] | None = None,
) -> LogWeights:
    """log p(x, z) - log q(z | x) for z ~ q: ``num_samples`` of each image, or the first ``counts`` of them.

    ``sources``: each image's source of noise; ``at_once``: rows (images x samples) computed together. An image's noise
    depends on ``num_samples``, but neither on its own count nor on that of others.
    """
    weights, active = LogWeights(len(x), num_samples), torch.arange(len(x))
    counts = torch.full((len(x),), num_samples) if counts is None else counts
    log_likelihood = scorer(x)
    for start in range(0, num_samples, NOISE_BLOCK):
        size = min(NOISE_BLOCK, num_samples - start)
        noise = image_noise([sources[i] for i in active.tolist()], x.dtype)(size, q.noise_dim)
        ends = (counts[active] - start).clamp(max=size).unique().tolist()
        for begin, end in pairwise([0, *ends]):
            log_w = []
            for eps in noise[begin:end].split(max(1, at_once // len(active))):
                z, log_q = q.rsample_with_log_prob(eps)
                note_progress()
                log_w.append(log_likelihood(z) + standard_normal_log_prob(z) - log_q)
            weights.add(torch.cat(log_w), active)
            left = counts[active] > start + end
            if not left.any():
                return weights
            if not left.all():
                active, q, noise = active[left], select_images(q, left), noise[:, left]
                log_likelihood = scorer(x[active])
    return weights


def samples_by_pilot(
    q: Posterior,
    scorer: Callable[[Tensor], Callable[[Tensor], Tensor]],
    x: Images,
    sources: Sequence[torch.Generator],
    num_samples: int,
    at_once: int,
    target_standard_error: float,
) -> Int[Tensor, " images"]:
    """The number of samples of each image, at most ``num_samples``, by a pilot with the noise of these ``sources``.

    All of them, without a pilot, where it would be as large.
    """
    if num_samples <= PILOT:
        return torch.full((len(x),), num_samples)
    pilot = draw_log_weights(q, scorer, x, sources, PILOT, at_once)
    return samples_for_target(pilot, target_standard_error, num_samples)


def select_images(q: Posterior, chosen: Bool[Tensor, " batch"]) -> Posterior:
    """The proposal for the chosen images alone. TypeError where q has no parameters per image."""
    member = require_family_member(q, "evaluate.target_standard_error")
    return member.with_parameters(*(p[chosen] for p in member.parameters()))
