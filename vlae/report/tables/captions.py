"""Captions and notes: the metric, its runs, how they were compared, and what is missing."""

from collections.abc import Sequence

from vlae.estimation.reliability import LARGE_K_HAT, MARK, TOO_LOW
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
from vlae.report.runs import LeftOut, Run, some_of
from vlae.report.tables.cells import Cell, daggers
from vlae.report.tables.significance import LEVEL, TOO_FEW
from vlae.runs.metrics import better
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
    "student_t": "a Student-t proposal",
    "mixture": "a mixture proposal",
}
UNRELIABLE = f"in at least one run of each cell {LARGE_K_HAT}, so these estimates are {TOO_LOW}"
SOME = 5  # entries of a list that a caption can hold


def caption(metric: str, cells: Sequence[Cell], runs: Sequence[Run]) -> str:
    """The caption of a table. runs: those whose metrics are in it."""
    if not runs:
        return f"{description(metric)}. No run has this metric yet."
    expected, sentences = sum(cell.runs for cell in cells), [description(metric)]
    number = ("" if len(runs) == expected else f"{len(runs)} of ") + count_of(expected, "run")
    if what_and_estimator(metric)[1] == OWN:
        sentences.append(
            "Each model has its own proposal, so part of a difference may come from the proposals"
        )
    one_each = all(cell.standard_error is None for cell in cells)
    unknown = "One seed each, so the standard error over seeds is unknown"
    sentences.append(unknown if one_each else "Mean ± standard error over seeds")
    sentences += [f"{number}, {_seeds(runs)}{_samples(runs, metric)}", _bold(cells)]
    # where a dagger on each would distinguish nothing
    if any(cell.unreliable for cell in cells) and not daggers(cells):
        sentences.append(f"All estimates are unreliable: {UNRELIABLE}")
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
    """Numbers of importance samples and test images."""
    estimator = what_and_estimator(metric)[1] or OWN
    if array_of(metric) is None:
        return ""
    samples, images = (_range(runs, of_estimator(estimator, of)) for of in ("num_samples", "num_images"))
    return f"; {samples} importance samples for each of {images} test images"


def _range(runs: Sequence[Run], key: str) -> str:
    values = sorted({value for run in runs if (value := run.value(key)) is not None})
    return " or ".join(map(str, values)) if len(values) <= SOME else f"{values[0]} to {values[-1]}"


def _bold(cells: Sequence[Cell]) -> str:
    if not any(cell.best for cell in cells):
        return ""
    same = " among those scored on the same test images" if any(cell.images for cell in cells) else ""
    best = f"Bold: the best of each column{same}"
    if over := list(dict.fromkeys(cell.paired_over for cell in cells if cell.tested)):
        test = f"p ≥ {LEVEL:g}, two-sided t-test of the differences, paired over {' or over '.join(over)}"
        return f"{best}, and results that do not differ from it significantly ({test})"
    return f"{best}; {note_without_tests(cells)}"


def note_without_tests(cells: Sequence[Cell]) -> str:
    """Why no difference from the best of these cells is tested."""
    few = any(cell.paired_over for cell in cells)
    return f"differences are not tested with {TOO_FEW}" if few else "no difference from it could be tested"


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


def notes(metric: str, cells: Sequence[Cell]) -> list[str]:
    """The notes below a table that follow from its cells."""
    found = [f"{MARK} Unreliable: {UNRELIABLE}"] if daggers(cells) else []
    others = [cell for cell in cells if cell.mean is not None and not cell.best]
    few = sum(cell.paired_over != "" and not cell.tested for cell in others)
    if few and any(cell.tested for cell in others):
        found.append(f"{count_of(few, 'cell')} not tested: {TOO_FEW} in common with the best of the column")
    unpaired = sum(not cell.paired_over for cell in others)
    if unpaired and better(metric) and len(others) + any(cell.best for cell in cells) > 1:
        why = "other test images, no seed in common, or too few of them"
        found.append(f"{count_of(unpaired, 'cell')} not compared with the best of the column: {why}")
    return found


def damage_notes(left_out: Sequence[LeftOut], unread: Sequence[LeftOut]) -> list[str]:
    """Runs that are not in a table, and runs that were compared without their test images, with the reasons."""
    compared = "Compared without the results of each test image, which cannot be read"
    named = {compared: unread, "Left out": left_out}
    return [f"{what}: {some_of(runs)}" for what, runs in named.items() if runs]
