"""A bracket of the truth on images drawn from the model: bidirectional Monte Carlo (Grosse, Ghahramani, Adams 2015).

The z of such an image is a sample of p(z | x), from which chains may go back: see `vlae.estimation.ais`. In expectation
lower bound <= log p(x) <= upper bound, and every proposal <= log p(x).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from vlae.estimation.calibration import simulate
from vlae.estimation.estimators.ais import annealing_part, chain_metrics
from vlae.estimation.estimators.importance import importance_part, proposals_beside
from vlae.estimation.part_settings import SIMULATED_IMAGES
from vlae.estimation.parts import Part, Subject, results_below
from vlae.estimation.per_image import level, with_error


def parts(subject: Subject) -> Iterator[Part]:
    """Chains up and down, and each proposal, if ``evaluate.bdmc`` asks for them."""
    if not subject.evaluate.bdmc:
        return
    z, x = simulated(subject)
    yield annealing_part(subject, "bdmc.lower", "annealing simulated image", x, "bdmc")
    yield annealing_part(subject, "bdmc.upper", "annealing simulated image back", x, "bdmc", z)
    for name in subject.evaluate.proposals:
        yield importance_part(subject, f"bdmc.proposals.{name}", "evaluating simulated image", x, name)


def simulated(subject: Subject) -> tuple[Tensor, Tensor]:
    """z [images, latent] and images x [images, pixels] drawn from the model, to bracket their log p(x)."""
    images = subject.evaluate.ais.num_images or SIMULATED_IMAGES
    return simulate(subject.model.output, subject.model.decoder, images, subject.seed)


def metrics(results: Mapping[str, Any], subject: Subject) -> dict[str, Any]:
    """The bounds, the gap between them, and each proposal on the same images; None where they were not asked for."""
    if "bdmc.lower" not in results:
        return {"bdmc": None}
    lower, upper, proposals, log_jacobian = _measured(results, subject)
    found = {
        "lower": level(lower.log_likelihood + log_jacobian),
        "upper": level(upper.log_likelihood + log_jacobian),
        **with_error("gap", upper.log_likelihood - lower.log_likelihood),
        **chain_metrics(lower),
        "proposals": proposals_beside(lower, proposals, log_jacobian),
    }
    return {"bdmc": found}


def arrays(results: Mapping[str, Any], subject: Subject) -> dict[str, Tensor]:
    """``bdmc_lower``, ``bdmc_upper`` and for each proposal ``bdmc_log_likelihood_own``, of the simulated images."""
    if "bdmc.lower" not in results:
        return {}
    lower, upper, proposals, log_jacobian = _measured(results, subject)
    bounds = {"bdmc_lower": lower, "bdmc_upper": upper}
    bounds |= {f"bdmc_log_likelihood_{name}": found for name, found in proposals.items()}
    return {name: found.log_likelihood + log_jacobian for name, found in bounds.items()}


def _measured(results: Mapping[str, Any], subject: Subject) -> tuple[Any, Any, dict[str, Any], Tensor]:
    """Lower and upper bounds, the proposals, and what makes a density of pixels in [0, 1] of theirs."""
    log_jacobian = subject.preprocess.unit_log_jacobian(simulated(subject)[1])
    proposals = results_below(results, "bdmc.proposals.")
    return results["bdmc.lower"], results["bdmc.upper"], proposals, log_jacobian
