"""Print the tables of docs/results from finished runs of a sweep: ``python docs/results/tables.py SWEEP [RUNS]``."""

import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

import vlae

MODELS = ("vae", "savae", "hf", "iaf", "fullcov", "vlae", "vlae_newton")
PROPOSALS = ("own", "laplace", "fitted")
BEST = "fitted"
Runs = pd.DataFrame
"""The runs of one model, one row per seed."""
ByModel = Mapping[str, Runs]
Row = Callable[[str, ByModel], dict[str, str]]
"""The cells of a model's row, by the titles of their columns."""


def of(proposal: str, what: str = "mean") -> str:
    """The metric of this name by a proposal."""
    return f"test.log_likelihood.{proposal}.{what}"


def over_seeds(values: pd.Series, decimals: int = 2, sign: str = "") -> str:
    """Mean and standard error over seeds (ddof 1) as text."""
    values = values.dropna()
    text = f"{values.mean():{sign}.{decimals}f}"
    return text + (f" ± {values.std() / np.sqrt(len(values)):.{decimals}f}" if len(values) > 1 else "")


def levels(model: str, by_model: ByModel) -> dict[str, str]:
    """log p(x) by each estimator, and how much the others are below the best."""
    runs = by_model[model]
    found = {"ELBO": over_seeds(runs["test.elbo"])}
    found |= {name: over_seeds(runs[of(name)]) for name in PROPOSALS}
    for name in PROPOSALS[:-1]:
        found[f"{name} - {BEST}"] = over_seeds(runs[of(name)] - runs[of(BEST)], sign="+")
    return found


def gains(model: str, by_model: ByModel) -> dict[str, str]:
    """log p(x) minus that of the VAE of the same seed, by each estimator."""
    mine, vae = (by_model[name].set_index("seed") for name in (model, "vae"))
    metrics = {"ELBO": "test.elbo"} | {name: of(name) for name in PROPOSALS}
    return {title: over_seeds(mine[metric] - vae[metric], sign="+") for title, metric in metrics.items()}


def reliability(model: str, by_model: ByModel) -> dict[str, str]:
    """Bad k-hats, effective samples of the median image and the largest estimator error of a run."""
    runs, found = by_model[model], {}
    for name in PROPOSALS:
        found[f"bad k-hat, {name}"] = f"{runs[of(name, 'k_hat_unreliable')].mean():.1%}"
    for name in PROPOSALS:
        found[f"ESS, {name}"] = f"{runs[of(name, 'ess_median')].mean():.0f}"
    for name in PROPOSALS:
        errors = runs[of(name, "estimator_error.total")]
        found[f"error, {name}"] = "unknown" if errors.isna().any() else f"{errors.max():.3f}"
    for stage in ("longer", "annealed"):
        found[stage] = f"{(runs[of(BEST, f'stages.{stage}')] / runs[of(BEST, 'num_images')]).mean():.1%}"
    return found


def bracket(model: str, by_model: ByModel) -> dict[str, str]:
    """The gap between the bounds, and where log p(x) by the best estimator lies in it."""
    runs, found = by_model[model], {}
    for place, images in (("real", "test images"), ("simulated", "drawn from the model")):
        section = f"test.bracket.{place}"
        found[f"gap, {images}"] = over_seeds(runs[f"{section}.gap"], 3)
        found[f"{BEST} - lower bound, {images}"] = over_seeds(
            runs[f"{section}.proposals.{BEST}.difference"], 3, "+"
        )
    return found


def calibration(model: str, by_model: ByModel) -> dict[str, str]:
    """Shares of the true z in the regions of 50 and 90 %, and the distance of their ranks from uniform ones."""
    runs, found = by_model[model], {}
    for posterior, title in (("own", "q(z given x)"), (BEST, BEST)):
        section = f"test.bracket.calibration.{posterior}"
        for percent in (50, 90):
            values = runs.get(f"{section}.coverage_{percent}")
            known = values is not None and values.notna().all()
            found[f"{percent} %, {title}"] = over_seeds(values) if known else "no density"
        distances = runs.get(f"{section}.rank_distance")
        known = distances is not None and distances.notna().all()
        found[f"rank distance, {title}"] = over_seeds(distances) if known else "no density"
    return found


def gaps(model: str, by_model: ByModel) -> dict[str, str]:
    """What separates the ELBO from log p(x)."""
    titles = {"amortisation gap": "amortisation", "approximation gap": "approximation"}
    return {title: over_seeds(by_model[model][f"test.gaps.{key}"]) for title, key in titles.items()}


TABLES: dict[str, Row] = {
    "Log-likelihood by each estimator, nats per image": levels,
    "Gain over the VAE of the same seed, nats per image": gains,
    "Images with a bad k-hat, effective samples of the median image, largest estimator error of a run in nats, "
    "and images that needed longer chains or annealing": reliability,
    "Bounds of log p(x), nats per image": bracket,
    "Calibration on images drawn from the model": calibration,
    "Gaps between ELBO and log p(x), nats per image": gaps,
}


def table(by_model: ByModel, row: Row) -> str:
    """A Markdown table with a row for each model."""
    rows = {model: row(model, by_model) for model in by_model}
    titles = list(next(iter(rows.values())))
    lines: list[Sequence[str]] = [["model", *titles], ["---", *["---:"] * len(titles)]]
    lines += [[model, *cells.values()] for model, cells in rows.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def order(by_model: ByModel, metric: str) -> str:
    """The models from the best to the worst by the mean over their seeds."""
    return ", ".join(sorted(by_model, key=lambda model: -by_model[model][metric].mean()))


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
        for title, row in TABLES.items():
            print(f"{title}.\n\n{table(by_model, row)}\n")
        for metric in ("test.elbo", *(of(name) for name in PROPOSALS)):
            print(f"From the best by {metric}: {order(by_model, metric)}.\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])
