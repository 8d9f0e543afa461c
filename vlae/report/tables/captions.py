"""What has to be said of a table: what its figures are, of what, how they were compared, and what is missing."""

from collections.abc import Iterable, Sequence

from vlae.estimation.reliability import LARGE_K_HAT, MARK, TOO_LOW
from vlae.report.metric_values import (
    COMMON,
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
"""Of all of these."""
UNRELIABLE = f"in at least one run of each {LARGE_K_HAT}, so they are {TOO_LOW}"
SOME = 5
"""Of a list that a caption can hold."""


def caption(metric: str, cells: Sequence[Cell], runs: Sequence[Run]) -> str:
    """``runs``: those whose figures are in the table."""
    if not runs:
        return f"{described(metric)}. No run has it yet."
    expected = sum(cell.runs for cell in cells)
    number = (
        counted(len(runs), "run") if len(runs) == expected else f"{len(runs)} of {counted(expected, 'run')}"
    )
    of = ", ".join(filter(None, [number, _seeds(runs), _samples(runs, metric)]))
    said = [described(metric), _spread(cells), of, *_bold(cells), *_all_unreliable(cells)]
    return ". ".join(said) + "."


def metric_name(metric: str) -> str:
    """``Test log-likelihood by laplace``: for where the caption of a table says the rest."""
    what, estimator = what_and_estimator(metric)
    if what not in NAMES:
        return metric
    by = {"": "", OWN: " by each model's own q"}.get(estimator, f" by {estimator}")
    return NAMES[what] + by


def described(metric: str, *, brief: bool = False) -> str:
    """The metric, its unit, what is better, and the estimator. brief: without what a table says of the estimator."""
    what, estimator = what_and_estimator(metric)
    name = NAMES.get(what)
    best = {1: " (higher is better)", -1: " (lower is better)", 0: ""}[better(metric)]
    unit = f" in {UNIT}" if name else ""
    by = f", by {estimator}" if estimator else ""
    more = ", the same estimator for all models" if estimator in COMMON else ""
    if estimator == OWN:
        by, more = ", by each model's own q", ", so models are compared together with their estimators"
    return (name or metric) + unit + best + by + ("" if brief else more)


def _spread(cells: Sequence[Cell]) -> str:
    if any(cell.standard_error is not None for cell in cells):
        return "Mean ± standard error over seeds (ddof 1)"
    return "One seed each, so no standard error over seeds is known"


def _seeds(runs: Sequence[Run]) -> str:
    seeds = sorted({run.settings["seed"] for run in runs})
    if len(seeds) <= SOME:
        return f"{'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}"
    return f"{len(seeds)} seeds from {seeds[0]} to {seeds[-1]}"


def _samples(runs: Sequence[Run], metric: str) -> str:
    """Importance samples and test images."""
    estimator = what_and_estimator(metric)[1] or OWN
    if array_of(metric) is None:
        return ""
    samples = _values(runs, of_estimator(estimator, "num_samples"))
    images = _values(runs, of_estimator(estimator, "num_images"))
    return f"{samples} importance samples for each of {images} test images"


def _values(runs: Sequence[Run], key: str) -> str:
    told = {str(value): value for run in runs if (value := run.value(key)) is not None}
    values = sorted(told.values(), key=position)
    return (
        " or ".join(str(value) for value in values) if len(values) <= SOME else f"{values[0]} to {values[-1]}"
    )


def _bold(cells: Sequence[Cell]) -> list[str]:
    if not any(cell.best for cell in cells):
        return []
    over = list(dict.fromkeys(cell.paired_over for cell in cells if cell.tested))
    best = "the best of each column"
    if any(cell.images for cell in cells):
        best += " among those scored on the same test images"
    if over:
        return [
            f"Bold: {best}, and what does not differ from it significantly (p ≥ {LEVEL:g}, two-sided "
            f"t-test of the differences, paired over {' or over '.join(over)})"
        ]
    if any(cell.paired_over for cell in cells):
        return [f"Bold: {best}; differences are untested with {TOO_FEW}"]
    return [f"Bold: {best}; no difference from it could be tested"]


def _all_unreliable(cells: Sequence[Cell]) -> list[str]:
    """Once, where a dagger on each would distinguish nothing."""
    if not any(cell.unreliable for cell in cells) or daggers(cells):
        return []
    return [f"All of these estimates are unreliable: {UNRELIABLE}"]


def provenance(runs: Sequence[Run]) -> str:
    """Which code made the metrics of these runs."""
    return _code(runs) if runs else ""


def _code(runs: Sequence[Run]) -> str:
    names = sorted({_version(run) for run in runs})
    if len(names) > SOME:
        return f"Code of {len(names)} versions"
    return f"Code: {', '.join(names)}"


def _version(run: Run) -> str:
    commit, digest = run.value("environment.code.commit"), run.value("environment.code.hash")
    if commit is None:
        return str(digest or "unknown")
    return str(commit)[:10] + (f" with changes ({digest})" if run.value("environment.code.changed") else "")


def notes(
    metric: str,
    cells: Sequence[Cell],
    groups: Groups,
    row_keys: Sequence[str],
    column_keys: Sequence[str],
    unplaced: Sequence[Run],
    left_out: Sequence[LeftOut],
    unread: Sequence[LeftOut],
    with_published: bool,
) -> tuple[str, ...]:
    """Below the table."""
    found = []
    if any(cell.unreliable for cell in cells) and daggers(cells):
        found.append(f"{MARK} Unreliable: {UNRELIABLE}")
    others = [cell for cell in cells if cell.mean is not None and not cell.best]
    if any(cell.tested for cell in others) and (
        few := sum(c.paired_over != "" and not c.tested for c in others)
    ):
        found.append(
            f"{counted(few, 'cell')} with {TOO_FEW} in common with the best of the column: "
            "the difference is untested"
        )
    untested = sum(not cell.paired_over for cell in others)
    if untested and better(metric) and len(others) + any(cell.best for cell in cells) > 1:
        found.append(
            f"{counted(untested, 'cell')} could not be compared with the best of its column: other test "
            "images, no seed in common, or too few of them"
        )
    found += _unequal(groups, row_keys, column_keys)
    if with_published:
        found += _published(groups, metric)
    if unplaced:
        states = " or ".join(sorted({run.state for run in unplaced}))
        found.append(
            f"{counted(len(unplaced), 'run')} {states} could belong to several cells, or to none of these"
        )
    return (*found, *of_damage(left_out, unread))


def of_damage(left_out: Sequence[LeftOut], unread: Sequence[LeftOut]) -> list[str]:
    """What a table is without, and why."""
    found = [without_images(unread)] if unread else []
    return [*found, f"Left out: {named_left_out(left_out)}"] if left_out else found


def without_images(unread: Sequence[LeftOut]) -> str:
    """Of runs whose figures of test images are damaged."""
    return f"Compared without figures of each test image, which cannot be read: {named_left_out(unread)}"


def named_left_out(left_out: Sequence[LeftOut]) -> str:
    """Some of them, each with its reason, and how many more."""
    return some([f"{left.name} ({left.because})" for left in left_out], SOME)


def no_runs(title: str, left_out: Sequence[LeftOut]) -> str:
    """Why there is nothing to tell."""
    told = f"; {len(left_out)} left out: {named_left_out(left_out)}" if left_out else ""
    return f"{title}: no runs{told}"


def _unequal(groups: Groups, row_keys: Sequence[str], column_keys: Sequence[str]) -> list[str]:
    """What rows of one column differ in, besides their model and what they are named by."""
    values: dict[str, dict[str, None]] = {}
    for column in dict.fromkeys(column for _, column in groups):
        of_column = [group[0] for (_, own), group in groups.items() if own == column]
        firsts = [run for run in of_column if run.readable]
        if not firsts:
            continue
        for key in differing(firsts):
            if not key.startswith("model.") and key not in (*row_keys, *column_keys):
                values.setdefault(key, {}).update(dict.fromkeys(word(run.value(key)) for run in firsts))
    if not values:
        return []
    listed = "; ".join(f"{key} ({', '.join(sorted(each))})" for key, each in sorted(values.items()))
    return [f"Rows of one column differ also in {listed}"]


def literature(sources: Iterable[str], metric: str) -> list[str]:
    """What has to be said of figures from these, each once, beside ours."""
    own = "" if what_and_estimator(metric)[1] == OWN else "; they are by each model's own q, ours are not"
    return [f"Published: {source}; {CAVEATS[source]}{own}" for source in dict.fromkeys(sources)]


def _published(groups: Groups, metric: str) -> list[str]:
    found = (published(group[0], metric) for group in groups.values())
    return literature([each.source for each in found if each], metric)
