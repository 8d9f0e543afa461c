"""The metrics of results.json under their names, and what is known of each."""

import re
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from vlae.config.problems import shown
from vlae.estimation.reliability import doubtful

COMMON = ("laplace", "student_t")
"""Estimators that are the same for all models; the first that all runs have is what is compared by default."""
OWN = "own"
ELBO, MEAN, IN_MODEL_SPACE, UNRELIABLE = "elbo", "mean", "mean_in_model_space", "unreliable"
"""Metrics of an estimator, as `what_and_estimator` has them."""
ARRAYS = {
    ELBO: "elbo",
    MEAN: "log_likelihood",
    IN_MODEL_SPACE: "log_likelihood",  # but for a term that is the same for all models
}
"""In test_log_likelihood.npz, an entry an image."""
_OF_ESTIMATOR = re.compile(r"test\.log_likelihood\.(?P<estimator>[^.]+)\.(?P<what>.+)")


def of_estimator(estimator: str, what: str = MEAN) -> str:
    """``test.log_likelihood.laplace.mean``"""
    return f"test.log_likelihood.{estimator}.{what}"


def what_and_estimator(metric: str) -> tuple[str, str]:
    """``("mean", "laplace")`` of test.log_likelihood.laplace.mean, ``("elbo", "")`` of test.elbo."""
    if match := _OF_ESTIMATOR.fullmatch(metric):
        return match["what"], match["estimator"]
    return (ELBO if metric == "test.elbo" else metric), ""


def figures(results: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of results.json by their names: its keys with dots between them; `vlae.runs.metrics` explains each.

    ``test.log_likelihood.laplace.unreliable``: the summary marks it with a dagger.
    ValueError: these are not the results of a run of this version.
    """
    try:
        proposals: Mapping[str, dict[str, Any]] = results["test"]["log_likelihood"]
        found: dict[str, Any] = {}
        _flatten("test", {k: v for k, v in results["test"].items() if k != "log_likelihood"}, found)
        for name, proposal in proposals.items():
            _flatten(f"test.log_likelihood.{name}", proposal, found)
            if name != "ais":
                found[of_estimator(name, UNRELIABLE)] = doubtful(proposal)
        for name in ("validation", "cost", "environment"):
            _flatten(name, results.get(name) or {}, found)
        _flatten("", {name: results[name] for name in ("best_epoch", "epochs")}, found)
        return found
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"it does not hold the figures of a run of this version ({reason})") from error


def _flatten(place: str, section: Mapping[str, Any], found: dict[str, Any]) -> None:
    for name, value in zip(_names(place, tuple(section)), section.values(), strict=True):
        if isinstance(value, dict):
            _flatten(name, value, found)
        elif isinstance(value, list):
            raise ValueError(f"{name}: expected a number or a text, came {shown(value)}")
        elif isinstance(value, int) and abs(value) > sys.float_info.max:
            raise ValueError(f"{name}: expected a number of at most 308 digits, came {shown(value)}")
        else:
            found[name] = value


@cache  # of thousands of runs they are the same
def _names(place: str, keys: tuple[str, ...]) -> list[str]:
    return [f"{place}.{key}" if place else key for key in keys]


def array_of(metric: str) -> str | None:
    """The array of test_log_likelihood.npz in which two models differ as in this metric; None: there is none."""
    what, estimator = what_and_estimator(metric)
    if what not in ARRAYS:
        return None
    return ARRAYS[what] + ("" if estimator in ("", OWN) else f"_{estimator}")


def reliability_of(metric: str) -> str | None:
    """The metric that says whether the estimator of this one is not to be believed."""
    what, estimator = what_and_estimator(metric)
    estimated = what in (MEAN, IN_MODEL_SPACE) and estimator not in ("", "ais")
    return of_estimator(estimator, UNRELIABLE) if estimated else None
