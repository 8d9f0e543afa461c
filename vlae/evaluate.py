"""Importance-sampled log-likelihood of a test set, image by image, in bounded memory and resumable."""

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlae.distributions import standard_normal_log_prob
from vlae.errors import NonFiniteError
from vlae.files import write_atomically
from vlae.interruption import Interruption
from vlae.model_space import Preprocess
from vlae.models.base import LatentVariableModel
from vlae.networks import widest
from vlae.pareto import k_hat, tail_length, unreliable_above
from vlae.proposals import propose
from vlae.seeding import generator, image_noise

CACHED_ROWS = 3072
"""On a CPU, more rows (images x samples) at once than this leave the cache and get slower."""
MAX_GROUP = 64
"""Images whose posteriors are inferred together."""
NOISE_BLOCK = 1000
"""Samples whose noise is drawn at once. Part of what defines an image's noise, so no setting."""


@dataclass
class Evaluation:
    """By one proposal. Per test image, in nats; the first ``done`` are known."""

    elbo: Float[Tensor, " images"]
    """Mean log w: the evidence lower bound of this proposal."""
    log_likelihood: Float[Tensor, " images"]
    ess: Float[Tensor, " images"]
    """Effective sample size (sum w)^2 / sum w^2, between 1 and the number of samples."""
    k_hat: Float[Tensor, " images"]
    """Shape of the weights' tail, see ``vlae.pareto``."""
    steps: Float[Tensor, " images"]
    """Of the search for the mode; like the next two NaN where the proposal has none."""
    converged: Float[Tensor, " images"]
    on_kink: Float[Tensor, " images"]
    done: int = 0

    @classmethod
    def empty(cls, images: int) -> "Evaluation":
        names = [entry.name for entry in fields(cls) if entry.name != "done"]
        return cls(**{name: torch.full((images,), math.nan, dtype=torch.float64) for name in names})


def save_evaluations(
    path: Path, evaluations: Mapping[str, Evaluation], log_jacobian: Float[Tensor, " images"]
) -> None:
    """One number an image: ``log_likelihood``, ``elbo``, ``ess``, ``k_hat`` and, once, ``log_jacobian``.

    Those of the proposal ``own`` have these names, those of others end in theirs: ``log_likelihood_laplace``.
    Log-likelihoods and ELBOs are those of results.json; ``log_jacobian`` is what preprocessing adds to the figures
    of model space, see ``unit_log_jacobian``.
    """
    arrays = {"log_jacobian": log_jacobian}
    for proposal, evaluation in evaluations.items():
        end = "" if proposal == "own" else f"_{proposal}"
        arrays[f"log_likelihood{end}"] = evaluation.log_likelihood + log_jacobian
        arrays[f"elbo{end}"] = evaluation.elbo + log_jacobian
        arrays[f"ess{end}"], arrays[f"k_hat{end}"] = evaluation.ess, evaluation.k_hat
    buffer = io.BytesIO()
    np.savez(buffer, **{name: values.numpy() for name, values in arrays.items()})
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
        width = widest(model)
        an_image = model.latent_dim * max(2 * min(num_samples, NOISE_BLOCK), 3 * width)
        images = max(1, min(most, half // (an_image * size)))
        rows = half // (4 * width * size)
        if x.device.type == "cpu":
            rows = min(rows, CACHED_ROWS)
        return cls(images, max(1, min(num_samples, rows // images)))


class LogWeights:
    """Streaming over samples: mean log w, log mean w, the effective sample size, and the tail of the weights."""

    def __init__(self, num_samples: int) -> None:
        self.count, self._tail = 0, min(num_samples, tail_length(num_samples) + 1)
        self._largest = torch.empty(0, dtype=torch.float64)
        self.total = self.log_sum = self.log_sum_of_squares = torch.zeros((), dtype=torch.float64)

    def add(self, log_w: Float[Tensor, "samples batch"]) -> None:
        log_w = log_w.cpu().double()  # in this order: not every device has float64
        parts = log_w.sum(0), torch.logsumexp(log_w, 0), torch.logsumexp(2 * log_w, 0)
        if self.count == 0:
            self.total, self.log_sum, self.log_sum_of_squares = parts
            candidates = log_w
        else:
            candidates = torch.cat([self._largest, log_w])
            self.total = self.total + parts[0]
            self.log_sum = torch.logaddexp(self.log_sum, parts[1])
            self.log_sum_of_squares = torch.logaddexp(self.log_sum_of_squares, parts[2])
        self._largest = candidates.topk(min(self._tail, len(candidates)), 0, sorted=False).values
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

    @property
    def k_hat(self) -> Float[Tensor, " batch"]:
        return torch.from_numpy(k_hat(self._largest.numpy()))


@torch.no_grad()
def evaluate(
    model: LatentVariableModel,
    x: Float[Tensor, "images pixels"],
    *,
    proposal: str = "own",
    num_samples: int,
    memory_budget: int,
    seed: int,
    evaluation: Evaluation | None = None,
    interruption: Interruption | None = None,
    report: Callable[[Evaluation], None] = lambda evaluation: None,
) -> Evaluation:
    """log p(x) >= E log (1/S) sum_s p(x, z_s) / q(z_s | x), z_s ~ q, and the ELBO, for each image.

    q is the proposal of that name. Image i's noise is a function of (seed, proposal, i) alone, so neither chunking nor a restart changes a figure. Goes on
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
        posterior, modes = propose(proposal, model, x[group], noise)
        if (
            proposal != "own"
        ):  # which is inferred with the noise of its samples, and so are the others' beginnings
            images = range(group.start, group.stop)
            noise = image_noise([generator(x.device, seed, "evaluate", proposal, i) for i in images], x.dtype)
        log_likelihood = scorer(x[group])
        weights = LogWeights(num_samples)
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
        evaluation.k_hat[group] = weights.k_hat
        if modes is not None:
            evaluation.steps[group] = modes.steps.cpu().double()
            evaluation.converged[group] = modes.converged.cpu().double()
            evaluation.on_kink[group] = modes.on_kink.cpu().double()
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
    evaluations: Mapping[str, Evaluation],
    preprocess: Preprocess,
    x: Float[Tensor, "images pixels"],
    num_samples: int,
) -> dict[str, Any]:
    """The ``test`` section of results.json, in nats an image; ``log_likelihood`` has a section for each proposal.

    Densities are over pixels in [0, 1], so the Jacobian of a logit transform is in them; the released code leaves
    it out, which is ``mean_in_model_space``. ELBO and bits/dim are those of the proposal ``own``; ``bits_per_dim`` is
    on the scale of the integer pixels, where they were dequantised, else None.
    """
    of_unit, own = unit_log_jacobian(preprocess, x), evaluations["own"]
    elbo, elbo_error = mean_and_standard_error(own.elbo + of_unit)
    of_integers = own.log_likelihood + of_unit - preprocess.log_scale
    bits = -of_integers / (preprocess.pixels * math.log(2))
    return {
        "elbo": elbo,
        "elbo_standard_error": elbo_error,
        "log_likelihood": {
            name: proposal_figures(evaluation, of_unit, num_samples)
            for name, evaluation in evaluations.items()
        },
        "bits_per_dim": bits.mean().item() if preprocess.bits_per_dim_defined else None,
        "uniform_bits_per_dim": math.log2(preprocess.levels) if preprocess.levels else None,
    }


def proposal_figures(
    evaluation: Evaluation, log_jacobian: Float[Tensor, " images"], num_samples: int
) -> dict[str, Any]:
    """Of one proposal. ``k_hat_unreliable`` is a share of the images; None where the samples are too few to tell."""
    mean, error = mean_and_standard_error(evaluation.log_likelihood + log_jacobian)
    k, limit = evaluation.k_hat, unreliable_above(num_samples)
    found: dict[str, Any] = {
        "mean": mean,
        "standard_error": error,
        "num_samples": num_samples,
        "num_images": len(k),
        "elbo": (evaluation.elbo + log_jacobian).mean().item(),
        "ess_median": evaluation.ess.median().item(),
        "ess_min": evaluation.ess.min().item(),
        "k_hat_limit": limit,
        "k_hat_unreliable": None if k.isnan().any() else (k > limit).double().mean().item(),
        "mean_in_model_space": evaluation.log_likelihood.mean().item(),
    }
    if not evaluation.steps.isnan().any():
        settled = evaluation.converged + evaluation.on_kink
        found["mode_search"] = {
            "steps_mean": evaluation.steps.mean().item(),
            "steps_max": int(evaluation.steps.max().item()),
            "converged": int(evaluation.converged.sum().item()),
            "on_kink": int(evaluation.on_kink.sum().item()),
            "unconverged": len(settled) - int(settled.sum().item()),
        }
    return found
