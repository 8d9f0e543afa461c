"""Print the tables of docs/results/mnist.md from finished runs: ``python docs/results/mnist.py [runs]``."""

import json
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

MODELS = ("vae", "savae", "hf", "iaf", "fullcov", "vlae", "vlae_newton")
ESTIMATORS = ("own", "laplace", "student_t", "mixture")
MARK = "†"
Run = tuple[dict[str, Any], dict[str, np.ndarray]]
"""The content of results.json, and the arrays of test_log_likelihood.npz."""
Values = Callable[[Run], np.ndarray]
"""One number per image of a run."""


def finished(runs: Path) -> dict[tuple[str, str], dict[int, Run]]:
    """The finished runs of ``experiment=mnist_estimators``: by (output, model), then by seed.

    The frozen configurations decide which runs belong to the experiment.
    """
    found: dict[tuple[str, str], dict[int, Run]] = defaultdict(dict)
    for file in sorted(runs.glob("*-mnist-*/results.json")):
        config = yaml.safe_load(file.with_name("config.yaml").read_text())
        config = config.get("config", config)
        of_the_experiment = (
            config["trainer"]["epochs"] == 10
            and config["model"]["latent_dim"] == 20
            and config["model"]["hidden_dims"] == [200, 200]
            and (config["model"].get("activation", "relu"), config["model"].get("network", "mlp"))
            == ("relu", "mlp")
            and config["evaluate"].get("num_images") == 500
            and config["evaluate"].get("proposals") == list(ESTIMATORS)
        )
        if of_the_experiment:
            results = json.loads(file.read_text())
            with np.load(file.with_name("test_log_likelihood.npz")) as arrays:
                run = results, dict(arrays)
            found[results["output_dist"], results["model"]][results["seed"]] = run
    return found


def of(name: str, proposal: str = "own") -> Values:
    """The function that returns an array of the .npz file: of this name, by this proposal."""
    key = name if proposal == "own" else f"{name}_{proposal}"
    return lambda run: run[1][key]


def figure(runs: dict[int, Run], values: Values, sign: str = "") -> str:
    """The mean over seeds as text: its mean and standard error over images, and the mean of each of several seeds."""
    by_seed = np.array([values(run) for _, run in sorted(runs.items())])
    images = by_seed.mean(0)
    images = images[~np.isnan(images)]
    text = f"{images.mean():{sign}.2f} ± {images.std(ddof=1) / np.sqrt(len(images)):.2f}"
    if len(by_seed) > 1:
        text += f" ({', '.join(f'{np.nanmean(seed):{sign}.2f}' for seed in by_seed)})"
    return text


def mark(runs: dict[int, Run], proposal: str) -> str:
    """The dagger if any seed has a bad k-hat on more than 5 % of the images, else nothing."""
    shares = [results["test"]["log_likelihood"][proposal]["k_hat_unreliable"] for results, _ in runs.values()]
    return f" {MARK}" if max(share or 0 for share in shares) > 0.05 else ""


def mean(runs: dict[int, Run], *path: str) -> float:
    """The mean over seeds of a number in results.json."""
    values = []
    for results, _ in runs.values():
        value: Any = results
        for key in path:
            value = value[key]
        values.append(value)
    return float(np.mean(values))


def levels(runs: dict[int, Run]) -> list[str]:
    """A row of the table of log-likelihoods and ELBOs."""
    cells = [figure(runs, of("elbo"))]
    cells += [figure(runs, of("log_likelihood", name)) + mark(runs, name) for name in ESTIMATORS]
    return [*cells, figure(runs, of("elbo", "laplace")), f"{mean(runs, 'cost', 'seconds_per_epoch'):.1f}"]


def trust(runs: dict[int, Run]) -> list[str]:
    """A row of the table of sample sizes and k-hats."""

    def cell(name: str) -> str:
        place = ("test", "log_likelihood", name)
        return (
            f"{mean(runs, *place, 'ess_median'):.0f} / {mean(runs, *place, 'k_hat_unreliable'):.0%} / "
            f"{mean(runs, *place, 'samples_for_a_tenth'):.0f}"
        )

    return [cell(name) for name in ESTIMATORS]


def checked(runs: dict[int, Run]) -> list[str]:
    """A row of the comparison with annealed importance sampling."""
    cells = [figure(runs, of("log_likelihood", "ais"))]
    for name in ESTIMATORS:

        def difference(run: Run, name: str = name) -> np.ndarray:
            return of("log_likelihood", name)(run) - of("log_likelihood", "ais")(run)

        cells.append(figure(runs, difference, "+") + mark(runs, name))
    return cells


def gaps(runs: dict[int, Run]) -> list[str]:
    """A row of the table of gaps."""
    keys = ("elbo", "amortisation", "optimal_elbo", "approximation", "log_likelihood")
    found = {key: mean(runs, "test", "gaps", key) for key in keys}
    errors = {
        key: mean(runs, "test", "gaps", f"{key}_standard_error") for key in ("amortisation", "approximation")
    }
    return [f"{found[key]:.2f}" + (f" ± {errors[key]:.2f}" if key in errors else "") for key in keys]


def gains(runs: dict[int, Run], vae: dict[int, Run]) -> list[str]:
    """A row of gains over the VAE of the same seed, image by image."""
    seeds = runs.keys() & vae.keys()
    cells = []
    for name, proposal in [
        ("elbo", "own"),
        ("elbo", "laplace"),
        *(("log_likelihood", e) for e in ESTIMATORS),
    ]:
        paired = {
            seed: (runs[seed][0], {"gain": of(name, proposal)(runs[seed]) - of(name, proposal)(vae[seed])})
            for seed in seeds
        }
        doubt = (mark(runs, proposal) or mark(vae, proposal)) if name == "log_likelihood" else ""
        cells.append(figure(paired, of("gain"), "+") + doubt)
    return cells


def table(header: list[str], rows: dict[str, list[str]]) -> str:
    """A Markdown table."""
    lines = [
        header,
        ["---"] + ["---:"] * (len(header) - 1),
        *([model, *cells] for model, cells in rows.items()),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main(runs: Path) -> None:
    """Print the tables of both outputs; SystemExit if no run of the experiment is finished."""
    found = finished(runs)
    if not found:
        raise SystemExit(f"{runs}: no finished run of experiment=mnist_estimators")
    for output in ("bernoulli", "gaussian"):
        rows = {model: found[output, model] for model in MODELS if (output, model) in found}
        if not rows:
            continue
        missing = [model for model in MODELS if model not in rows]
        seeds = ", ".join(f"{model} {len(of_model)}" for model, of_model in rows.items())
        print(f"## {output.capitalize()} output\n")
        print(f"Seeds: {seeds}." + (f" Missing: {', '.join(missing)}." if missing else "") + "\n")
        header = ["model", "ELBO, own", *ESTIMATORS, "ELBO, laplace", "s per epoch"]
        print("Log-likelihood by each estimator, 500 test images.\n")
        print(table(header, {m: levels(r) for m, r in rows.items()}))
        print(
            "Effective sample size (median) / images with bad k-hat / samples for a standard error of 0.1 nats.\n"
        )
        print(table(["model", *ESTIMATORS], {m: trust(r) for m, r in rows.items()}))
        print("Annealed importance sampling, 50 images; each estimator minus it, image by image.\n")
        print(table(["model", "ais", *ESTIMATORS], {m: checked(r) for m, r in rows.items()}))
        print("Gaps, 100 images; log p(x) by the best estimator.\n")
        header = [
            "model",
            "ELBO",
            "amortisation gap",
            "best ELBO of the family",
            "approximation gap",
            "log p(x)",
        ]
        print(table(header, {m: gaps(r) for m, r in rows.items()}))
        if "vae" in rows:
            print("Gain over the VAE of the same seed, image by image.\n")
            header = ["model", "ELBO, own", "ELBO, laplace", *ESTIMATORS]
            body = {
                m: gains(r, rows["vae"])
                for m, r in rows.items()
                if m != "vae" and r.keys() & rows["vae"].keys()
            }
            print(table(header, body))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
