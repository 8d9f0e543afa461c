"""Scores of a test set, and its metrics: the ``test`` section of results.json and the arrays of the .npz beside it."""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlae.data.preprocess import Preprocess
from vlae.estimation.ais import Annealed
from vlae.estimation.gaps import Gaps
from vlae.estimation.importance import Evaluation
from vlae.estimation.pareto import unreliable_above
from vlae.system.files import write_atomically

TENTH = 0.1
"""Nats: the standard error at which the costs of proposals are compared."""
Values = Float[Tensor, " images"]
"""One number per image."""


@dataclass
class Bracket:
    """log p(x) of images drawn from the model: a lower and an upper bound, and each proposal's estimate."""

    lower: Annealed
    upper: Annealed
    proposals: dict[str, Evaluation]
    log_jacobian: Values
    """Added to log p(x), it gives the log-density of pixels in [0, 1]."""

    @property
    def seconds(self) -> float:
        """Time spent on all its parts."""
        parts = [self.lower, self.upper, *self.proposals.values()]
        return sum(part.seconds for part in parts)


@dataclass
class Scores:
    """Everything that was measured on the test set, in model space."""

    proposals: dict[str, Evaluation] = field(default_factory=dict)
    """Empty if the test set was not scored; then there is nothing else either."""
    gaps: Gaps | None = None
    ais: Annealed | None = None
    """On the first images of the test set."""
    bracket: Bracket | None = None
    seconds: float = 0.0
    """Time of the evaluation over all attempts, with that of ``taken_over``."""
    taken_over: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By the key of a part: the ``run`` that measured some of it, how many ``images``, in how many ``seconds``."""


def save_scores(path: Path, scores: Scores, log_jacobian: Values) -> None:
    """Write one number per image: ``log_likelihood``, ``elbo``, ``ess``, ``k_hat``, ``samples`` of each proposal.

    Those of the proposal ``own`` have these names, those of others end in theirs: ``log_likelihood_laplace``.
    Log-likelihoods and ELBOs are those of results.json; ``log_jacobian`` is what preprocessing adds to the values
    of model space, see ``Preprocess.unit_log_jacobian``. ``annealing_arrays`` says what else there is.
    """
    arrays = {"log_jacobian": log_jacobian, **annealing_arrays(scores, log_jacobian)}
    for proposal, evaluation in scores.proposals.items():
        end = "" if proposal == "own" else f"_{proposal}"
        arrays[f"log_likelihood{end}"] = evaluation.log_likelihood + log_jacobian
        arrays[f"elbo{end}"] = evaluation.elbo + log_jacobian
        for name in ("ess", "k_hat", "samples"):
            arrays[f"{name}{end}"] = getattr(evaluation, name)
    buffer = io.BytesIO()
    numbers: dict[str, Any] = {name: values.numpy() for name, values in arrays.items()}
    np.savez(buffer, **numbers)
    write_atomically(path, buffer.getvalue())


def mean_and_standard_error(values: Values) -> tuple[float, float | None]:
    """Mean over images and its standard error (ddof 1), which is None for one image.

    >>> mean_and_standard_error(torch.tensor([1.0, 2.0, 3.0]))
    (2.0, 0.57735...)
    """
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None
    return values.mean().item(), error


def test_set_metrics(
    scores: Scores, preprocess: Preprocess, x: Float[Tensor, "images pixels"], num_samples: int
) -> dict[str, Any]:
    """The ``test`` section of results.json, in nats per image; ``log_likelihood`` has a section for each proposal.

    Empty if nothing was scored.

    Densities are over pixels in [0, 1], so the Jacobian of a logit transform is in them; the released code leaves
    it out, which is ``mean_in_model_space``. ELBO and bits/dim are those of the proposal ``own``; ``bits_per_dim`` is
    on the scale of the integer pixels, where they were dequantised, else None.
    """
    if not scores.proposals:
        return {}
    of_unit, own = preprocess.unit_log_jacobian(x), scores.proposals["own"]
    of_integers = own.log_likelihood + of_unit - preprocess.log_scale
    bits = -of_integers / (preprocess.pixels * math.log(2))
    ais = {"ais": annealing_metrics(scores.ais, scores.proposals, of_unit)} if scores.ais else {}
    return {
        **_with_error("elbo", own.elbo + of_unit),
        "log_likelihood": {
            name: proposal_metrics(evaluation, of_unit, num_samples)
            for name, evaluation in scores.proposals.items()
        }
        | ais,
        "bdmc": bracket_metrics(scores.bracket) if scores.bracket else None,
        "gaps": gap_metrics(scores.gaps, scores.proposals, of_unit) if scores.gaps else None,
        "bits_per_dim": bits.mean().item() if preprocess.bits_per_dim_defined else None,
        "uniform_bits_per_dim": math.log2(preprocess.levels) if preprocess.levels else None,
    }


def proposal_metrics(evaluation: Evaluation, log_jacobian: Values, num_samples: int) -> dict[str, Any]:
    """Metrics of one proposal. ``standard_error`` is over images; ``monte_carlo_error`` that of one image's estimate.

    ``k_hat_unreliable`` is a share of the images whose k-hat is known; with too few samples it is unknown.
    ``samples_for_a_tenth``: the number of samples that the median image needs for a Monte Carlo error of 0.1 nats,
    (S/ESS - 1) / 0.1^2: the cost of equal accuracy by each proposal.
    """
    bad, errors = evaluation.unreliable, evaluation.monte_carlo_error
    known = [doubt for doubt in bad if doubt is not None]
    needed = (evaluation.samples / evaluation.ess - 1).clamp(min=0) / TENTH**2
    found: dict[str, Any] = {
        **_level(evaluation.log_likelihood + log_jacobian),
        "num_samples": num_samples,
        "num_images": len(bad),
        **_with_error("elbo", evaluation.elbo + log_jacobian),
        "ess_median": evaluation.ess.median().item(),
        "ess_min": evaluation.ess.min().item(),
        "k_hat_limit": unreliable_above(num_samples),
        "k_hat_unreliable": sum(known) / len(known) if known else None,
        "k_hat_unknown": len(bad) - len(known),
        "monte_carlo_error_median": errors.median().item() if num_samples > 1 else None,
        "samples_mean": evaluation.samples.mean().item(),
        "samples_for_a_tenth": needed.median().item() if num_samples > 1 else None,
        "mean_in_model_space": evaluation.log_likelihood.mean().item(),
    }
    if not evaluation.steps.isnan().any():
        found["mode_search"] = mode_search_metrics(evaluation)
    return found


def mode_search_metrics(evaluation: Evaluation) -> dict[str, Any]:
    """Steps of the searches for the mode, and numbers of images by how they ended."""
    settled = evaluation.converged + evaluation.stalled
    return {
        "steps_mean": evaluation.steps.mean().item(),
        "steps_max": int(evaluation.steps.max().item()),
        "converged": int(evaluation.converged.sum().item()),
        "stalled": int(evaluation.stalled.sum().item()),
        "unconverged": len(settled) - int(settled.sum().item()),
    }


def gap_metrics(gaps: Gaps, proposals: Mapping[str, Evaluation], log_jacobian: Values) -> dict[str, Any]:
    """The approximation gap (due to the family of q) and the amortisation gap (due to inference) of the first images.

    The estimate of log p(x) is the one with the highest mean on these images, by a proposal or by the best member of
    the family itself: each is a lower bound in expectation. If it is too low, the true approximation gap is larger; if
    the ascent has not reached q*, the true amortisation gap is larger and the approximation gap smaller.
    """
    images = len(gaps.elbo)
    estimates = {name: evaluation.log_likelihood[:images] for name, evaluation in proposals.items()}
    estimates["best of the family"] = gaps.log_likelihood
    by = max(estimates, key=lambda name: estimates[name].mean().item())
    log_likelihood = estimates[by]
    return {
        "num_images": images,
        "elbo": (gaps.elbo + log_jacobian[:images]).mean().item(),
        "optimal_elbo": (gaps.optimal_elbo + log_jacobian[:images]).mean().item(),
        "log_likelihood": (log_likelihood + log_jacobian[:images]).mean().item(),
        "log_likelihood_by": by,
        **_with_error("approximation", log_likelihood - gaps.optimal_elbo),
        **_with_error("amortisation", gaps.optimal_elbo - gaps.elbo),
        "iterations": gaps.iterations,
    }


def annealing_metrics(
    annealed: Annealed, proposals: Mapping[str, Evaluation], log_jacobian: Values
) -> dict[str, Any]:
    """Metrics of the first images, and of each proposal on the same images: their mean is not that of all images."""
    images = len(annealed.log_likelihood)
    return {
        **_level(annealed.log_likelihood + log_jacobian[:images]),
        **_chains(annealed),
        "mean_in_model_space": annealed.log_likelihood.mean().item(),
        "proposals": _proposals_on_annealed_images(annealed, proposals, log_jacobian),
    }


def bracket_metrics(bracket: Bracket) -> dict[str, Any]:
    """Metrics of images drawn from the model. In expectation lower <= truth <= upper, and every proposal <= truth."""
    log_jacobian = bracket.log_jacobian
    return {
        "lower": _level(bracket.lower.log_likelihood + log_jacobian),
        "upper": _level(bracket.upper.log_likelihood + log_jacobian),
        **_with_error("gap", bracket.upper.log_likelihood - bracket.lower.log_likelihood),
        **_chains(bracket.lower),
        "proposals": _proposals_on_annealed_images(bracket.lower, bracket.proposals, log_jacobian),
    }


def _level(values: Values) -> dict[str, Any]:
    return dict(zip(("mean", "standard_error"), mean_and_standard_error(values), strict=True))


def _with_error(name: str, values: Values) -> dict[str, Any]:
    return dict(zip((name, f"{name}_standard_error"), mean_and_standard_error(values), strict=True))


def _chains(annealed: Annealed) -> dict[str, Any]:
    """Settings and reliability of the chains. ``monte_carlo_error`` is that of one image's own estimate."""
    return {
        "num_images": len(annealed.log_likelihood),
        **{name: getattr(annealed, name) for name in ("num_chains", "num_distributions", "num_leapfrog")},
        "ess_median": annealed.ess.median().item(),
        "ess_min": annealed.ess.min().item(),
        "monte_carlo_error_median": annealed.standard_error.median().item(),
        "acceptance": annealed.acceptance.mean().item(),
    }


def _proposals_on_annealed_images(
    annealed: Annealed, proposals: Mapping[str, Evaluation], log_jacobian: Values
) -> dict[str, Any]:
    """Each proposal on the annealed images. ``difference``: its log-likelihood minus the annealed, image by image."""
    images = len(annealed.log_likelihood)
    found = {}
    for name, evaluation in proposals.items():
        own = evaluation.log_likelihood[:images]
        difference = _with_error("difference", own - annealed.log_likelihood)
        found[name] = _level(own + log_jacobian[:images]) | difference
    return found


def annealing_arrays(scores: Scores, log_jacobian: Values) -> dict[str, Tensor]:
    """One number per image: ``log_likelihood_ais`` and others, NaN for images that were not annealed; for simulated
    images ``bdmc_lower``, ``bdmc_upper`` and for each proposal ``bdmc_log_likelihood_own``."""
    arrays: dict[str, Tensor] = {}
    if scores.ais is not None:
        images = len(scores.ais.log_likelihood)
        for name in ("log_likelihood", "standard_error", "ess", "acceptance"):
            arrays[f"{name}_ais"] = torch.full_like(log_jacobian, math.nan)
            arrays[f"{name}_ais"][:images] = getattr(scores.ais, name)
        arrays["log_likelihood_ais"] = arrays["log_likelihood_ais"] + log_jacobian
    if (bracket := scores.bracket) is not None:
        arrays["bdmc_lower"] = bracket.lower.log_likelihood + bracket.log_jacobian
        arrays["bdmc_upper"] = bracket.upper.log_likelihood + bracket.log_jacobian
        for name, evaluation in bracket.proposals.items():
            arrays[f"bdmc_log_likelihood_{name}"] = evaluation.log_likelihood + bracket.log_jacobian
    return arrays
