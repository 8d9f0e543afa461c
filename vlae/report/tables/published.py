"""Published values: Park, Kim, Kim, Variational Laplace Autoencoders (ICML 2019), as far as they were at hand.

Test log-likelihood in nats per image, by importance sampling from each model's own q. The values of
files/published.yaml were read off vector charts and a picture, without standard errors. Nothing is quoted that was not
seen.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from vlae.errors import UserError
from vlae.report.metric_values import OWN, what_and_estimator
from vlae.report.runs import Run
from vlae.report.tables.cells import Cell


@cache
def _known() -> dict[str, Any]:
    """The caveats by source, and the charts: each has a source, a metric, settings of its runs, and values by model."""
    return yaml.safe_load((Path(__file__).parent / "files" / "published.yaml").read_text())


class Published(NamedTuple):
    """A published value, and the paper that it is from."""

    value: float
    source: str


def published_value(run: Run, metric: str) -> Published | None:
    """The published value for a run's model, T, data and output distribution; None: there is none.

    ``savae_original`` and ``iaf_original`` are compared with the values for ``savae`` and ``iaf``.
    """
    model, updates = str(run.value("model.name")).removesuffix("_original"), run.value("T")
    for chart in _known()["charts"]:
        same = all(run.value(key) == value for key, value in chart["settings"].items())
        if same and chart["metric"] == what_and_estimator(metric)[0] and model in chart["values"]:
            values = chart["values"][model]
            by_updates = dict(zip(chart["T"], values, strict=False))
            if (value := values[0] if updates is None else by_updates.get(updates)) is not None:
                return Published(value, chart["source"])
    return None


def with_published(cells: Sequence[Cell], runs: Sequence[Run], metric: str) -> tuple[list[Cell], list[str]]:
    """The cells with published values beside ours, and the notes on their sources. UserError: there are none.

    runs: one of each cell.
    """
    values = [published_value(run, metric) for run in runs]
    notes = source_notes([value.source for value in values if value], metric)
    beside = []
    for one, value in zip(cells, values, strict=True):
        if value:
            ahead = None if one.mean is None else one.mean - value.value
            one = replace(one, published=value.value, published_difference=ahead)
        beside.append(one)
    return beside, notes


def source_notes(sources: Sequence[str], metric: str) -> list[str]:
    """The caveats of published values from these sources, each once. UserError: there are no such values."""
    if not sources:
        raise UserError(f"--published: no published {metric} for these models and datasets")
    own, caveats = what_and_estimator(metric)[1] == OWN, _known()["caveats"]
    proposal = "" if own else "; they were estimated with each model's own q(z | x), ours were not"
    return [f"Published: {source}; {caveats[source]}{proposal}" for source in dict.fromkeys(sources)]
