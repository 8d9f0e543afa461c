"""The metrics of results.json by name: values, estimator, array of test images, reliability."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from vlae.config.problems import format_value
from vlae.estimation.reliability import doubtful

OWN = "own"
ELBO, MEAN, IN_MODEL_SPACE, UNRELIABLE = "elbo", "mean", "mean_in_model_space", "unreliable"
"""Metrics of an estimator, as `what_and_estimator` has them."""
ERRORS = "estimator_error.total", "estimator_error.monte_carlo"
"""The estimator error of a metric, which is missing where it cannot be bounded; and a part that is always known."""
VALIDATION = "validation.elbo"
"""A metric that needs no scores of test images: every run with validation images has it."""
ARRAYS = {ELBO: "elbo", MEAN: "log_likelihood", IN_MODEL_SPACE: "log_likelihood"}
"""Arrays in test_log_likelihood.npz, one entry per image; in model space but for a term that all models share."""
_OF_ESTIMATOR = re.compile(r"test\.log_likelihood\.(?P<estimator>[^.]+)\.(?P<what>.+)")


def of_estimator(estimator: str, what: str = MEAN) -> str:
    """The name of a metric of an estimator.

    >>> of_estimator("laplace")
    'test.log_likelihood.laplace.mean'
    """
    return f"test.log_likelihood.{estimator}.{what}"


def what_and_estimator(metric: str) -> tuple[str, str]:
    """The two parts of a metric's name.

    >>> what_and_estimator("test.log_likelihood.laplace.mean"), what_and_estimator("test.elbo")
    (('mean', 'laplace'), ('elbo', ''))
    """
    if match := _OF_ESTIMATOR.fullmatch(metric):
        return match["what"], match["estimator"]
    return (ELBO if metric == "test.elbo" else metric), ""


def metrics_of_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of results.json by name: its keys joined by dots; `vlae.runs.metrics` explains each.

    ``test.log_likelihood.laplace.unreliable`` is added: whether the estimate is marked with a dagger. A run that was
    not scored has no metric that begins with ``test``.
    ValueError: these are not the results of a run of this version.
    """
    try:
        test = results["test"]
        proposals: Mapping[str, dict[str, Any]] = test["log_likelihood"] if test else {}
        found: dict[str, Any] = {}
        _flatten("test", {k: v for k, v in test.items() if k != "log_likelihood"}, found)
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
        raise ValueError(f"it lacks metrics of a run of this version ({reason})") from error


def _flatten(place: str, section: Mapping[str, Any], found: dict[str, Any]) -> None:
    for name, value in zip(_dotted_keys(place, tuple(section)), section.values(), strict=True):
        if isinstance(value, dict):
            _flatten(name, value, found)
        elif isinstance(value, list):
            raise ValueError(f"{name}: expected a number or a text, got {format_value(value)}")
        else:
            found[name] = value


@cache  # they are the same for thousands of runs
def _dotted_keys(place: str, keys: tuple[str, ...]) -> list[str]:
    return [f"{place}.{key}" if place else key for key in keys]


def scoring_keys(metric: str) -> tuple[str, ...] | None:
    """The settings of ``evaluate`` on which a metric depends, sections among them; None: it may be any.

    >>> scoring_keys("validation.elbo"), scoring_keys("test.elbo")[0]
    ((), 'evaluate.num_images')
    """
    what, estimator = what_and_estimator(metric)
    of_training = (VALIDATION, "cost.train", "cost.seconds_per_epoch", "best_epoch", "epochs")
    if what.startswith(of_training):
        return ()
    sampled = ("evaluate.num_images", "evaluate.num_samples", "evaluate.target_standard_error")
    if estimator == "ais":
        return (
            (*sampled, "evaluate.ais")
            if what.startswith("proposals.")
            else ("evaluate.num_images", "evaluate.ais")
        )
    if what.startswith("test.bracket."):
        of_chains = ("evaluate.num_images", "evaluate.bracket")
        return (
            (*sampled, "evaluate.bracket") if what.startswith("test.bracket.real.proposals.") else of_chains
        )
    if estimator or what == ELBO or what.endswith("bits_per_dim"):
        return sampled
    return None


@cache
def array_of(metric: str) -> str | None:
    """The array of test_log_likelihood.npz whose mean the metric is, up to a constant; None: there is none."""
    what, estimator = what_and_estimator(metric)
    if what not in ARRAYS:
        return None
    return ARRAYS[what] + ("" if estimator in ("", OWN) else f"_{estimator}")


def errors_of(metric: str) -> tuple[str, str]:
    """The metrics that hold the estimator error of this one, see ``ERRORS``."""
    _, estimator = what_and_estimator(metric)
    return of_estimator(estimator, ERRORS[0]), of_estimator(estimator, ERRORS[1])


def reliability_of(metric: str) -> str | None:
    """The metric that says whether this one is unreliable; None: nothing does."""
    what, estimator = what_and_estimator(metric)
    estimated = what in (MEAN, IN_MODEL_SPACE) and estimator not in ("", "ais")
    return of_estimator(estimator, UNRELIABLE) if estimated else None
