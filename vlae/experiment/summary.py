"""Summary of a finished run in the terminal: its metrics and their reliability."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from vlae.estimation.reliability import (
    common_proposal,
    doubtful,
    error_of,
    fit_in_words,
    marks_of,
    proposals_of,
    reliability_warnings,
)
from vlae.system.console import count_of
from vlae.system.disk import RecordError

SIDE_BY_SIDE = 2
"""Proposals in one table, so that a terminal of 80 columns cuts no number off."""
OWN_TABLES = ("log_likelihood", "bracket", "bdmc", "gaps")
"""Sections of the test metrics that have a table of their own form."""
NOT_SCORED = "not scored; the same command without evaluate=none scores it"
"""The state of a run that was trained and validated only."""


def with_error(mean: float, error: float | None) -> str:
    """A mean and its standard error as text.

    >>> with_error(-11.216, 0.351), with_error(-11.216, None)
    ('-11.22 ± 0.35', '-11.22')
    """
    return f"{mean:.2f}" if error is None else f"{mean:.2f} ± {error:.2f}"


def run_summary(results: dict[str, Any], path: Path) -> Group:
    """The metrics of a finished run, with their units. RecordError: the results lack some of them."""
    try:
        return Group(*_tables(results, path))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise RecordError(
            f"{path / 'results.json'} does not hold the metrics of a run of this version ({reason})"
        ) from error


def _tables(results: dict[str, Any], path: Path) -> Iterator[Table]:
    test, cost = results["test"], results["cost"]
    marks = marks_of(results)
    rows = _rows_of_elbo(results)
    rows += _rows_of_likelihood(proposals_of(results), marks)
    if test.get("bits_per_dim") is not None:
        rows.append(("bits per dimension", f"{test['bits_per_dim']:.4f}"))
    rows += [("warning", text) for text in reliability_warnings(results)]
    rows += [
        *(("taken over", text) for text in filter(None, [taken_over(results.get("taken_over") or {})])),
        ("best epoch", f"{results['best_epoch']} of {results['epochs']}, selected on {results['selection']}"),
        ("seconds", f"{cost['train_seconds']:.1f} training ({cost['seconds_per_epoch']:.2f} per epoch), "
                    f"{cost['evaluate_seconds']:.1f} evaluation"),
        ("parameters", f"{cost['parameters']:,}"),
        ("in", str(path)),
    ]  # fmt: skip
    yield text_table(results["run_id"], rows)
    yield from estimator_tables(results)
    if ais := test.get("log_likelihood", {}).get("ais"):
        yield ais_table(ais, marks)
    if bracket := test.get("bracket"):
        yield bracket_table(bracket, marks)
        yield calibration_table(bracket["calibration"])
    if bdmc := test.get("bdmc"):
        yield bdmc_table(bdmc, marks)
    if gaps := test.get("gaps"):
        yield gaps_table(gaps, marks)
    for name, section in test.items():
        if isinstance(section, dict) and name not in OWN_TABLES:
            yield section_table(name, section)


def taken_over(taken: Mapping[str, Any]) -> str:
    """The parts of a run that others have computed; empty: none. taken: the section ``taken_over`` of results.json."""
    parts = []
    if training := taken.get("training"):
        parts.append(f"{count_of(training['epochs'], 'epoch')} from {training['run']}")
    by_run: dict[str, list[str]] = {}
    for part, found in (taken.get("scores") or {}).items():
        name = part.removeprefix("proposals.")
        by_run.setdefault(found["run"], []).append(f"{name} of {count_of(found['images'], 'image')}")
    parts += [f"{', '.join(names)} from {run}" for run, names in by_run.items()]
    return "; ".join(parts)


def _rows_of_elbo(results: dict[str, Any]) -> list[tuple[str, str]]:
    """The ELBO of the test images; of a run that was not scored that of the validation images, and how to score it."""
    if test := results["test"]:
        return [("test ELBO", f"{with_error(test['elbo'], test['elbo_standard_error'])} nats")]
    found, validation = [("test", NOT_SCORED)], results["validation"]["elbo"]
    if validation is not None:
        found.insert(0, ("validation ELBO", f"{validation:.2f} nats"))
    return found


def _rows_of_likelihood(
    proposals: Mapping[str, Mapping[str, Any]], marks: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """The log-likelihood by the common proposal, then those by others with their difference from it."""
    common = common_proposal(list(proposals))
    for name in sorted(proposals, key=lambda name: name != common):
        p = proposals[name]
        value = f"{with_error(p['mean'], p['standard_error'])} nats{marks.get(name, '')}"
        if (difference := p.get("difference")) is not None:
            error, way = p["difference_standard_error"], "lower" if difference < 0 else "higher"
            value += f", {with_error(abs(difference), error)} {way} than {p['difference_from']}"
        yield f"test log-likelihood, {name}", value


def text_table(title: str, rows: list[tuple[str, str]]) -> Table:
    """A label and a text in each row."""
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # texts hold brackets, which are no markup
    return table


def metric_table(title: str, *names: str) -> Table:
    """A table of numbers, none of which is cut off or wrapped."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("", style="bold", overflow="fold")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def estimator_tables(results: dict[str, Any]) -> Iterator[Table]:
    """Tables of the reliability of each log-likelihood, and of the cost of equal accuracy by each proposal."""
    proposals, marks = list(proposals_of(results).items()), marks_of(results)
    seconds = results["cost"].get("seconds_by_proposal", {})
    for first in range(0, len(proposals), SIDE_BY_SIDE):
        some = dict(proposals[first : first + SIDE_BY_SIDE])
        images = next(iter(some.values()))["num_images"]
        table = metric_table(f"Estimators, {images} images", *some)
        shown = [estimator_rows(p, seconds.get(name), marks.get(name, "")) for name, p in some.items()]
        for label in shown[0]:
            table.add_row(label, *(texts[label] for texts in shown))
        table.caption = "\n".join(_search_notes(some, results)) or None
        yield table


def _search_notes(proposals: Mapping[str, Mapping[str, Any]], results: Mapping[str, Any]) -> Iterator[str]:
    """How the search for the mode ended where it did not settle; the stages of a fit, and what remains unreliable."""
    for name, p in proposals.items():
        if (search := p.get("mode_search")) and search["unconverged"]:
            yield f"{name}: the search for the mode did not settle for {search['unconverged']} images"
        if fit := fit_in_words(name, flat(results).get):
            yield f"{name}: {fit}"


def estimator_rows(p: dict[str, Any], seconds: float | None, mark: str = "") -> dict[str, str]:
    """The rows of one proposal; empty if a run of an older version lacks the value."""
    doubt, share, needed = doubtful(p), p.get("k_hat_unreliable"), p.get("samples_for_a_tenth")
    elbo = with_error(p["elbo"], p.get("elbo_standard_error")) if "elbo" in p else ""
    return {
        "log-likelihood (nats)": with_error(p["mean"], p["standard_error"]) + mark,
        "estimator error (nats)": _error_text(error_of(p)),
        "ELBO by it (nats)": elbo,
        "effective samples: median": f"{p['ess_median']:.1f}",
        "effective samples: least": f"{p['ess_min']:.1f}",
        "images with a bad k-hat": "unknown" if share is None else f"{share:.0%}",
        "samples per image (mean)": f"{p.get('samples_mean', p['num_samples']):.0f}",
        # with too heavy a tail the variance is unknown, too: at least so many
        "samples needed for ±0.1": "" if needed is None else ("> " if doubt else "") + f"{needed:.0f}",
        "seconds": "" if seconds is None else f"{seconds:.1f}",
    }


def _error_text(error: float | None) -> str:
    """An estimator error in nats; empty for a run of an older version."""
    return "" if error is None else "unknown" if math.isinf(error) else f"{error:.2g}"


def bracket_table(bracket: dict[str, Any], marks: Mapping[str, str]) -> Table:
    """The bounds and the estimates between them, of test images and of images drawn from the model."""
    checks = {"test images": bracket["real"], "from the model": bracket["simulated"]}
    heads = (f"{check['num_images']} {name}" for name, check in checks.items())
    table = metric_table("Bounds of log p(x) (nats)", *heads)
    for name in ("upper", "lower"):
        bounds = [check[name] for check in checks.values()]
        table.add_row(f"{name} bound", *(with_error(each["mean"], each["standard_error"]) for each in bounds))
    gaps = [with_error(check["gap"], check["gap_standard_error"]) for check in checks.values()]
    table.add_row("gap", *gaps)
    for name in {name: None for check in checks.values() for name in check["proposals"]}:
        beside = [check["proposals"].get(name) for check in checks.values()]
        table.add_row(
            f"{name} minus lower bound", *(_difference_text(p, marks.get(name, "")) for p in beside)
        )
    chains = [f"{check['ess_median']:.1f} ({check['ess_min']:.1f})" for check in checks.values()]
    table.add_row("effective chains: median (least)", *chains)
    real = bracket["real"]
    table.caption = (
        f"{real['num_chains']} chains, {real['num_distributions']} distributions, "
        f"acceptance {real['acceptance']:.2f}"
    )
    return table


def _difference_text(p: Mapping[str, Any] | None, mark: str) -> str:
    """The difference of a proposal from a bound; empty if it has not scored these images."""
    return "" if p is None else with_error(p["difference"], p["difference_standard_error"]) + mark


def calibration_table(calibration: Mapping[str, Mapping[str, Any]]) -> Table:
    """How often the true z lies in regions of each posterior, on images drawn from the model."""
    images = next(iter(calibration.values()))["num_images"]
    table = metric_table(
        f"Calibration of q(z | x), {images} images from the model",
        "50 % region",
        "90 % region",
        "rank distance",
    )
    for name, found in calibration.items():
        shares = [found[f"coverage_{percent}"] for percent in (50, 90)]
        errors = [found[f"coverage_{percent}_standard_error"] for percent in (50, 90)]
        table.add_row(name, *map(with_error, shares, errors), f"{found['rank_distance']:.2f}")
    table.caption = f"p(z | x) itself: 0.50, 0.90, and a rank distance below {uniform_distance(images):.2f}"
    return table


def uniform_distance(values: int) -> float:
    """The distance from uniform of so many uniform values, which 95 of 100 sets stay below (Kolmogorov-Smirnov).

    >>> round(uniform_distance(100), 3)
    0.134
    """
    root = math.sqrt(values)  # Stephens 1970: good to three digits from five values on
    return 1.358 / (root + 0.12 + 0.11 / root)


def ais_table(ais: dict[str, Any], marks: Mapping[str, str]) -> Table:
    """The proposals beside an estimate that is independent of them, on the same images."""
    bounds = [("ais", with_error(ais["mean"], ais["standard_error"]))]
    title = f"Annealed importance sampling, the first {ais['num_images']} images (nats)"
    return _annealing_table(title, "minus ais", bounds, ais, marks)


def bdmc_table(bdmc: dict[str, Any], marks: Mapping[str, str]) -> Table:
    """The position of each proposal in the bracket around the truth."""
    lower, upper = bdmc["lower"], bdmc["upper"]
    gap = with_error(bdmc["gap"], bdmc["gap_standard_error"])
    bounds = [
        ("upper bound", with_error(upper["mean"], upper["standard_error"]), gap),
        ("lower bound", with_error(lower["mean"], lower["standard_error"])),
    ]
    title = f"Bracket of the truth, {bdmc['num_images']} images drawn from the model (nats)"
    return _annealing_table(title, "minus lower bound", bounds, bdmc, marks)


def _annealing_table(
    title: str, column: str, bounds: list[tuple[str, ...]], check: dict[str, Any], marks: Mapping[str, str]
) -> Table:
    """The bounds by annealing, then each proposal on the same images with its ``difference`` from them."""
    table = metric_table(title, "log-likelihood", column)
    for row in bounds:
        table.add_row(*row)
    for name, p in check["proposals"].items():
        value = with_error(p["mean"], p["standard_error"]) + marks.get(name, "")
        table.add_row(name, value, with_error(p["difference"], p["difference_standard_error"]))
    acceptance = check["acceptance"]
    table.caption = (
        f"{check['num_chains']} chains (effective: median {check['ess_median']:.1f}, least {check['ess_min']:.1f}), "
        f"{check['num_distributions']} distributions"
    ) + (f", acceptance {acceptance:.2f}" if acceptance is not None else "")
    return table


def gaps_table(gaps: dict[str, Any], marks: Mapping[str, str]) -> Table:
    """The gaps between the ELBO and log p(x)."""
    by, approximation = gaps["log_likelihood_by"], gaps["approximation"]
    doubt = next((mark for name in by.split(", ") if (mark := marks.get(name))), "")
    rows = [
        ("ELBO", f"{gaps['elbo']:.2f}"),
        ("+ amortisation gap", with_error(gaps["amortisation"], gaps["amortisation_standard_error"])),
        ("= best ELBO of the family", f"{gaps['optimal_elbo']:.2f}"),
        ("+ approximation gap", with_error(approximation, gaps["approximation_standard_error"]) + doubt),
        (f"= log-likelihood, {by}", f"{gaps['log_likelihood']:.2f}{doubt}"),
        ("refinements of the model's own inference", str(gaps["iterations"])),
    ]
    return text_table(f"Gaps, the first {gaps['num_images']} images (nats)", rows)


def section_table(name: str, section: Mapping[str, Any]) -> Table:
    """The numbers of any other estimator, by their names in its section; those that are missing are left out."""
    rows = [(key, _value_text(value)) for key, value in flat(section).items() if value is not None]
    return text_table(f"Estimator {name}", rows)


def flat(section: Mapping[str, Any], beginning: str = "") -> dict[str, Any]:
    """The values of a section and those in it, by names with dots.

    >>> flat({"lower": {"mean": -1.0}, "num_images": 2})
    {'lower.mean': -1.0, 'num_images': 2}
    """
    found: dict[str, Any] = {}
    for name, value in section.items():
        key = beginning + name
        found |= flat(value, f"{key}.") if isinstance(value, Mapping) else {key: value}
    return found


def _value_text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def status_table(status: Mapping[str, Any], path: Path) -> Table:
    """State and progress of an unfinished run."""
    names = ("state", "reason", "message", "attempt", "updated")
    rows = [(name, str(status[name])) for name in names if status.get(name) is not None]
    for name, value in (status.get("progress") or {}).items():
        rows.append((name, f"{value:.1f}" if isinstance(value, float) else str(value)))
    return text_table(status["run_id"], [*rows, ("run directory", str(path))])
