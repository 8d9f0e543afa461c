"""The figures of results.json under flat names that carry their unit, and what is known of each."""

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from vlae.problems import shown
from vlae.summary import doubtful

LOG_LIKELIHOOD = "test/log_likelihood_nats:"
COMMON = ("laplace", "student_t")
"""Estimators that are the same for all models; the first that all runs have is what is compared by default."""
OWN = "own"
NATS = frozenset(
    {"elbo", "optimal_elbo", "log_likelihood", "mean", "mean_in_model_space", "difference", "gap"}
    | {"amortisation", "approximation", "standard_error", "monte_carlo_error_median"}
    | {f"{name}_standard_error" for name in ("elbo", "log_likelihood", "difference", "gap")}
    | {f"{name}_standard_error" for name in ("amortisation", "approximation")}
)
OF_A_PROPOSAL = {"mean": "log_likelihood", "standard_error": "log_likelihood_standard_error"}
HIGHER = (
    "elbo_nats",
    "optimal_elbo_nats",
    "log_likelihood_nats",
    "mean_in_model_space_nats",
    "ess_median",
    "ess_min",
)
LOWER = (
    *("bits_per_dim", "amortisation_nats", "approximation_nats", "gap_nats", "k_hat_unreliable"),
    *("samples_for_a_tenth", "monte_carlo_error_median_nats"),
)
ARRAYS = {
    "test/elbo_nats": "elbo",
    "test/log_likelihood_nats": "log_likelihood",
    "test/mean_in_model_space_nats": "log_likelihood",  # but for a term that is the same for all models
}
"""In test_log_likelihood.npz, an entry an image."""


def figures(results: Mapping[str, Any]) -> dict[str, Any]:
    """``test/elbo_nats``, ``test/log_likelihood_nats:laplace``, ``cost/train_seconds``, ``environment/host``, ...

    What belongs to an estimator ends in its name. ``test/unreliable:laplace``: the summary marks it with a dagger.
    ValueError: these are not the results of a run of this version.
    """
    try:
        proposals: Mapping[str, dict[str, Any]] = results["test"]["log_likelihood"]
        found: dict[str, Any] = {}
        _flatten("test", {k: v for k, v in results["test"].items() if k != "log_likelihood"}, found)
        for name, proposal in proposals.items():
            spelled = {OF_A_PROPOSAL.get(key, key): value for key, value in proposal.items()}
            _flatten("test", spelled, found, f":{name}")
            if name != "ais":
                found[f"test/unreliable:{name}"] = doubtful(proposal)
        for name in ("validation", "cost", "environment"):
            _flatten(name, results.get(name) or {}, found)
        _flatten("train", {name: results[name] for name in ("best_epoch", "epochs")}, found)
        return found
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"it does not hold the figures of a run of this version ({reason})") from error


def _flatten(place: str, section: Mapping[str, Any], found: dict[str, Any], end: str = "") -> None:
    for name, value in zip(_names(place, tuple(section), end), section.values(), strict=True):
        if isinstance(value, dict):
            _flatten(name.removesuffix(end) if end else name, value, found, end)
        elif isinstance(value, list):
            raise ValueError(f"{name}: expected a number or a text, came {shown(value)}")
        elif isinstance(value, int) and abs(value) > sys.float_info.max:
            raise ValueError(f"{name}: expected a number of at most 308 digits, came {shown(value)}")
        else:
            found[name] = value


@cache  # of thousands of runs they are the same
def _names(place: str, keys: tuple[str, ...], end: str) -> list[str]:
    return [f"{place}/{key}{'_nats' if key in NATS else ''}{end}" for key in keys]


def array_of(figure: str) -> str | None:
    """The array of test_log_likelihood.npz in which two models differ as in this figure; None: there is none."""
    name, _, proposal = figure.partition(":")
    end = "" if proposal in ("", OWN) else f"_{proposal}"
    return ARRAYS[name] + end if name in ARRAYS else None


def direction(figure: str) -> int:
    """1: higher is better; -1: lower is; 0: neither can be said."""
    name = figure.partition(":")[0]
    last = name.rpartition("/")[2]
    if name.startswith("cost/") or last in LOWER or last.endswith("standard_error_nats"):
        return -1
    return 1 if last in HIGHER else 0


def reliability_of(figure: str) -> str | None:
    """The figure that says whether the estimator of this one is not to be believed."""
    name, _, proposal = figure.partition(":")
    estimated = name in ("test/log_likelihood_nats", "test/mean_in_model_space_nats")
    return f"test/unreliable:{proposal}" if estimated and proposal not in ("", "ais") else None
