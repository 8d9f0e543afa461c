"""Published values: Park, Kim, Kim, Variational Laplace Autoencoders (ICML 2019), as far as they were at hand.

Test log-likelihood in nats per image, by importance sampling from each model's own q. The values were read off vector
charts and a picture, without standard errors. Nothing is quoted that was not seen.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from vlae.report.metric_values import IN_MODEL_SPACE, MEAN, what_and_estimator
from vlae.report.runs import Run

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


_T = (1, 2, 4, 8)
_PLAIN = {"dataset.logit_transform": False, "dataset.dequantise": False}
_CHARTS = (
    _Chart(
        CHARTS,
        MEAN,
        {"dataset.name": "cifar10", "output_dist.name": "gaussian", **_PLAIN},
        _T,
        {
            "vae": (2364,),
            "savae": (2366, 2366, 2366, 2365),
            "hf": (2366, 2361, 2362, 2357),
            "vlae": (2374, 2381, 2387, 2392),
        },
    ),
    _Chart(
        CHARTS,
        MEAN,
        {"dataset.name": "mnist", "output_dist.name": "bernoulli", "dataset.binarise": "dynamic"},
        _T,
        {
            "vae": (-85.37,),
            "savae": (-85.20, -85.10, -85.42, -85.23),
            "hf": (-85.27, -85.31, -85.22, -85.41),
            "iaf": (-84.25, -84.15, -84.03, -83.80),
            "vlae": (-83.71, -83.84, -83.72, -83.60),
        },
    ),
    _Chart(
        PICTURE,
        IN_MODEL_SPACE,
        {"dataset.name": "mnist", "output_dist.name": "gaussian", "dataset.logit_transform": True},
        (4,),
        {"vae": (-408.5,), "hf": (-411.1,), "iaf": (-402.7,), "savae": (-409.4,), "vlae": (-381.2,)},
    ),
)


def published(run: Run, metric: str) -> Published | None:
    """The published value for a run's model, T, data and output distribution; None: there is none.

    ``savae_original`` and ``iaf_original`` are compared with the values for ``savae`` and ``iaf``.
    """
    model = str(run.value("model.name")).removesuffix("_original")
    for chart in _CHARTS:
        same = all(run.value(key) == value for key, value in chart.of.items())
        if not same or what_and_estimator(metric)[0] != chart.what or model not in chart.values:
            continue
        updates, values = run.value("T"), chart.values[model]
        if updates is None:
            return Published(values[0], chart.source)
        if updates in chart.updates[: len(values)]:
            return Published(values[chart.updates.index(updates)], chart.source)
    return None
