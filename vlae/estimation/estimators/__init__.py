"""Estimators: what is measured of a trained model and its test images, one file each.

An estimator's name is that of its file, which needs no other place to be known. It has

* ``parts(subject)``: the parts of its measurement, each a `vlae.estimation.parts.Part` that runs the one resumable loop
  `vlae.estimation.per_image.in_groups`; none if the configuration does not ask for it. The key of a part is the
  estimator's name, or begins with it and a dot,
* ``metrics(results, subject)``: what it adds to the section ``test`` of results.json, from the results of all parts
  that were measured, by their keys. A section of its own name has a table in the summary of the run,
* ``arrays(results, subject)``: numbers per image for test_log_likelihood.npz, by their names.

Its options, if it has any, are a section of its name in ``vlae.config.schema.Evaluate``; ``num_images`` in it says how
many images it measures, none at 0. Without such a section it measures whatever is scored.
"""

import importlib
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from torch import Tensor

from vlae.config.schema import ESTIMATORS
from vlae.estimation.parts import Part, Subject

__all__ = ["Part", "Subject", "arrays", "metrics", "parts"]


def parts(subject: Subject) -> Iterator[Part]:
    """All parts of the evaluation, in order; each is made when it is reached. None if no proposal scores the images."""
    if subject.evaluate.proposals:
        for estimator in _modules():
            yield from estimator.parts(subject)


def metrics(results: Mapping[str, Any], subject: Subject) -> dict[str, Any]:
    """The metrics of all estimators; sections of one name are joined."""
    found: dict[str, Any] = {}
    for estimator in _modules():
        for key, value in estimator.metrics(results, subject).items():
            found[key] = found[key] | value if isinstance(value, dict) and key in found else value
    return found


def arrays(results: Mapping[str, Any], subject: Subject) -> dict[str, Tensor]:
    """The numbers per image of all estimators, by their names."""
    found: dict[str, Tensor] = {}
    for estimator in _modules():
        found |= estimator.arrays(results, subject)
    return found


def _modules() -> list[ModuleType]:
    return [importlib.import_module(f"{__name__}.{name}") for name in ESTIMATORS]
