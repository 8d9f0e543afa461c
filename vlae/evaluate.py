"""Importance-sampled log-likelihood of a test set, image by image, in bounded memory and resumable."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlae.distributions import standard_normal_log_prob
from vlae.errors import NonFiniteError
from vlae.files import write_atomically
from vlae.interruption import Interruption
from vlae.model_space import Preprocess
from vlae.models.base import LatentVariableModel
from vlae.seeding import generator, image_noise

CACHED_ROWS = 3072
"""On a CPU, more rows (images x samples) at once than this leave the cache and get slower."""
MAX_GROUP = 64
"""Images whose posteriors are inferred together."""
NOISE_BLOCK = 1000
"""Samples whose noise is drawn at once. Part of what defines an image's noise, so no setting."""


@dataclass
class Evaluation:
    """Per test image, in nats; the first ``done`` are known."""

    elbo: Float[Tensor, " images"]
    log_likelihood: Float[Tensor, " images"]
    ess: Float[Tensor, " images"]
    """Effective sample size (sum w)^2 / sum w^2, between 1 and the number of samples."""
    done: int = 0

    @classmethod
    def empty(cls, images: int) -> "Evaluation":
        elbo, log_likelihood, ess = torch.full((3, images), math.nan, dtype=torch.float64).unbind()
        return cls(elbo.clone(), log_likelihood.clone(), ess.clone())

    def save(self, path: Path, log_jacobian: Float[Tensor, " images"]) -> None:
        """One number an image: ``log_likelihood`` and ``elbo`` as in results.json, ``ess``, and ``log_jacobian``.

        The last is what preprocessing adds to the figures of model space, see ``unit_log_jacobian``.
        """
        buffer = io.BytesIO()
        np.savez(
            buffer,
            log_likelihood=(self.log_likelihood + log_jacobian).numpy(),
            elbo=(self.elbo + log_jacobian).numpy(),
            ess=self.ess.numpy(),
            log_jacobian=log_jacobian.numpy(),
        )
        write_atomically(path, buffer.getvalue())


@dataclass(frozen=True)
class Chunks:
    """How many images and how many samples are worked on at once; never changes a result beyond rounding."""

    images: int
    samples: int

    @classmethod
    def within(cls, memory_budget: int, model: LatentVariableModel, num_samples: int, x: Tensor) -> "Chunks":
        """Half of ``memory_budget`` (MiB) for what grows with the images of a group, half for a chunk's activations.

        The former is noise or, before it, the Jacobians of inference: three copies, of the widest layer at most.
        """
        half, size = memory_budget * 2**20 // 2, x.element_size()
        most = 1 if model.batch_dependent else MAX_GROUP
        widest = max(layer.out_features for layer in model.modules() if isinstance(layer, nn.Linear))
        an_image = model.latent_dim * max(2 * min(num_samples, NOISE_BLOCK), 3 * widest)
        images = max(1, min(most, half // (an_image * size)))
        rows = half // (4 * widest * size)
        if x.device.type == "cpu":
            rows = min(rows, CACHED_ROWS)
        return cls(images, max(1, min(num_samples, rows // images)))


class LogWeights:
    """Streaming sums over samples: mean log w, log mean w, and the effective sample size, in log space."""

    def __init__(self) -> None:
        self.count = 0
        self.total = self.log_sum = self.log_sum_of_squares = torch.zeros((), dtype=torch.float64)

    def add(self, log_w: Float[Tensor, "samples batch"]) -> None:
        log_w = log_w.cpu().double()  # in this order: not every device has float64
        parts = log_w.sum(0), torch.logsumexp(log_w, 0), torch.logsumexp(2 * log_w, 0)
        if self.count == 0:
            self.total, self.log_sum, self.log_sum_of_squares = parts
        else:
            self.total = self.total + parts[0]
            self.log_sum = torch.logaddexp(self.log_sum, parts[1])
            self.log_sum_of_squares = torch.logaddexp(self.log_sum_of_squares, parts[2])
        self.count += len(log_w)

    @property
    def elbo(self) -> Float[Tensor, " batch"]:
        return self.total / self.count

    @property
    def log_mean(self) -> Float[Tensor, " batch"]:
        return self.log_sum - math.log(self.count)

    @property
    def effective_sample_size(self) -> Float[Tensor, " batch"]:
        return torch.exp(2 * self.log_sum - self.log_sum_of_squares)


@torch.no_grad()
def evaluate(
    model: LatentVariableModel,
    x: Float[Tensor, "images pixels"],
    *,
    num_samples: int,
    memory_budget: int,
    seed: int,
    evaluation: Evaluation | None = None,
    interruption: Interruption | None = None,
    report: Callable[[Evaluation], None] = lambda evaluation: None,
) -> Evaluation:
    """log p(x) >= E log (1/S) sum_s p(x, z_s) / q(z_s | x), z_s ~ q, and the ELBO, for each image.

    Image i's noise is a function of (seed, i) alone, so neither chunking nor a restart changes a figure. Goes on
    from ``evaluation`` if given. ``report`` is called after every group of images; ``memory_budget`` in MiB.
    """
    evaluation = evaluation or Evaluation.empty(len(x))
    chunks = Chunks.within(memory_budget, model, num_samples, x)
    scorer = model.output.scorer(model.decoder)
    while evaluation.done < len(x):
        if interruption is not None:
            interruption.check()
        group = slice(evaluation.done, min(evaluation.done + chunks.images, len(x)))
        sources = [generator(x.device, seed, "evaluate", i) for i in range(group.start, group.stop)]
        noise = image_noise(sources, x.dtype)
        posterior = model.posterior(x[group], noise)
        log_likelihood = scorer(x[group])
        weights = LogWeights()
        for start in range(0, num_samples, NOISE_BLOCK):
            block = noise(min(NOISE_BLOCK, num_samples - start), posterior.noise_dim)
            log_w = []
            for eps in block.split(chunks.samples):
                z, log_q = posterior.rsample_with_log_prob(eps)
                log_w.append(log_likelihood(z) + standard_normal_log_prob(z) - log_q)
            weights.add(torch.cat(log_w))
        if not torch.isfinite(weights.log_mean).all():
            first = group.start + int((~torch.isfinite(weights.log_mean)).nonzero()[0])
            raise NonFiniteError(f"the log-likelihood of test image {first} is NaN or infinite")
        evaluation.elbo[group] = weights.elbo
        evaluation.log_likelihood[group] = weights.log_mean
        evaluation.ess[group] = weights.effective_sample_size
        evaluation.done = group.stop
        report(evaluation)
    return evaluation


def mean_and_standard_error(values: Float[Tensor, " images"]) -> tuple[float, float | None]:
    """Over images; the standard error (ddof 1) of one image is unknown."""
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None
    return values.mean().item(), error


def unit_log_jacobian(preprocess: Preprocess, x: Float[Tensor, "images pixels"]) -> Float[Tensor, " images"]:
    """log |dx/dy| of pixels y in [0, 1]: log p(y) = log p(x) + this. Zero but for the logit transform."""
    return preprocess.log_abs_det_jacobian(x).cpu().double() + preprocess.log_scale


def figures(
    evaluation: Evaluation, preprocess: Preprocess, x: Float[Tensor, "images pixels"], num_samples: int
) -> dict[str, Any]:
    """The ``test`` section of results.json, in nats an image.

    Densities are over pixels in [0, 1], so the Jacobian of a logit transform is in them; the released code leaves
    it out, which is ``mean_in_model_space``. ``bits_per_dim`` is on the scale of the integer pixels, where they
    were dequantised, else None.
    """
    of_unit = unit_log_jacobian(preprocess, x)
    elbo, elbo_error = mean_and_standard_error(evaluation.elbo + of_unit)
    log_p, log_p_error = mean_and_standard_error(evaluation.log_likelihood + of_unit)
    of_integers = evaluation.log_likelihood + of_unit - preprocess.log_scale
    bits = -of_integers / (preprocess.pixels * math.log(2))
    return {
        "elbo": elbo,
        "elbo_standard_error": elbo_error,
        "log_likelihood": {
            "own": {
                "mean": log_p,
                "standard_error": log_p_error,
                "num_samples": num_samples,
                "num_images": len(x),
                "ess_median": evaluation.ess.median().item(),
                "ess_min": evaluation.ess.min().item(),
                "mean_in_model_space": evaluation.log_likelihood.mean().item(),
            }
        },
        "bits_per_dim": bits.mean().item() if preprocess.bits_per_dim_defined else None,
        "uniform_bits_per_dim": math.log2(preprocess.levels) if preprocess.levels else None,
    }
