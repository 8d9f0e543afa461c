"""Annealed importance sampling of the first test images: log p(x) without any q(z | x), see `vlae.estimation.ais`."""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vlae.estimation.ais import Annealed, anneal
from vlae.estimation.estimators.importance import proposals_beside
from vlae.estimation.parts import Part, Subject, results_below
from vlae.estimation.per_image import level


def parts(subject: Subject) -> Iterator[Part]:
    """Chains for the first ``evaluate.ais.num_images`` images."""
    if images := subject.evaluate.ais.num_images:
        yield annealing_part(subject, "ais", "annealing image", subject.x[:images], "ais")


def annealing_part(
    subject: Subject, key: str, doing: str, x: Tensor, name: str, exact: Tensor | None = None
) -> Part:
    """The part that anneals images x [images, pixels]; ``name`` and ``exact`` are those of `anneal`."""
    model, empty = subject.model, Annealed.empty(len(x), **subject.options(key))
    run = partial(anneal, model.output, model.decoder, x, name=name, exact=exact, **subject.limits)
    return subject.part(key, doing, empty, run, by=name, long=True)


def metrics(results: Mapping[str, Any], subject: Subject) -> dict[str, Any]:
    """Metrics of the first images, and of each proposal on the same images: their mean is not that of all images."""
    if (annealed := results.get("ais")) is None:
        return {}
    log_jacobian, proposals = subject.log_jacobian[: len(annealed)], results_below(results, "proposals.")
    found = {
        **level(annealed.log_likelihood + log_jacobian),
        **chain_metrics(annealed),
        "mean_in_model_space": annealed.log_likelihood.mean().item(),
        "proposals": proposals_beside(annealed, proposals, log_jacobian),
    }
    return {"log_likelihood": {"ais": found}}


def chain_metrics(annealed: Annealed) -> dict[str, Any]:
    """Settings and reliability of the chains. ``monte_carlo_error`` is that of one image's own estimate."""
    return {
        "num_images": len(annealed),
        **{name: getattr(annealed, name) for name in ("num_chains", "num_distributions", "num_leapfrog")},
        "ess_median": annealed.ess.median().item(),
        "ess_min": annealed.ess.min().item(),
        "monte_carlo_error_median": annealed.standard_error.median().item(),
        "acceptance": annealed.acceptance.mean().item(),
    }


def arrays(results: Mapping[str, Any], subject: Subject) -> dict[str, Tensor]:
    """``log_likelihood_ais`` and others, NaN for images that were not annealed."""
    found: dict[str, Tensor] = {}
    if (annealed := results.get("ais")) is None:
        return found
    for name in ("log_likelihood", "standard_error", "ess", "acceptance"):
        found[f"{name}_ais"] = torch.full_like(subject.log_jacobian, math.nan)
        found[f"{name}_ais"][: len(annealed)] = getattr(annealed, name)
    found["log_likelihood_ais"] += subject.log_jacobian
    return found
