"""What a person sees of a run: progress while it lasts, a summary at its end."""

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from vlae.files import cannot_write

PLAIN_SECONDS = 2.0
"""Without a terminal, at most one line of figures in this time."""
MARK = "†"
MANY_UNRELIABLE = 0.05
"""Of the images: a figure with more of them whose k-hat is too large is marked."""
FEW_CHAINS = 2.0
"""Effective chains of annealed importance sampling, below which its average is that of a chain or two."""
QUIET_SECONDS = 30.0
"""Without a terminal, a line of progress after this time even where there are no figures yet."""


class Reporter:
    """Progress bars on a terminal, plain lines elsewhere, and the same lines in the attempt's log."""

    def __init__(self, log: Path | None = None, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._out = Console(quiet=quiet, highlight=False)
        self._log = log.open("a", encoding="utf-8") if log is not None else None
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self._tasks: dict[str, Any] = {}
        self._last = time.monotonic()
        self._began: dict[str, tuple[float, float]] = {}

    def __enter__(self) -> "Reporter":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
        if self._log is not None:
            self._log.close()
            self._log = None

    def line(self, text: str, style: str | None = None) -> None:
        """One line for terminal and log."""
        self.console.print(text, style=style, markup=False)
        self._write(text)

    def result(self, results: dict[str, Any], path: Path) -> None:
        """The summary, on standard output."""
        self._out.print(summary(results, path))

    def warn(self, text: str) -> None:
        self.line(f"warning: {text}", style="yellow")

    def advance(self, what: str, done: float, total: float, figures: str = "", *, last: bool = False) -> None:
        """``done`` of ``total`` epochs or images, with the latest figures."""
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total, figures="")
            self._began[what] = (time.monotonic(), done)
        self._bars.update(self._tasks[what], completed=done, total=total)
        if figures:
            self._bars.update(self._tasks[what], figures=figures)
        now = time.monotonic()
        if last or now - self._last >= (PLAIN_SECONDS if figures else QUIET_SECONDS):
            self._last = now
            at = f"{done:.0f}" if float(done).is_integer() else f"{done:.1f}"
            text = f"{what} {at}/{total:.0f}  {figures}{self._time_left(what, done, total)}"
            self._write(text)
            if not self.console.is_terminal:
                self.console.print(text, markup=False)

    def _time_left(self, what: str, done: float, total: float) -> str:
        began, start = self._began[what]
        if done >= total or done <= start:
            return ""
        return f"  {duration((time.monotonic() - began) / (done - start) * (total - done))} left"

    def _write(self, text: str) -> None:
        if self._log is not None:
            try:
                self._log.write(text + "\n")
                self._log.flush()
            except OSError as error:
                raise cannot_write(Path(self._log.name), error) from error


def duration(seconds: float) -> str:
    """``4.2 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours} h {m:02d} min" if hours else f"{m} min {s:02d} s"


def figure(mean: float, error: float | None) -> str:
    return f"{mean:.2f}" if error is None else f"{mean:.2f} ± {error:.2f}"


def doubtful(proposal: dict[str, Any]) -> bool:
    """Whether more images than MANY have weights with a tail too heavy for their average."""
    return (proposal.get("k_hat_unreliable") or 0.0) > MANY_UNRELIABLE


def warnings(results: dict[str, Any]) -> list[str]:
    """What a reader of the figures must know before believing them."""
    test, found = results["test"], []
    bad = {name: p for name, p in test["log_likelihood"].items() if doubtful(p)}
    if bad:
        shares = ", ".join(f"{p['k_hat_unreliable']:.0%} ({name})" for name, p in bad.items())
        found.append(
            f"{MARK} the weights' tail is too heavy (k-hat above {max(p['k_hat_limit'] for p in bad.values()):.2f}) "
            f"for {shares} of the images: there a few samples carry the estimate, which is probably too low, and "
            "further off than its standard error tells"
        )
    if (ais := test["log_likelihood"].get("ais")) and ais["ess_median"] < FEW_CHAINS:
        found.append(
            f"ais: at the median image only {ais['ess_median']:.1f} of {ais['num_chains']} chains count, so it is "
            "probably too low; try a larger evaluate.ais.num_distributions"
        )
    if test["bits_per_dim"] is not None and test["bits_per_dim"] > test["uniform_bits_per_dim"]:
        found.append(
            "worse than uniform noise: the training has probably diverged; try a smaller optimizer.lr"
        )
    return found


def summary(results: dict[str, Any], path: Path) -> Group:
    """The figures of a finished run, with their units."""
    test, cost = results["test"], results["cost"]
    rows = [("test ELBO", f"{figure(test['elbo'], test['elbo_standard_error'])} nats")]
    marks = {name: f" {MARK}" for name, p in test["log_likelihood"].items() if doubtful(p)}
    for name, proposal in test["log_likelihood"].items():
        value = f"{figure(proposal['mean'], proposal['standard_error'])} nats{marks.get(name, '')}"
        if name == "ais":
            value += f", first {proposal['num_images']} images"
        rows.append((f"test log-likelihood, {name}", value))
    if test["bits_per_dim"] is not None:
        rows.append(("bits per dimension", f"{test['bits_per_dim']:.4f}"))
    rows += [("warning", text) for text in warnings(results)]
    rows += [
        ("best epoch", f"{results['best_epoch']} of {results['epochs']}, selected on {results['selection']}"),
        ("seconds", f"{cost['train_seconds']:.1f} training ({cost['seconds_per_epoch']:.2f} an epoch), "
                    f"{cost['evaluate_seconds']:.1f} evaluation"),
        ("parameters", f"{cost['parameters']:,}"),
        ("in", str(path)),
    ]  # fmt: skip
    table = Table(title=results["run_id"], show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    parts: list[Table] = [table, estimators(results)]
    if ais := test["log_likelihood"].get("ais"):
        parts.append(ais_table(ais, marks))
    if test.get("bdmc"):
        parts.append(bdmc_table(test["bdmc"], marks))
    if test.get("gaps"):
        parts.append(gaps_table(test["gaps"], marks))
    return Group(*parts)


def estimators(results: dict[str, Any]) -> Table:
    """What tells whether to believe each log-likelihood, and what a figure of equal accuracy costs by it."""
    proposals = {n: p for n, p in results["test"]["log_likelihood"].items() if n != "ais"}
    images = next(iter(proposals.values()))["num_images"]
    table = Table(title=f"Estimators, {images} images (nats)", title_justify="left")
    table.add_column("proposal", style="bold")
    for column in ("log-likelihood", "ELBO", "ESS median", "min", "bad k-hat", "samples", "for ±0.1", "s"):
        table.add_column(column, justify="right")
    seconds, unsettled = results["cost"].get("seconds_by_proposal", {}), []
    for name, p in proposals.items():
        share, needed = p.get("k_hat_unreliable"), p.get("samples_for_a_tenth")
        table.add_row(
            name,
            figure(p["mean"], p["standard_error"]) + (f" {MARK}" if doubtful(p) else ""),
            figure(p["elbo"], p.get("elbo_standard_error")) if "elbo" in p else "",
            f"{p['ess_median']:.1f}",
            f"{p['ess_min']:.1f}",
            "" if share is None else f"{share:.0%}",
            f"{p.get('samples_mean', p['num_samples']):.0f}",
            "" if needed is None else f"{needed:.0f}",
            f"{seconds[name]:.1f}" if name in seconds else "",
        )
        if (search := p.get("mode_search")) and search["unconverged"]:
            unsettled.append(
                f"{name}: the search for the mode did not settle for {search['unconverged']} images"
            )
    table.caption = "\n".join(unsettled) or None
    return table


def ais_table(ais: dict[str, Any], marks: Mapping[str, str]) -> Table:
    """The proposals beside an estimate that uses none of them, on the same images."""
    rows = {"ais": (figure(ais["mean"], ais["standard_error"]), "")}
    title = f"Annealed importance sampling, the first {ais['num_images']} images (nats)"
    return _beside(title, "minus ais", rows | _proposals(ais, marks), ais)


def bdmc_table(bdmc: dict[str, Any], marks: Mapping[str, str]) -> Table:
    """Where each proposal is in the bracket around the truth."""
    lower, upper = bdmc["lower"], bdmc["upper"]
    gap = figure(bdmc["gap"], bdmc["gap_standard_error"])
    rows = {
        "upper bound": (figure(upper["mean"], upper["standard_error"]), gap),
        "lower bound": (figure(lower["mean"], lower["standard_error"]), ""),
    }
    title = f"Bracket of the truth, {bdmc['num_images']} images drawn from the model (nats)"
    return _beside(title, "minus lower bound", rows | _proposals(bdmc, marks), bdmc)


def _proposals(check: dict[str, Any], marks: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    return {
        name: (
            figure(p["mean"], p["standard_error"]) + marks.get(name, ""),
            figure(p["difference"], p["difference_standard_error"]),
        )
        for name, p in check["proposals"].items()
    }


def _beside(title: str, column: str, rows: dict[str, tuple[str, str]], check: dict[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("", style="bold")
    table.add_column("log-likelihood", justify="right")
    table.add_column(column, justify="right")
    for name, values in rows.items():
        table.add_row(name, *values)
    acceptance = check["acceptance"]
    table.caption = (
        f"{check['num_chains']} chains (ESS median {check['ess_median']:.1f}, min {check['ess_min']:.1f}), "
        f"{check['num_distributions']} distributions"
    ) + (f", acceptance {acceptance:.2f}" if acceptance is not None else "")
    return table


def gaps_table(gaps: dict[str, Any], marks: Mapping[str, str]) -> Table:
    """Where the ELBO is lost."""
    by = gaps["log_likelihood_by"]
    table = Table(title=f"Gaps, the first {gaps['num_images']} images (nats)", title_justify="left")
    columns = {
        "ELBO": f"{gaps['elbo']:.2f}",
        "amortisation gap": figure(gaps["amortisation"], gaps["amortisation_standard_error"]),
        "best ELBO of the family": f"{gaps['optimal_elbo']:.2f}",
        "approximation gap": figure(gaps["approximation"], gaps["approximation_standard_error"]),
        f"log-likelihood, {by}": f"{gaps['log_likelihood']:.2f}{marks.get(by, '')}",
        "inference iterations": str(gaps["iterations"]),
    }
    for column in columns:
        table.add_column(column, justify="right")
    table.add_row(*columns.values())
    return table


def status_table(status: dict[str, Any], path: Path) -> Table:
    """Where an unfinished run stands."""
    table = Table(title=status["run_id"], show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name in ("state", "reason", "message", "attempt", "updated"):
        if status.get(name) is not None:
            table.add_row(name, str(status[name]))
    for name, value in (status.get("progress") or {}).items():
        table.add_row(name, str(value))
    table.add_row("run directory", str(path))
    return table
