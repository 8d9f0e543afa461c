"""Captions and notes: the metric, its runs, how they were compared, and what is missing."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vlae.estimation.reliability import BEST, LARGE_ERROR, LARGE_K_HAT, MARK, TOO_LOW, remedy, too_low
from vlae.report.metric_values import (
    ELBO,
    IN_MODEL_SPACE,
    MEAN,
    OWN,
    VALIDATION,
    array_of,
    of_estimator,
    what_and_estimator,
)
from vlae.report.names import Values, group_name, some, spelling
from vlae.report.runs import LeftOut, Run, some_of
from vlae.report.tables.cells import Cell, daggers
from vlae.report.tables.significance import ENOUGH_SEEDS, LEVEL
from vlae.runs.metrics import better, unit
from vlae.system.console import count_of

NAMES = {
    MEAN: "Test log-likelihood",
    ELBO: "Test ELBO",
    IN_MODEL_SPACE: "Test log-likelihood in model space",
    VALIDATION: "Validation ELBO",
}
UNIT = "nats per image"
PROPOSALS = {
    OWN: "each model's own q(z | x) as the proposal",
    "laplace": "a Laplace proposal",
    "fitted": "a proposal fitted to p(z | x)",
    "student_t": "a Student-t proposal",
    "mixture": "a mixture proposal",
}
UNRELIABLE = f"in at least one run of each cell {LARGE_K_HAT}, so these estimates are {TOO_LOW}"
TOO_FEW = "too few seeds to compare: three in common with the best of the column are needed"
CALIBRATION = (
    "Own or fitted, 50 % or 90 %: the share of images drawn from the model whose true z lies in the region of this "
    "mass of q(z | x) or of the weighted samples of the fitted proposal; it is the mass itself if the posterior is "
    "exact. Mean ± standard error over seeds, with one seed over images"
)
SOME = 5  # entries of a list that a caption can hold

Groups = Mapping[tuple[Values, Values], Sequence[Run]]  # by row and column


def caption(metric: str, cells: Sequence[Cell], runs: Sequence[Run]) -> str:
    """The caption of a table. runs: those whose metrics are in it."""
    if not runs:
        return f"{description(metric)}. No run has this metric yet."
    expected, own = sum(cell.runs for cell in cells), what_and_estimator(metric)[1] == OWN
    number = ("" if len(runs) == expected else f"{len(runs)} of ") + count_of(expected, "run")
    one_each = all(cell.standard_error is None for cell in cells)
    if one_each:
        values = f"One seed each, so no standard error is known: {_seeds(runs)} ({number})"
    else:
        values = f"Mean ± standard error over {_seeds(runs)} ({number})"
    sentences = [
        description(metric) + (", so part of a difference may come from the proposals" if own else ""),
        values + _samples(runs, metric),
        _bold(cells),
    ]
    # where a dagger on each would distinguish nothing
    if any(cell.unreliable for cell in cells) and not daggers(cells):
        sentences.append(f"All estimates are unreliable: {_doubt(metric, cells, runs)}")
    return ". ".join(filter(None, sentences)) + "."


def metric_name(metric: str) -> str:
    """The metric in short, ``Test log-likelihood with a Laplace proposal``, where a table's caption says the rest."""
    what, estimator = what_and_estimator(metric)
    return NAMES.get(what, metric) + estimation(estimator, " with", " by")


def short_name(metric: str) -> str:
    """The metric as the head of a column, ``log-likelihood, laplace``."""
    what, estimator = what_and_estimator(metric)
    return f"log-likelihood, {estimator}" if estimator else NAMES.get(what, "log-likelihood")


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
    """The estimation of a metric: `` with a Laplace proposal``; empty: it is not estimated by samples."""
    if estimator == "ais":
        return f"{by} annealed importance sampling"
    return f"{using} {PROPOSALS.get(estimator, f'the proposal {estimator}')}" if estimator else ""


def _seeds(runs: Sequence[Run]) -> str:
    seeds = sorted({run.settings["seed"] for run in runs})
    if len(seeds) <= SOME:
        return f"{'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}"
    return f"{len(seeds)} seeds from {seeds[0]} to {seeds[-1]}"


def _samples(runs: Sequence[Run], metric: str) -> str:
    """The numbers of samples and of test images that the metric is estimated from."""
    estimator = what_and_estimator(metric)[1] or OWN
    if array_of(metric) is None:
        return ""
    of, what = ("num_chains", "annealed") if estimator == "ais" else ("num_samples", "importance")
    samples, images = (_range(runs, of_estimator(estimator, key)) for key in (of, "num_images"))
    return f"; {samples} {what} {of.removeprefix('num_')} for each of {images} test images"


def _range(runs: Sequence[Run], key: str) -> str:
    values = sorted({value for run in runs if (value := run.number(key)) is not None})
    texts = [f"{value:,}" for value in values]
    return " or ".join(texts) if len(texts) <= SOME else f"{texts[0]} to {texts[-1]}"


def _bold(cells: Sequence[Cell]) -> str:
    if not any(cell.as_good for cell in cells):
        return ""
    same = " among those scored on the same test images" if any(cell.images for cell in cells) else ""
    best = f"Bold: the best of each column{same}"
    if over := list(dict.fromkeys(cell.paired_over for cell in cells if cell.tested)):
        test = f"p ≥ {LEVEL:g}, t-tests paired over {' or over '.join(over)}, corrected for the choice of the best"
        return f"{best}, and all that are not significantly worse ({test})"
    return best


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


def notes(metric: str, cells: Sequence[Cell], groups: Groups, column_keys: Sequence[str]) -> list[str]:
    """The notes below a table that follow from its cells, and from the runs of each."""
    runs = [run for own in groups.values() for run in own]
    found = [f"{MARK} Unreliable: {_doubt(metric, cells, runs)}"] if daggers(cells) else []
    if not better(metric):
        return found
    others = [cell for cell in cells if cell.mean is not None and not cell.best]
    tested = [cell for cell in others if cell.tested]
    few = sum(0 < cell.seeds_in_common < ENOUGH_SEEDS for cell in others)
    if few:
        found.append(f"{count_of(few, 'cell')} with {TOO_FEW}" if tested else TOO_FEW.capitalize())
    unpaired = sum(cell.seeds_in_common == 0 for cell in others)
    if unpaired and len(others) + any(cell.best for cell in cells) > 1:
        why = "other test images, or no seed in common"
        found.append(f"{count_of(unpaired, 'cell')} not compared with the best of the column: {why}")
    found += [*_smallest_differences(metric, tested, column_keys), *_searches(metric, groups)]
    return found + _shared_costs(metric, groups)


def _doubt(metric: str, cells: Sequence[Cell], runs: Sequence[Run]) -> str:
    """How far the estimates of the marked cells may be off, and what lowers that."""
    marked = [cell for cell in cells if cell.unreliable]
    errors = [error for cell in marked if (error := cell.largest_error) is not None]
    parts = [UNRELIABLE] if len(errors) < len(marked) else []
    if errors:
        beside = "more than a quarter of the smallest difference that the column claims"
        claim = f", {beside}" if min(errors) <= LARGE_ERROR else ""
        estimator = what_and_estimator(metric)[1]
        parts.append(f"these estimates {too_low(errors)}{claim}; {_remedy(estimator, runs)}")
    return "; ".join(parts)


def _remedy(estimator: str, runs: Sequence[Run]) -> str:
    """What lowers the error of estimates by this estimator."""
    command = remedy(estimator, "SWEEP-or-RUN")
    if estimator == BEST:
        return f"{command} lowers this"
    done = [run for run in runs if run.is_scored]
    if all(run.value(of_estimator(BEST)) is not None for run in done):
        return f"--metric {of_estimator(BEST)} is the same by the {BEST} proposal, which these runs have"
    return f"{command} estimates them by the {BEST} proposal"


def _shared_costs(metric: str, groups: Groups) -> list[str]:
    """A note on costs that are those of the whole training or evaluation, of which other runs have computed a part."""
    runs = [run for group in groups.values() for run in group if run.number(metric) is not None]
    shared = sum((run.number(f"{metric}_taken_over") or 0.0) > 0 for run in runs)
    if not shared:
        return []
    return [
        f"What other runs have computed is included, in {shared} of {count_of(len(runs), 'run')} ({metric}_taken_over)"
    ]


def _smallest_differences(metric: str, tested: Sequence[Cell], column_keys: Sequence[str]) -> list[str]:
    """What a table of these numbers of seeds and images can show. tested: its cells but for the best ones."""
    columns: dict[tuple[Values, str], list[Cell]] = {}
    for cell in tested:
        if cell.smallest_difference:
            columns.setdefault((cell.column, cell.images), []).append(cell)
    parts = []
    for (column, images), of_column in columns.items():
        where = ", ".join(filter(None, [group_name(column_keys, column), images])) if len(columns) > 1 else ""
        parts.append(_smallest(of_column, unit(metric), where))
    if not parts:
        return []
    more = f"; {len(parts) - SOME} more columns" if len(parts) > SOME else ""
    text = f"Smallest significant difference from the best: {'; '.join(parts[:SOME])}{more}"
    return [f"{text}. A true difference of this size is found about half of the time"]


def _smallest(cells: Sequence[Cell], unit: str, column: str) -> str:
    """The smallest significant difference in a column, and what would lower it most."""
    undecided = [cell for cell in cells if cell.as_good] or cells
    sizes = [cell.smallest_difference or 0.0 for cell in undecided]
    cell = undecided[sizes.index(min(sizes))]
    seeds, by_seeds, by_images = cell.seeds_in_common, cell.with_twice_seeds or 0.0, cell.with_twice_images
    lower = f"more seeds ({2 * seeds}: about {two_digits(by_seeds)})"
    if by_images is not None and by_images < by_seeds:
        lower = f"more test images (twice as many: about {two_digits(by_images)})"
    values = " to ".join(dict.fromkeys(map(two_digits, (min(sizes), max(sizes)))))
    where = f" ({column})" if column else ""
    return f"{' '.join(filter(None, [values, unit]))} with {seeds} seeds{where}, lowered most by {lower}"


def two_digits(value: float) -> str:
    """A positive number with two significant digits, or as a whole number.

    >>> two_digits(0.0123), two_digits(1.26), two_digits(1234.5)
    ('0.012', '1.3', '1,234')
    """
    decimals = max(0, 1 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{decimals}f}"


def _searches(metric: str, groups: Groups) -> list[str]:
    """A note on models of which a column shows several settings, since the best of these is chosen by its result."""
    if not metric.startswith("test."):
        return []
    settings: dict[tuple[Any, ...], set[Any]] = {}
    for (_, column), runs in groups.items():
        model = str(runs[0].value("model.name"))
        trained = {key: value for key, value in runs[0].settings.items() if not key.startswith("evaluate.")}
        one = frozenset((trained | {"seed": None}).items())
        settings.setdefault((model, runs[0].value("T"), column), set()).add(one)
    counts: dict[str, int] = {}
    for (model, *_), each in settings.items():
        counts[model] = max(counts.get(model, 0), len(each))
    searched = [f"{spelling('model.name', model)} {number}" for model, number in counts.items() if number > 1]
    if not searched:
        return []
    which = some(searched, SOME)
    return [
        f"The best of several settings of a model ({which}) is chosen on these test images, so too good on average"
    ]


def damage_notes(left_out: Sequence[LeftOut], unread: Sequence[LeftOut]) -> list[str]:
    """Runs that are not in a table, and runs that were compared without their test images, with the reasons."""
    compared = "Compared without the results of each test image, which cannot be read"
    named = {compared: unread, "Left out": left_out}
    return [f"{what}: {some_of(runs)}" for what, runs in named.items() if runs]
