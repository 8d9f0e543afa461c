"""The parts of an evaluation, and the settings that determine the result of each for a trained model.

Nothing here imports torch: plans of sweeps ask for it.
"""

import math
from typing import Any

from vlae.config.schema import ESTIMATORS, Evaluate, Section

SIMULATED_IMAGES = 16
"""Images drawn from the model if evaluate.ais.num_images is 0."""

PILOT = 300
"""Samples of an image that decide how many others are averaged, with a target; they are no part of the average."""

FIT = 3
"""Number of the way in which the proposal ``fitted`` is made: raised where a change of its code changes figures, so
that scores of another fit are not taken over."""

Settings = dict[str, Any]


def part_settings(evaluate: Evaluate) -> dict[str, Settings]:
    """By the key of each part, or by the name of an estimator, for all its parts.

    Runs of the same weights and settings have the same numbers for an image. How many of the test images are scored is
    none of them; how many are drawn from the model is.

    >>> part_settings(Evaluate(num_samples=9))["proposals.own"]
    {'num_samples': 9, 'target_standard_error': None}
    """
    found: dict[str, Settings] = {}
    for name in ESTIMATORS if evaluate.proposals else ():
        found |= _OWN_KEYS[name](evaluate) if name in _OWN_KEYS else _of_section(name, evaluate)
    return found


def settings_of(evaluate: Evaluate, key: str) -> Settings:
    """The settings of one part."""
    known = part_settings(evaluate)
    return known[key] if key in known else known.get(key.partition(".")[0], {})


def images_of(evaluate: Evaluate, key: str) -> float:
    """The number of test images that a part, or an estimator, measures; infinite: all."""
    if key == "gaps":
        return evaluate.num_gap_images
    every = math.inf if evaluate.num_images is None else evaluate.num_images
    return getattr(getattr(evaluate, key, None), "num_images", every)


def _of_section(name: str, evaluate: Evaluate) -> dict[str, Settings]:
    """The settings of an estimator that has a section of its name, a key of its name, or none."""
    section = getattr(evaluate, name, True)
    if not isinstance(section, Section):
        return {name: {}} if section else {}
    settings = section.model_dump()
    return {name: settings} if settings.pop("num_images", 1) else {}


def _precision(evaluate: Evaluate) -> Settings:
    found = evaluate.model_dump(include={"num_samples", "target_standard_error"})
    # scores to a target without a pilot, of earlier versions, are biased: they are not taken over
    return found if evaluate.target_standard_error is None else found | {"pilot": PILOT}


def _of_proposals(evaluate: Evaluate) -> dict[str, Settings]:
    fit = {"fitted": {"fit": FIT}}
    return {f"proposals.{name}": _precision(evaluate) | fit.get(name, {}) for name in evaluate.proposals}


def _of_bdmc(evaluate: Evaluate) -> dict[str, Settings]:
    if not evaluate.bdmc:
        return {}
    images = {"images": evaluate.ais.num_images or SIMULATED_IMAGES}
    chains = evaluate.ais.model_dump(exclude={"num_images"}) | images
    by_proposals = {f"bdmc.{key}": settings | images for key, settings in _of_proposals(evaluate).items()}
    return {"bdmc.lower": chains, "bdmc.upper": chains} | by_proposals


def _of_bracket(evaluate: Evaluate) -> dict[str, Settings]:
    return {key: settings | {"fit": FIT} for key, settings in _of_section("bracket", evaluate).items()}


def _of_gaps(evaluate: Evaluate) -> dict[str, Settings]:
    return {"gaps": {}} if evaluate.num_gap_images else {}


_OWN_KEYS = {"importance": _of_proposals, "bdmc": _of_bdmc, "bracket": _of_bracket, "gaps": _of_gaps}
"""Estimators whose keys stand in the section ``evaluate`` itself, or that start from a fit."""
