"""What is told of each run: what distinguishes it, and its figures in words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vlae.estimation.reliability import MARK
from vlae.experiment.summary import with_error
from vlae.report.html.models import Model
from vlae.report.metric_values import MEAN, UNRELIABLE, of_estimator, what_and_estimator
from vlae.report.names import word
from vlae.report.runs import Run, Runs
from vlae.report.tables.groups import differing
from vlae.system.console import duration

MOST = 1000
"""Runs that are told of one by one."""


@dataclass(frozen=True)
class Detail:
    """Of one run."""

    anchor: str
    run: Run
    model: str
    settings: tuple[tuple[str, str], ...]
    """In which it differs from others of the sweep."""
    figures: tuple[tuple[str, str], ...]

    @property
    def title(self) -> str:
        return self.run.label or self.run.id


def common_settings(runs: Runs) -> list[tuple[str, str]]:
    """Those that all runs have alike, the seed never among them."""
    readable = _readable(runs)
    if not readable:
        return []
    varied = {*differing(readable), "seed"}
    return [(key, word(value)) for key, value in readable[0].settings.items() if key not in varied]


def details(runs: Runs, models: Sequence[Model]) -> list[Detail]:
    """In the order of the models, by seed; runs that fit no model come last."""
    readable = _readable(runs)
    varied = {"seed": None, **dict.fromkeys(differing(readable))} if readable else {"seed": None}
    names = {run.id: model.name for model in models for run in model.runs}
    ordered = [run for model in models for run in model.runs]
    ordered += [run for run in runs.runs if run.id not in names]
    return [
        Detail(
            f"run-{number}",
            run,
            names.get(run.id, ""),
            tuple((key, word(run.settings[key])) for key in varied if key in run.settings),
            figures_of(run),
        )
        for number, run in enumerate(ordered, 1)
    ]


def _readable(runs: Runs) -> list[Run]:
    return [run for run in runs.runs if run.readable]


def estimators(runs: Sequence[Run]) -> list[str]:
    """By which any of them was scored."""
    keys = dict.fromkeys(key for run in runs for key in run.figures or ())
    return [estimator for what, estimator in map(what_and_estimator, keys) if what == MEAN]


def figures_of(run: Run) -> tuple[tuple[str, str], ...]:
    """None of a run that is not done. What was changed by hand, and is no figure any more, is said to be none."""
    if run.figures is None:
        return ()
    try:
        return tuple(_figures(run))
    except (TypeError, ValueError) as error:
        return (("figures", f"results.json was changed by hand: {error}"),)


def _figures(run: Run) -> Iterator[tuple[str, str]]:
    if (elbo := run.value("test.elbo")) is not None:
        yield "test ELBO", f"{with_error(elbo, run.value('test.elbo_standard_error'))} nats"
    for name in estimators([run]):
        yield f"log-likelihood, {name}", _estimate(run, name)
    for gap in ("amortisation", "approximation"):
        if (value := run.value(f"test.gaps.{gap}")) is not None:
            yield f"{gap} gap", f"{with_error(value, run.value(f'test.gaps.{gap}_standard_error'))} nats"
    if (bits := run.value("test.bits_per_dim")) is not None:
        yield "bits per dimension", f"{bits:.4f}"
    yield "best epoch", f"{run.value('best_epoch')} of {run.value('epochs')}"
    yield from _costs(run)
    commit, changed = run.value("environment.code.commit"), run.value("environment.code.changed")
    code = str(run.value("environment.code.hash") or "unknown")
    yield "code", code + (f", commit {commit[:12]}{' with changes' if changed else ''}" if commit else "")
    where = [run.value(f"environment.{key}") for key in ("device", "host", "python", "torch")]
    names = ("", "host ", "Python ", "PyTorch ")
    if told := [f"{name}{value}" for name, value in zip(names, where, strict=True) if value is not None]:
        yield "executed on", ", ".join(told)


def _estimate(run: Run, name: str) -> str:
    """With what tells whether to believe it."""
    doubt = f" {MARK}" if run.value(of_estimator(name, UNRELIABLE)) else ""
    error = run.value(of_estimator(name, "standard_error"))
    said = [f"{with_error(run.value(of_estimator(name)), error)} nats{doubt}"]
    if (share := run.value(of_estimator(name, "k_hat_unreliable"))) is not None:
        said.append(f"bad k-hat on {share:.0%} of the images")
    if (samples := run.value(of_estimator(name, "ess_median"))) is not None:
        said.append(f"{samples:.0f} effective samples at the median image")
    return ", ".join(said)


def _costs(run: Run) -> Iterator[tuple[str, str]]:
    train, evaluate = run.value("cost.train_seconds"), run.value("cost.evaluate_seconds")
    times = [
        f"{duration(seconds)} {what}"
        for seconds, what in ((train, "training"), (evaluate, "evaluation"))
        if seconds is not None
    ]
    if times:
        yield "time", ", ".join(times)
    if (parameters := run.value("cost.parameters")) is not None:
        yield "parameters", f"{parameters:,}"
    if (memory := run.value("cost.peak_memory_bytes")) is not None:
        yield "peak of memory", f"{memory / 2**20:,.0f} MiB"
