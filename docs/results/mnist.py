"""Prints the tables of docs/results/mnist.md from finished runs: ``python docs/results/mnist.py [runs]``."""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

MODELS = ("vae", "savae", "hf", "iaf", "fullcov", "vlae", "vlae_newton")
ESTIMATORS = ("own", "laplace", "student_t", "mixture")
Run = tuple[dict[str, Any], dict[str, np.ndarray]]
"""results.json and test_log_likelihood.npz."""


def finished(runs: Path) -> dict[tuple[str, str], list[Run]]:
    """The MNIST runs of each (output, model), by seed."""
    found: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for file in sorted(runs.glob("*-mnist-*/results.json")):
        results = json.loads(file.read_text())
        with np.load(file.with_name("test_log_likelihood.npz")) as arrays:
            found[results["output_dist"], results["model"]].append((results, dict(arrays)))
    for of_a_kind in found.values():
        of_a_kind.sort(key=lambda run: run[0]["seed"])
    return found


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def mean(runs: list[Run], *path: str) -> float:
    """Of a figure of results.json, over seeds."""
    values = []
    for results, _ in runs:
        value: Any = results
        for key in path:
            value = value[key]
        values.append(value)
    return float(np.mean(values))


def levels(runs: list[Run]) -> list[str]:
    likelihood = ("test", "log_likelihood")
    cells = [f"{mean(runs, 'test', 'elbo'):.2f}"]
    cells += [f"{mean(runs, *likelihood, name, 'mean'):.2f}" for name in ESTIMATORS]
    cells += [f"{mean(runs, *likelihood, 'laplace', 'elbo'):.2f}"]
    return [*cells, f"{mean(runs, 'cost', 'seconds_per_epoch'):.1f}"]


def trust(runs: list[Run]) -> list[str]:
    cells = []
    for name in ESTIMATORS:
        place = ("test", "log_likelihood", name)
        cells.append(
            f"{mean(runs, *place, 'ess_median'):.0f} / {mean(runs, *place, 'k_hat_unreliable'):.0%} / "
            f"{mean(runs, *place, 'samples_for_a_tenth'):.0f}"
        )
    return cells


def checked(runs: list[Run]) -> list[str]:
    place = ("test", "log_likelihood", "ais")
    cells = [f"{mean(runs, *place, 'mean'):.2f}"]
    for name in ESTIMATORS:
        difference = mean(runs, *place, "proposals", name, "difference")
        error = mean(runs, *place, "proposals", name, "difference_standard_error")
        cells.append(f"{difference:+.2f} ± {error:.2f}")
    return [*cells, f"{mean(runs, *place, 'ess_median'):.1f}"]


def gaps(runs: list[Run]) -> list[str]:
    keys = ("elbo", "amortisation", "optimal_elbo", "approximation", "log_likelihood")
    return [f"{mean(runs, 'test', 'gaps', key):.2f}" for key in keys]


def gains(runs: list[Run], vae: list[Run]) -> list[str]:
    """Over the VAE of the same seed: paired over images, then averaged over seeds."""
    cells = []
    for key in ("elbo", "elbo_laplace", *(f"log_likelihood{end(name)}" for name in ESTIMATORS)):
        pairs = [a[key] - b[key] for (_, a), (_, b) in zip(runs, vae, strict=True)]
        over_seeds = np.mean(pairs, axis=0)
        error = over_seeds.std(ddof=1) / np.sqrt(len(over_seeds))
        seeds = f" ({', '.join(f'{pair.mean():+.2f}' for pair in pairs)})" if len(pairs) > 1 else ""
        cells.append(f"{over_seeds.mean():+.2f} ± {error:.2f}{seeds}")
    return cells


def end(name: str) -> str:
    return "" if name == "own" else f"_{name}"


def main(runs: Path) -> None:
    found = finished(runs)
    for output in ("bernoulli", "gaussian"):
        rows = {model: found[output, model] for model in MODELS if (output, model) in found}
        if not rows:
            continue
        seeds = sorted({len(of_a_kind) for of_a_kind in rows.values()})
        print(f"## {output.capitalize()} output, seeds a model: {', '.join(map(str, seeds))}\n")
        header = ["model", "ELBO, own", *ESTIMATORS, "ELBO, laplace", "s an epoch"]
        print("Levels, nats.\n\n" + table(header, [[m, *levels(r)] for m, r in rows.items()]))
        print(
            "Effective sample size (median) / images with bad k-hat / samples for a standard error of 0.1 nats.\n"
        )
        print(table(["model", *ESTIMATORS], [[m, *trust(r)] for m, r in rows.items()]))
        header = ["model", "ais", *(f"{name} - ais" for name in ESTIMATORS), "chains that count"]
        print("Annealed importance sampling, 50 images.\n")
        print(table(header, [[m, *checked(r)] for m, r in rows.items()]))
        header = ["model", "ELBO", "amortisation gap", "best ELBO of family", "approximation gap", "log p(x)"]
        print("Gaps, 100 images.\n\n" + table(header, [[m, *gaps(r)] for m, r in rows.items()]))
        if "vae" in rows:
            header = ["model", "ELBO, own", "ELBO, laplace", *ESTIMATORS]
            body = [[m, *gains(r, rows["vae"])] for m, r in rows.items() if m != "vae"]
            print("Gain over the VAE, paired over images (each seed's).\n\n" + table(header, body))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
