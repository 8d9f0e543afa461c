"""Captions and notes: the metric, its runs, how they were compared, and what is missing."""

from collections.abc import Iterable, Sequence

from vlae.estimation.reliability import LARGE_K_HAT, MARK, TOO_LOW
from vlae.report.metric_values import (
    ELBO,
    IN_MODEL_SPACE,
    MEAN,
    OWN,
    array_of,
    of_estimator,
    what_and_estimator,
)
from vlae.report.names import position, some, word
from vlae.report.runs import LeftOut, Run
from vlae.report.tables.cells import Cell, daggers
from vlae.report.tables.groups import Groups, differing
from vlae.report.tables.published import CAVEATS, published
from vlae.report.tables.ranking import TOO_FEW
from vlae.report.tables.significance import LEVEL
from vlae.runs.metrics import better
from vlae.system.console import counted

NAMES = {
    MEAN: "Test log-likelihood",
    ELBO: "Test ELBO",
    IN_MODEL_SPACE: "Test log-likelihood in model space",
}
UNIT = "nats per image"
PROPOSALS = {
    OWN: "each model's own q(z | x) as the proposal",
    "laplace": "a Laplace proposal",
    "student_t": "a Student-t proposal",
    "mixture": "a mixture proposal",
}
UNRELIABLE = f"in at least one run of each {LARGE_K_HAT}, so they are {TOO_LOW}"
SOME = 5
"""Entries of a list that a caption can hold."""


def caption(metric: str, cells: Sequence[Cell], runs: Sequence[Run]) -> str:
    """The caption of a table. runs: those whose metrics are in it."""
    if not runs:
        return f"{description(metric)}. No run has it yet."
    expected = sum(cell.runs for cell in cells)
    number = counted(len(runs), "run")
    if len(runs) != expected:
        number = f"{len(runs)} of {counted(expected, 'run')}"
    of = "; ".join(filter(None, [f"{number}, {_seeds(runs)}", _samples(runs, metric)]))
    sentences = [
        description(metric),
        *_own(metric),
        _spread(cells),
        of,
        *_bold(cells),
        *_all_unreliable(cells),
    ]
    return ". ".join(sentences) + "."


def metric_name(metric: str) -> str:
    """``Test log-likelihood with a Laplace proposal``: for where the caption of a table says the rest."""
    what, estimator = what_and_estimator(metric)
    return NAMES.get(what, metric) + estimation(estimator, " with", " by")


def description(metric: str) -> str:
    """The metric as a paper's caption names it.

    >>> description("test.log_likelihood.laplace.mean")
    'Test log-likelihood in nats per image (higher is better), estimated with a Laplace proposal'
    """
    what, estimator = what_and_estimator(metric)
    unit = f"{',' if what == IN_MODEL_SPACE else ''} in {UNIT}" if what in NAMES else ""
    best = {1: " (higher is better)", -1: " (lower is better)", 0: ""}[better(metric)]
    return NAMES.get(what, metric) + unit + best + estimation(estimator, ", estimated with", ", estimated by")


def estimation(estimator: str, using: str, by: str) -> str:
    """How a metric is estimated: `` with a Laplace proposal``; empty: it is not estimated by samples."""
    if estimator == "ais":
        return f"{by} annealed importance sampling"
    return f"{using} {PROPOSALS.get(estimator, f'the proposal {estimator}')}" if estimator else ""


def _own(metric: str) -> list[str]:
    if what_and_estimator(metric)[1] != OWN:
        return []
    return ["Each model has another proposal, so differences may be those of the proposals"]


def _spread(cells: Sequence[Cell]) -> str:
    if any(cell.standard_error is not None for cell in cells):
        return "Mean ± standard error over seeds"
    return "One seed each, so the standard error over seeds is unknown"


def _seeds(runs: Sequence[Run]) -> str:
    seeds = sorted({run.settings["seed"] for run in runs})
    if len(seeds) <= SOME:
        return f"{'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}"
    return f"{len(seeds)} seeds from {seeds[0]} to {seeds[-1]}"


def _samples(runs: Sequence[Run], metric: str) -> str:
    """Numbers of importance samples and test images."""
    estimator = what_and_estimator(metric)[1] or OWN
    if array_of(metric) is None:
        return ""
    samples = _values(runs, of_estimator(estimator, "num_samples"))
    images = _values(runs, of_estimator(estimator, "num_images"))
    return f"{samples} importance samples for each of {images} test images"


def _values(runs: Sequence[Run], key: str) -> str:
    found = {str(value): value for run in runs if (value := run.value(key)) is not None}
    values = sorted(found.values(), key=position)
    if len(values) <= SOME:
        return " or ".join(map(str, values))
    return f"{values[0]} to {values[-1]}"


def _bold(cells: Sequence[Cell]) -> list[str]:
    if not any(cell.best for cell in cells):
        return []
    over = list(dict.fromkeys(cell.paired_over for cell in cells if cell.tested))
    best = "the best of each column"
    if any(cell.images for cell in cells):
        best += " among those scored on the same test images"
    if over:
        return [
            f"Bold: {best}, and results that do not differ from it significantly (p ≥ {LEVEL:g}, two-sided t-test of "
            f"the differences, paired over {' or over '.join(over)})"
        ]
    if any(cell.paired_over for cell in cells):
        return [f"Bold: {best}; differences are not tested with {TOO_FEW}"]
    return [f"Bold: {best}; no difference from it could be tested"]


def _all_unreliable(cells: Sequence[Cell]) -> list[str]:
    """Said once, where a dagger on each would distinguish nothing."""
    if not any(cell.unreliable for cell in cells) or daggers(cells):
        return []
    return [f"All estimates are unreliable: {UNRELIABLE}"]


def provenance(runs: Sequence[Run]) -> str:
    """The code that made the metrics of these runs."""
    names = sorted({_version(run) for run in runs})
    if len(names) > SOME:
        return f"Code of {len(names)} versions"
    return f"Code: {', '.join(names)}" if names else ""


def _version(run: Run) -> str:
    commit, digest = run.value("environment.code.commit"), run.value("environment.code.hash")
    if commit is None:
        return str(digest or "unknown")
    return str(commit)[:10] + (f" with changes ({digest})" if run.value("environment.code.changed") else "")


def notes(
    metric: str, cells: Sequence[Cell], groups: Groups, keys: Sequence[str], with_published: bool
) -> list[str]:
    """The notes below a table that follow from its cells. keys: those of its rows and columns."""
    found = []
    if any(cell.unreliable for cell in cells) and daggers(cells):
        found.append(f"{MARK} Unreliable: {UNRELIABLE}")
    found += [*_untested(metric, cells), *_unequal(groups, keys)]
    if with_published:
        values = (published(group[0], metric) for group in groups.values())
        found += literature([each.source for each in values if each], metric)
    return found


def _untested(metric: str, cells: Sequence[Cell]) -> list[str]:
    found = []
    others = [cell for cell in cells if cell.mean is not None and not cell.best]
    few = sum(cell.paired_over != "" and not cell.tested for cell in others)
    if few and any(cell.tested for cell in others):
        found.append(f"{counted(few, 'cell')} not tested: {TOO_FEW} in common with the best of the column")
    unpaired = sum(not cell.paired_over for cell in others)
    if unpaired and better(metric) and len(others) + any(cell.best for cell in cells) > 1:
        found.append(
            f"{counted(unpaired, 'cell')} not compared with the best of the column: other test images, no seed in "
            "common, or too few of them"
        )
    return found


def damage_notes(left_out: Sequence[LeftOut], without: Sequence[LeftOut]) -> list[str]:
    """Runs that are not in a table, and runs compared ``without`` their test images, with the reasons."""
    found = [without_images(without)] if without else []
    return [*found, f"Left out: {some_left_out(left_out)}"] if left_out else found


def without_images(runs: Sequence[LeftOut]) -> str:
    """A note on runs whose results of each test image cannot be read."""
    return f"Compared without the results of each test image, which cannot be read: {some_left_out(runs)}"


def some_left_out(left_out: Sequence[LeftOut]) -> str:
    """Some of them, each with its reason, and how many more."""
    return some([f"{left.name} ({left.because})" for left in left_out], SOME)


def no_runs(title: str, left_out: Sequence[LeftOut]) -> str:
    """The message where nothing is left to show."""
    return f"{title}: no runs" + (
        f"; {len(left_out)} left out: {some_left_out(left_out)}" if left_out else ""
    )


def _unequal(groups: Groups, keys: Sequence[str]) -> list[str]:
    """Settings in which rows of one column differ, besides their model and ``keys``."""
    values: dict[str, dict[str, None]] = {}
    for column in dict.fromkeys(column for _, column in groups):
        firsts = [group[0] for (_, own), group in groups.items() if own == column]
        for key in differing(firsts):
            if not key.startswith("model.") and key not in keys:
                values.setdefault(key, {}).update(dict.fromkeys(word(run.value(key)) for run in firsts))
    if not values:
        return []
    listed = "; ".join(f"{key} ({', '.join(sorted(each))})" for key, each in sorted(values.items()))
    return [f"Rows of one column also differ in {listed}"]


def literature(sources: Iterable[str], metric: str) -> list[str]:
    """The caveats of published values from these sources, each once."""
    own = what_and_estimator(metric)[1] == OWN
    proposal = "" if own else "; they were estimated with each model's own q(z | x), ours were not"
    return [f"Published: {source}; {CAVEATS[source]}{proposal}" for source in dict.fromkeys(sources)]
