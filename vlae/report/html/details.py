"""The configurations of a report, and the details of each run: what distinguishes it, and its metrics in words."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from vlae.estimation.reliability import MARK, fit_in_words
from vlae.experiment.summary import NOT_SCORED, with_error
from vlae.report.metric_values import MEAN, UNRELIABLE, VALIDATION, of_estimator, what_and_estimator
from vlae.report.names import group_name, word
from vlae.report.runs import Run, Runs
from vlae.report.tables.cells import coverage_of, estimator_error_of, judged_by_another
from vlae.report.tables.groups import COLUMNS, Configuration, configurations, differing, row_keys_of
from vlae.system.console import duration

MOST = 1000  # runs that have details, at most


class Detail(NamedTuple):
    """The details of one run."""

    anchor: str
    run: Run
    model: str
    settings: tuple[tuple[str, str], ...]  # the settings in which it differs from others
    metrics: tuple[tuple[str, str], ...]

    @property
    def title(self) -> str:
        """The label that distinguishes the run in its sweep, or its id."""
        return self.run.label or self.run.id


def models(runs: Runs) -> list[Configuration]:
    """The configurations of these runs, in the order of the table, named with their column where there are several."""
    found = configurations(runs, row_keys_of(runs))
    if len({model.column for model in found}) == 1:
        return found
    return [replace(model, name=f"{model.name} ({group_name(COLUMNS, model.column)})") for model in found]


def common_settings(runs: Runs) -> list[tuple[str, str]]:
    """The settings that all runs share, without the seed."""
    varied = {*differing(runs.runs), "seed"}
    return [(key, word(value)) for key, value in runs.runs[0].settings.items() if key not in varied]


def details(runs: Runs, models: Sequence[Configuration]) -> list[Detail]:
    """The details of all runs, in the order of the models, by seed."""
    varied = {"seed": None, **dict.fromkeys(differing(runs.runs))}
    found: list[Detail] = []
    for name, run in ((model.name, run) for model in models for run in model.runs):
        settings = tuple((key, word(run.settings[key])) for key in varied if key in run.settings)
        found.append(Detail(f"run-{len(found) + 1}", run, name, settings, metrics_in_words(run)))
    return found


def metrics_in_words(run: Run) -> tuple[tuple[str, str], ...]:
    """Names and values; empty for a run that is not done."""
    if run.metrics is None:
        return ()
    try:
        return tuple(_rows_of_metrics(run))
    except (TypeError, ValueError) as error:
        return (("metrics", f"results.json has a value that is no number: {error}"),)


def _rows_of_metrics(run: Run) -> Iterator[tuple[str, str]]:
    if (elbo := run.value("test.elbo")) is not None:
        yield "test ELBO", f"{with_error(elbo, run.value('test.elbo_standard_error'))} nats"
    elif not run.is_scored:
        if (validation := run.value(VALIDATION)) is not None:
            yield "validation ELBO", f"{validation:.2f} nats"
        yield "test", NOT_SCORED
    for what, name in map(what_and_estimator, run.metrics or ()):
        if what == MEAN:
            yield f"log-likelihood, {name}", _estimate(run, name)
            if fit := fit_in_words(name, run.value):
                yield f"{name}, stages", fit
    for each in coverage_of([run]):
        share = with_error(each.share, each.standard_error)
        yield (
            f"true z in the {each.percent} % region, {each.posterior}",
            f"{share} of images drawn from the model",
        )
    for gap in ("amortisation", "approximation"):
        if (value := run.value(f"test.gaps.{gap}")) is not None:
            yield f"{gap} gap", f"{with_error(value, run.value(f'test.gaps.{gap}_standard_error'))} nats"
    if (bits := run.value("test.bits_per_dim")) is not None:
        yield "bits per dimension", f"{bits:.4f}"
    yield "best epoch", f"{run.value('best_epoch')} of {run.value('epochs')}"
    keys = {"training": "cost.train_seconds", "evaluation": "cost.evaluate_seconds"}
    if times := [_time(run, key, what) for what, key in keys.items() if run.value(key) is not None]:
        yield "time", ", ".join(times)
    if (parameters := run.value("cost.parameters")) is not None:
        yield "parameters", f"{parameters:,}"
    if (memory := run.value("cost.peak_memory_bytes")) is not None:
        yield "peak memory", f"{memory / 2**20:,.0f} MiB"
    commit, changed = run.value("environment.code.commit"), run.value("environment.code.changed")
    code = str(run.value("environment.code.hash") or "unknown")
    yield "code", code + (f", commit {commit[:12]}{' with changes' if changed else ''}" if commit else "")
    where = [run.value(f"environment.{key}") for key in ("device", "host", "python", "torch")]
    names = ("", "host ", "Python ", "PyTorch ")
    if known := [f"{name}{value}" for name, value in zip(names, where, strict=True) if value is not None]:
        yield "ran on", ", ".join(known)


def _time(run: Run, key: str, what: str) -> str:
    """``2 min training (1 min of it by other runs)``."""
    others = run.number(f"{key}_taken_over")
    shared = f" ({duration(others)} of it by other runs)" if others else ""
    return f"{duration(run.number(key) or 0.0)} {what}{shared}"


def _estimate(run: Run, name: str) -> str:
    """An estimate with its diagnostics."""
    is_doubtful = run.value(of_estimator(name, UNRELIABLE)) and not judged_by_another(run, name)
    doubt = f" {MARK}" if is_doubtful else ""
    error = run.value(of_estimator(name, "standard_error"))
    said = [f"{with_error(run.value(of_estimator(name)), error)} nats{doubt}"]
    if (off := estimator_error_of(run, of_estimator(name))) is not None:
        said.append(f"estimator error {'unknown' if math.isinf(off) else f'{off:.2g} nats'}")
    if (share := run.value(of_estimator(name, "k_hat_unreliable"))) is not None:
        said.append(f"bad k-hat on {share:.0%} of the images")
    if (samples := run.value(of_estimator(name, "ess_median"))) is not None:
        said.append(f"{samples:.0f} effective samples for the median image")
    return ", ".join(said)
