"""Published values: Park, Kim, Kim, Variational Laplace Autoencoders (ICML 2019), as far as they were at hand.

Test log-likelihood in nats per image, by importance sampling from each model's own q. The values were read off vector
charts and a picture, without standard errors. Nothing is quoted that was not seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from vlae.errors import UserError
from vlae.report.metric_values import IN_MODEL_SPACE, MEAN, OWN, what_and_estimator
from vlae.report.runs import Run
from vlae.report.tables.cells import Cell

CHARTS = "Park, Kim, Kim (ICML 2019), charts of the poster and the slides"
PICTURE = "README of github.com/yookoon/VLAE, picture of its results"
CAVEATS = {
    CHARTS: "their legends print T = 1, 2, 3, 4, the paper's text says 1, 2, 4, 8; the size of the networks is not "
    "stated",
    PICTURE: "2000 epochs, without the Jacobian of the logit transform, made with an earlier preprocessing: their "
    "differences carry over, their levels do not",
}


class Published(NamedTuple):
    """One value."""

    value: float
    source: str


class _Chart(NamedTuple):
    source: str
    what: str
    of: Mapping[str, Any]
    """Settings of the runs in it."""
    updates: tuple[int | None, ...]
    values: Mapping[str, tuple[float, ...]]
    """By model, in the order of ``updates``."""


_PLAIN = {"dataset.logit_transform": False, "dataset.dequantise": False}
_CIFAR10 = {"dataset.name": "cifar10", "output_dist.name": "gaussian", **_PLAIN}
_BINARY_MNIST = {"dataset.name": "mnist", "output_dist.name": "bernoulli", "dataset.binarise": "dynamic"}
_LOGIT_MNIST = {"dataset.name": "mnist", "output_dist.name": "gaussian", "dataset.logit_transform": True}
_ON_CIFAR10 = {
    "vae": (2364,),
    "savae": (2366, 2366, 2366, 2365),
    "hf": (2366, 2361, 2362, 2357),
    "vlae": (2374, 2381, 2387, 2392),
}
_ON_BINARY_MNIST = {
    "vae": (-85.37,),
    "savae": (-85.20, -85.10, -85.42, -85.23),
    "hf": (-85.27, -85.31, -85.22, -85.41),
    "iaf": (-84.25, -84.15, -84.03, -83.80),
    "vlae": (-83.71, -83.84, -83.72, -83.60),
}
_ON_LOGIT_MNIST = {"vae": (-408.5,), "hf": (-411.1,), "iaf": (-402.7,), "savae": (-409.4,), "vlae": (-381.2,)}
_ALL = (
    _Chart(CHARTS, MEAN, _CIFAR10, (1, 2, 4, 8), _ON_CIFAR10),
    _Chart(CHARTS, MEAN, _BINARY_MNIST, (1, 2, 4, 8), _ON_BINARY_MNIST),
    _Chart(PICTURE, IN_MODEL_SPACE, _LOGIT_MNIST, (4,), _ON_LOGIT_MNIST),
)


def published(run: Run, metric: str) -> Published | None:
    """The published value for a run's model, T, data and output distribution; None: there is none.

    ``savae_original`` and ``iaf_original`` are compared with the values for ``savae`` and ``iaf``.
    """
    model, updates = str(run.value("model.name")).removesuffix("_original"), run.value("T")
    for chart in _ALL:
        if what_and_estimator(metric)[0] == chart.what and all(
            run.value(k) == v for k, v in chart.of.items()
        ):
            values = chart.values.get(model, ())
            by_updates = dict(zip(chart.updates, values, strict=False))
            value = next(iter(values), None) if updates is None else by_updates.get(updates)
            if value is not None:
                return Published(value, chart.source)
    return None


def with_published(cells: Sequence[Cell], runs: Sequence[Run], metric: str) -> tuple[list[Cell], list[str]]:
    """The cells with published values beside ours, and the notes on their sources. UserError: there are none.

    runs: one of each cell.
    """
    values = [published(run, metric) for run in runs]
    notes = literature([value.source for value in values if value], metric)
    beside = []
    for one, value in zip(cells, values, strict=True):
        if value:
            ahead = None if one.mean is None else one.mean - value.value
            one = replace(one, published=value.value, published_difference=ahead)
        beside.append(one)
    return beside, notes


def literature(sources: Sequence[str], metric: str) -> list[str]:
    """The caveats of published values from these sources, each once. UserError: there are no such values."""
    if not sources:
        raise UserError(f"--published: nothing that was published is a {metric} of these models and data")
    own = what_and_estimator(metric)[1] == OWN
    proposal = "" if own else "; they were estimated with each model's own q(z | x), ours were not"
    return [f"Published: {source}; {CAVEATS[source]}{proposal}" for source in dict.fromkeys(sources)]
