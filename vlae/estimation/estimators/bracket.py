"""Bounds of log p(x) from below and above, on test images and on images drawn from the model.

Chains go from the fitted proposal to p(z | x) and back, see `vlae.estimation.bounds` (Grosse, Ghahramani, Adams 2015).
Of an image that is drawn from the model, the z that it was drawn with is a sample of p(z | x): there the bracket is
exact in expectation, and shows a mode that nothing else has found. Of a test image the way back begins at the chains'
own ends: that bracket holds as far as they have forgotten their start, and knows only modes that were found.

The images that are drawn from the model also tell whether posteriors are calibrated, see `vlae.estimation.calibration`.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.estimation.bounds import Chains, bound
from vlae.estimation.calibration import ranks_under, simulate, weighted_ranks
from vlae.estimation.estimators.gaps import has_family, own_posterior
from vlae.estimation.estimators.importance import proposals_beside
from vlae.estimation.parts import Part, Subject, results_below
from vlae.estimation.per_image import (
    Advance,
    Estimates,
    Report,
    Values,
    check_finite,
    in_groups,
    level,
    with_error,
)
from vlae.estimation.proposals.fitted import FIRST, fit
from vlae.estimation.proposed import DecoderGroup

GROUP = 64
"""Images at once, on every device: an interruption loses one group."""
ROWS = 3072
"""Images x samples at once."""


@dataclass
class Bracket(Estimates):
    """Bounds of log p(x), in nats per image, and ranks of the true z where it is known."""

    num_chains: int
    num_distributions: int
    num_leapfrog: int
    lower: Float[Tensor, " images"]
    upper: Float[Tensor, " images"]
    lower_error: Float[Tensor, " images"]
    """Standard error of that image's own bound, by the delta method."""
    upper_error: Float[Tensor, " images"]
    ess: Float[Tensor, " images"]
    """Effective number of chains on the way up."""
    acceptance: Float[Tensor, " images"]
    fitted: Float[Tensor, " images"]
    """log p(x) by samples of the fitted proposal; like the rest NaN of test images."""
    fitted_mass: Float[Tensor, " images"]
    """Ranks as in `vlae.estimation.calibration.Ranks`, by the weighted samples of the fitted proposal."""
    fitted_rank: Float[Tensor, " images"]
    own_mass: Float[Tensor, " images"]
    """The same under the model's own q; NaN if it has no density at the true z."""
    own_rank: Float[Tensor, " images"]

    @property
    def log_likelihood(self) -> Float[Tensor, " images"]:
        """The lower bound, with which estimates are compared."""
        return self.lower


@torch.no_grad()
def bracket(
    subject: Subject,
    x: Float[Tensor, "images pixels"],
    name: str,
    exact: Float[Tensor, "images latent"] | None = None,
    *,
    result: Bracket,
    report: Report = lambda images: None,
) -> Bracket:
    """Bracket the images that are not done, in nats per image.

    ``name`` keys the noise of each image. ``exact``: the z that it was drawn with, which is ranked, too.
    NonFiniteError: a bound is NaN or infinite.
    """
    model, output, decoder = subject.model, subject.model.output, subject.model.decoder
    scorer = output.scorer(decoder)
    chains = Chains(result.num_chains, result.num_distributions, result.num_leapfrog)
    own_is_ranked = exact is not None and has_family(subject)

    def measure(group: range, progress: Advance) -> None:
        images = slice(group.start, group.stop)
        part = DecoderGroup(
            output, decoder, scorer, x[images], group, subject.seed, name, ROWS, lambda: progress(0.0)
        )
        q, known = fit(part, FIRST), None if exact is None else exact[images]
        found = bound(part, q, chains, known, progress)
        up, back = found.forward, found.backward
        check_finite(up.log_mean + back.log_mean, group, "the bracket of image")
        result.put(images, lower=up.log_mean, lower_error=up.standard_error, acceptance=found.acceptance)
        result.put(
            images, upper=-back.log_mean, upper_error=back.standard_error, ess=up.effective_sample_size
        )
        if known is None:
            return
        fitted, weights = weighted_ranks(part, q, known)
        result.put(images, fitted=weights.log_mean, fitted_mass=fitted.mass, fitted_rank=fitted.rank)
        if own_is_ranked:
            own = ranks_under(part, own_posterior(model, x[images], group, subject.seed), known)
            result.put(images, own_mass=own.mass, own_rank=own.rank)

    in_groups(result, GROUP, measure, report)
    return result


def parts(subject: Subject) -> Iterator[Part]:
    """The first ``evaluate.bracket.num_images`` test images, and as many that are drawn from the model."""
    if not (images := subject.evaluate.bracket.num_images):
        return
    real = subject.x[:images]
    yield _part(subject, "bracket.real", "bracketing image", real, "fitted")
    z, x = simulate(subject.model.output, subject.model.decoder, len(real), subject.seed)
    yield _part(subject, "bracket.simulated", "bracketing simulated image", x, "simulated", z)


def _part(subject: Subject, key: str, doing: str, x: Tensor, name: str, exact: Tensor | None = None) -> Part:
    run = partial(bracket, subject, x, name, exact)
    return subject.part(
        key, doing, Bracket.empty(len(x), **subject.options(key)), run, by="lower bound", long=True
    )


def metrics(results: Mapping[str, Any], subject: Subject) -> dict[str, Any]:
    """The bounds and the gap between them on test images and on simulated ones, with each estimate on the same images;
    and the calibration of the model's own posterior and of the fitted one on the simulated images."""
    if "bracket.real" not in results:
        return {}
    real, drawn = results["bracket.real"], results["bracket.simulated"]
    jacobian = subject.log_jacobian[: len(real)]
    of_drawn = _jacobian_of_simulated(subject, len(drawn))
    beside = proposals_beside(real, results_below(results, "proposals."), jacobian)
    fitted = level(drawn.fitted + of_drawn) | with_error("difference", drawn.fitted - drawn.lower)
    calibration = {"fitted": coverage(drawn.fitted_mass, drawn.fitted_rank)}
    if not drawn.own_mass.isnan().any():
        calibration = {"own": coverage(drawn.own_mass, drawn.own_rank)} | calibration
    found = {
        "real": bound_metrics(real, jacobian) | {"proposals": beside},
        "simulated": bound_metrics(drawn, of_drawn) | {"proposals": {"fitted": fitted}},
        "calibration": calibration,
    }
    return {"bracket": found}


def bound_metrics(bounds: Bracket, log_jacobian: Values) -> dict[str, Any]:
    """Both bounds and the gap between them, and the settings and the reliability of the chains."""
    return {
        "lower": level(bounds.lower + log_jacobian),
        "upper": level(bounds.upper + log_jacobian),
        **with_error("gap", bounds.upper - bounds.lower),
        "num_images": len(bounds),
        **{key: getattr(bounds, key) for key in ("num_chains", "num_distributions", "num_leapfrog")},
        "ess_median": bounds.ess.median().item(),
        "ess_min": bounds.ess.min().item(),
        "acceptance": bounds.acceptance.mean().item(),
    }


def coverage(mass: Values, rank: Values) -> dict[str, Any]:
    """Shares of the images whose true z lies in the regions of 50 and 90 %, with binomial standard errors, and the
    largest distance of the ranks' distribution function from the uniform one (Kolmogorov-Smirnov).

    The errors are those of Agresti and Coull (1998), which are not 0 where all or none lie in a region.

    >>> found = coverage((torch.arange(10) + 0.5) / 10, (torch.arange(10) + 0.5) / 10)
    >>> found["coverage_50"], found["coverage_90"], round(found["rank_distance"], 2)
    (0.5, 0.9, 0.05)
    """
    found: dict[str, Any] = {"num_images": len(mass)}
    for percent in (50, 90):
        share = (mass <= percent / 100).double().mean().item()
        found[f"coverage_{percent}"] = share
        p, n = (share * len(mass) + 2) / (len(mass) + 4), len(mass) + 4
        found[f"coverage_{percent}_standard_error"] = math.sqrt(p * (1 - p) / n)
    edges = torch.arange(len(rank) + 1) / len(rank)
    ordered = rank.sort().values
    found["rank_distance"] = torch.maximum(edges[1:] - ordered, ordered - edges[:-1]).max().item()
    return found


def arrays(results: Mapping[str, Any], subject: Subject) -> dict[str, Tensor]:
    """``bracket_lower`` and ``bracket_upper`` of test images, NaN beyond the first ones; of simulated images
    ``simulated_lower``, ``simulated_upper``, ``simulated_fitted`` and the ranks ``calibration_mass_own`` and others."""
    found: dict[str, Tensor] = {}
    if "bracket.real" not in results:
        return found
    real, drawn = results["bracket.real"], results["bracket.simulated"]
    of_drawn = _jacobian_of_simulated(subject, len(drawn))
    for name in ("lower", "upper"):
        found[f"bracket_{name}"] = torch.full_like(subject.log_jacobian, math.nan)
        found[f"bracket_{name}"][: len(real)] = getattr(real, name) + subject.log_jacobian[: len(real)]
    for name in ("lower", "upper", "fitted"):
        found[f"simulated_{name}"] = getattr(drawn, name) + of_drawn
    for posterior in ("own", "fitted"):
        found[f"calibration_mass_{posterior}"] = getattr(drawn, f"{posterior}_mass")
        found[f"calibration_rank_{posterior}"] = getattr(drawn, f"{posterior}_rank")
    return found


def _jacobian_of_simulated(subject: Subject, images: int) -> Values:
    """What makes a density of pixels in [0, 1] of that in model space, for images drawn from the model."""
    x = simulate(subject.model.output, subject.model.decoder, images, subject.seed)[1]
    return subject.preprocess.unit_log_jacobian(x)
