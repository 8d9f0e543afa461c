"""Importance weights of a group of images, drawn block by block: their mean, and its reliability."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlae.distributions.posteriors import Images, Posterior, standard_normal_log_prob
from vlae.estimation.pareto import k_hat, tail_length, unreliable_above
from vlae.estimation.proposals import select_images
from vlae.seeding import image_noise
from vlae.system.console import note_progress

NOISE_BLOCK = 1000
"""Samples whose noise is drawn at once. It defines an image's noise, so it is no setting."""
FIRST_ROUND = 100
"""Samples before the first look at a standard error; the next looks are after twice as many each."""


def round_sizes(num_samples: int, target_standard_error: float | None) -> Iterator[int]:
    """The sizes of the blocks that ``num_samples`` are drawn in: 1000s, or 100, 100, 200, 400, 800, 1000, ...

    >>> list(round_sizes(2500, None)), list(round_sizes(2500, 0.1))
    ([1000, 1000, 500], [100, 100, 200, 400, 800, 900])
    """
    done = 0
    while done < num_samples:
        size = NOISE_BLOCK if target_standard_error is None else min(max(done, FIRST_ROUND), NOISE_BLOCK)
        size = min(size, num_samples - done)
        yield size
        done += size


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
        self._log_sum, self._log_sum_of_squares = start(-math.inf, images), start(-math.inf, images)
        self._largest = start(-math.inf, tail_length(num_samples) + 1, images)

    def add(self, log_w: Float[Tensor, "samples some"], images: Int[Tensor, " some"]) -> None:
        """Add log-weights of the ``images`` at these positions of the group."""
        log_w = log_w.cpu().double()  # in this order: not every device has float64
        self.count[images] += len(log_w)
        self._total[images] += log_w.sum(0)
        self._log_sum[images] = torch.logaddexp(self._log_sum[images], log_w.logsumexp(0))
        squares = (2 * log_w).logsumexp(0)
        self._log_sum_of_squares[images] = torch.logaddexp(self._log_sum_of_squares[images], squares)
        candidates = torch.cat([self._largest[:, images], log_w])
        self._largest[:, images] = candidates.topk(len(self._largest), 0).values

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
    def standard_error(self) -> Float[Tensor, " images"]:
        """Standard error of ``log_mean``, in nats."""
        return log_mean_standard_error(self.effective_sample_size, self.count)

    @property
    def k_hat(self) -> Float[Tensor, " images"]:
        """The shape of the weights' tail, see ``vlae.estimation.pareto``."""
        tails = [min(tail_length(n) + 1, n) for n in self.count.tolist()]
        found = [k_hat(self._largest[:n, i : i + 1].numpy()) for i, n in enumerate(tails)]
        return torch.tensor([k.item() for k in found], dtype=torch.float64)

    def is_settled(self, target_standard_error: float) -> Bool[Tensor, " images"]:
        """Images whose standard error (nats) is below the target and reliable by the k-hat of their weights."""
        limits = torch.tensor([unreliable_above(n) for n in self.count.tolist()], dtype=torch.float64)
        return (self.standard_error <= target_standard_error) & (self.k_hat <= limits)


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


def draw_log_weights(
    q: Posterior,
    scorer: Callable[[Tensor], Callable[[Tensor], Tensor]],
    x: Images,
    sources: Sequence[torch.Generator],
    sizes: Sequence[int],
    target_standard_error: float | None,
    at_once: int,
) -> LogWeights:
    """log p(x, z) - log q(z | x) for z ~ q, in rounds of these ``sizes``, or until the target (nats) is reached.

    ``sources``: each image's source of noise; ``at_once``: rows (images x samples) computed together.
    """
    weights, active = LogWeights(len(x), sum(sizes)), torch.arange(len(x))
    log_likelihood = scorer(x)
    for size in sizes:
        noise = image_noise([sources[i] for i in active.tolist()], x.dtype)(size, q.noise_dim)
        log_w = []
        for eps in noise.split(max(1, at_once // len(active))):
            z, log_q = q.rsample_with_log_prob(eps)
            note_progress()
            log_w.append(log_likelihood(z) + standard_normal_log_prob(z) - log_q)
        weights.add(torch.cat(log_w), active)
        if target_standard_error is None:
            continue
        left = ~weights.is_settled(target_standard_error)[active]
        if not left.any():
            break
        if not left.all():
            active, q = active[left], select_images(q, left)
            log_likelihood = scorer(x[active])
    return weights
