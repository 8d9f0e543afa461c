"""What evaluations say of a test set: the figures of results.json and the arrays beside it."""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from vlae.evaluate import Evaluation, unit_log_jacobian
from vlae.files import write_atomically
from vlae.gaps import Gaps
from vlae.model_space import Preprocess
from vlae.pareto import unreliable_above
from vlae.scoring import Scores

TENTH = 0.1
"""Nats: the standard error at which the costs of proposals are compared."""


def save_evaluations(
    path: Path, evaluations: Mapping[str, Evaluation], log_jacobian: Float[Tensor, " images"]
) -> None:
    """One number an image: ``log_likelihood``, ``elbo``, ``ess``, ``k_hat``, ``samples`` and, once, ``log_jacobian``.

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
        arrays[f"samples{end}"] = evaluation.samples
    buffer = io.BytesIO()
    np.savez(buffer, **{name: values.numpy() for name, values in arrays.items()})
    write_atomically(path, buffer.getvalue())


def mean_and_standard_error(values: Float[Tensor, " images"]) -> tuple[float, float | None]:
    """Over images; the standard error (ddof 1) of one image is unknown."""
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None
    return values.mean().item(), error


def figures(
    scores: Scores,
    preprocess: Preprocess,
    x: Float[Tensor, "images pixels"],
    num_samples: int,
) -> dict[str, Any]:
    """The ``test`` section of results.json, in nats an image; ``log_likelihood`` has a section for each proposal.

    Densities are over pixels in [0, 1], so the Jacobian of a logit transform is in them; the released code leaves
    it out, which is ``mean_in_model_space``. ELBO and bits/dim are those of the proposal ``own``; ``bits_per_dim`` is
    on the scale of the integer pixels, where they were dequantised, else None.
    """
    of_unit, own = unit_log_jacobian(preprocess, x), scores.proposals["own"]
    elbo, elbo_error = mean_and_standard_error(own.elbo + of_unit)
    of_integers = own.log_likelihood + of_unit - preprocess.log_scale
    bits = -of_integers / (preprocess.pixels * math.log(2))
    return {
        "elbo": elbo,
        "elbo_standard_error": elbo_error,
        "log_likelihood": {
            name: proposal_figures(evaluation, of_unit, num_samples)
            for name, evaluation in scores.proposals.items()
        },
        "gaps": gap_figures(scores.gaps, scores.proposals, of_unit) if scores.gaps else None,
        "bits_per_dim": bits.mean().item() if preprocess.bits_per_dim_defined else None,
        "uniform_bits_per_dim": math.log2(preprocess.levels) if preprocess.levels else None,
    }


def proposal_figures(
    evaluation: Evaluation, log_jacobian: Float[Tensor, " images"], num_samples: int
) -> dict[str, Any]:
    """Of one proposal. ``standard_error`` is over images; ``monte_carlo_error`` that of one image's own estimate.

    ``k_hat_unreliable`` is a share of the images; None where the samples are too few to tell.
    ``samples_for_a_tenth``: how many samples the median image needs for a Monte Carlo error of 0.1 nats, which is
    (S/ESS - 1) / 0.1^2: figures of equal accuracy cost so much by each proposal.
    """
    mean, error = mean_and_standard_error(evaluation.log_likelihood + log_jacobian)
    elbo, elbo_error = mean_and_standard_error(evaluation.elbo + log_jacobian)
    bad, needed = evaluation.unreliable, (evaluation.samples / evaluation.ess - 1).clamp(min=0) / TENTH**2
    found: dict[str, Any] = {
        "mean": mean,
        "standard_error": error,
        "num_samples": num_samples,
        "num_images": len(bad),
        "elbo": elbo,
        "elbo_standard_error": elbo_error,
        "ess_median": evaluation.ess.median().item(),
        "ess_min": evaluation.ess.min().item(),
        "k_hat_limit": unreliable_above(num_samples),
        "k_hat_unreliable": None if None in bad else sum(map(bool, bad)) / len(bad),
        "monte_carlo_error_median": evaluation.monte_carlo_error.median().item(),
        "samples_mean": evaluation.samples.mean().item(),
        "samples_for_a_tenth": needed.median().item(),
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


def gap_figures(
    gaps: Gaps, proposals: Mapping[str, Evaluation], log_jacobian: Float[Tensor, " images"]
) -> dict[str, Any]:
    """Why the ELBO is below log p(x), on the first images: the family, or how inference chooses in it.

    For log p(x) stands the proposal with the highest mean on these images: each is a lower bound in expectation.
    Where that is still too low, the approximation gap is really larger.
    """
    images = len(gaps.elbo)
    by = max(proposals, key=lambda name: proposals[name].log_likelihood[:images].mean().item())
    log_likelihood = proposals[by].log_likelihood[:images]
    approximation, approximation_error = mean_and_standard_error(log_likelihood - gaps.optimal_elbo)
    amortisation, amortisation_error = mean_and_standard_error(gaps.optimal_elbo - gaps.elbo)
    return {
        "num_images": images,
        "elbo": (gaps.elbo + log_jacobian[:images]).mean().item(),
        "optimal_elbo": (gaps.optimal_elbo + log_jacobian[:images]).mean().item(),
        "log_likelihood": (log_likelihood + log_jacobian[:images]).mean().item(),
        "log_likelihood_by": by,
        "approximation": approximation,
        "approximation_standard_error": approximation_error,
        "amortisation": amortisation,
        "amortisation_standard_error": amortisation_error,
        "iterations": gaps.iterations,
    }
