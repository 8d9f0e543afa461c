"""Print the tables of docs/results from finished runs of a sweep: ``python docs/results/tables.py SWEEP [RUNS]``."""

import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

import vlae

MODELS = ("vae", "savae", "hf", "iaf", "fullcov", "vlae", "vlae_newton")
PROPOSALS = ("own", "laplace", "fitted")
Runs = pd.DataFrame
"""The runs of one model, one row per seed."""


def of(proposal: str, what: str = "mean") -> str:
    """The metric of this name by a proposal."""
    return f"test.log_likelihood.{proposal}.{what}"


def over_seeds(values: pd.Series, decimals: int = 2, sign: str = "") -> str:
    """Mean and standard error over seeds (ddof 1) as text."""
    text = f"{values.mean():{sign}.{decimals}f}"
    return text + (f" ± {values.std() / np.sqrt(len(values)):.{decimals}f}" if len(values) > 1 else "")


def levels(runs: Runs) -> dict[str, str]:
    """A row of the table of log-likelihoods by each estimator, and what they differ by."""
    found = {"ELBO": over_seeds(runs["test.elbo"])}
    found |= {name: over_seeds(runs[of(name)]) for name in PROPOSALS}
    for name in PROPOSALS[:-1]:
        found[f"{name} - fitted"] = over_seeds(runs[of(name)] - runs[of("fitted")], sign="+")
    return found


def reliability(runs: Runs) -> dict[str, str]:
    """A row of the table of bad k-hats, effective samples and estimator errors."""
    found = {}
    for name in PROPOSALS:
        found[f"bad k-hat, {name}"] = f"{runs[of(name, 'k_hat_unreliable')].mean():.1%}"
    for name in PROPOSALS:
        found[f"ESS, {name}"] = f"{runs[of(name, 'ess_median')].mean():.0f}"
    for name in PROPOSALS:
        errors = runs[of(name, "estimator_error.total")]
        found[f"error, {name}"] = "unknown" if errors.isna().any() else f"{errors.max():.3f}"
    return found


def bracket(runs: Runs) -> dict[str, str]:
    """A row of the table of bounds, and of calibration."""
    found = {}
    for place, images in (("real", "test images"), ("simulated", "drawn from the model")):
        section = f"test.bracket.{place}"
        found[f"gap, {images}"] = over_seeds(runs[f"{section}.gap"], 3)
        found[f"fitted - lower, {images}"] = over_seeds(
            runs[f"{section}.proposals.fitted.difference"], 3, "+"
        )
    for posterior in ("own", "fitted"):
        for percent in (50, 90):
            values = runs[f"test.bracket.calibration.{posterior}.coverage_{percent}"]
            found[f"{posterior}, {percent} %"] = over_seeds(values)
    return found


def gaps(runs: Runs) -> dict[str, str]:
    """A row of the table of gaps between ELBO and log p(x)."""
    keys = {"amortisation gap": "amortisation", "approximation gap": "approximation"}
    return {title: over_seeds(runs[f"test.gaps.{key}"]) for title, key in keys.items()}


def order(by_model: Mapping[str, Runs], proposal: str) -> str:
    """The models from the best to the worst."""
    return ", ".join(sorted(by_model, key=lambda model: -by_model[model][of(proposal)].mean()))


def table(by_model: Mapping[str, Runs], row: Callable[[Runs], dict[str, str]]) -> str:
    """A Markdown table with a row for each model."""
    rows = {model: row(runs) for model, runs in by_model.items()}
    titles = list(next(iter(rows.values())))
    lines: list[Sequence[str]] = [["model", *titles], ["---", *["---:"] * len(titles)]]
    lines += [[model, *cells.values()] for model, cells in rows.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main(sweep: str, runs_dir: str = "runs") -> None:
    """Print the tables of each output distribution; SystemExit if no run of the sweep is finished."""
    frame = vlae.runs(sweep, runs_dir)
    done = frame[frame["state"] == "done"]
    if done.empty:
        raise SystemExit(f"{runs_dir}: no finished run of {sweep}")
    for output, runs in done.groupby("output_dist.name"):
        by_model = {model: found for model in MODELS if len(found := runs[runs["model.name"] == model])}
        print(f"## {str(output).capitalize()} output\n")
        print(f"Seeds: {', '.join(f'{model} {len(found)}' for model, found in by_model.items())}.\n")
        for title, row in (
            ("Log-likelihood by each estimator (nats per image).", levels),
            (
                "Share of images with a bad k-hat, effective samples, largest estimator error (nats).",
                reliability,
            ),
            (
                "Bounds (nats), and the share of true z in the regions of 50 and 90 % of each posterior.",
                bracket,
            ),
            ("Gaps (nats).", gaps),
        ):
            print(title + "\n")
            print(table(by_model, row))
        for proposal in PROPOSALS:
            print(f"By {proposal}, from the best: {order(by_model, proposal)}.\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])
