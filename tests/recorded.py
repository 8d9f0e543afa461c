"""Run directories with real records and made-up metrics."""

import copy
from functools import cache
from pathlib import Path

import numpy as np

from vlae.config.compose import compose
from vlae.config.run_id import run_id
from vlae.runs.directory import RunDirectory

IMAGES = 12


@cache
def _composed(*overrides: str) -> dict:
    return compose(["dataset=digits", *overrides])


def container(*overrides: str, seed: int = 0, **changes: object) -> dict:
    """A composed configuration; ``changes``: dotted keys with __ for the dots."""
    found = copy.deepcopy(_composed(*overrides))
    found["seed"] = seed
    for key, value in changes.items():
        *sections, last = key.split("__")
        place = found
        for section in sections:
            place = place[section]
        place[last] = value
    return found


def proposal(values: np.ndarray, unreliable: float = 0.0) -> dict:
    """The section of a proposal, of the log-likelihood of each image."""
    return {
        "mean": float(values.mean()),
        "standard_error": float(values.std(ddof=1) / len(values) ** 0.5),
        "num_samples": 5000,
        "num_images": len(values),
        "elbo": float(values.mean()) - 1,
        "ess_median": 100.0,
        "k_hat_limit": 0.7,
        "k_hat_unreliable": unreliable,
    }


def results(cfg: dict, by: dict[str, np.ndarray], unreliable: float = 0.0) -> dict:
    """Results in the form that a run writes."""
    return {
        "run_id": run_id(cfg),
        "seed": cfg["seed"],
        "best_epoch": 3,
        "epochs": 4,
        "test": {
            "elbo": -3.5,
            "log_likelihood": {name: proposal(values, unreliable) for name, values in by.items()},
            "gaps": None,
            "bits_per_dim": None,
        },
        "validation": {"elbo": -3.0},
        "cost": {"train_seconds": 2.0 + cfg["seed"], "seconds_by_proposal": {"own": 1.0}},
        "environment": {"code": {"hash": "0123456789ab", "commit": "c" * 40, "changed": False}, "host": "h"},
    }


def done(
    runs_dir: Path, cfg: dict, level: float = 0.0, unreliable: float = 0.0, images: int = IMAGES
) -> Path:
    """A run whose images have log-likelihoods around ``level``, those of ``fitted`` 1 above those of ``own``."""
    run = RunDirectory.create(runs_dir, run_id(cfg), cfg)
    generator = np.random.default_rng([cfg["seed"], len(cfg["model"]["name"])])
    own = level + np.linspace(-2, 2, images) + generator.normal(0, 0.1, images)
    np.savez(run.path / "test_log_likelihood.npz", log_likelihood=own, log_likelihood_fitted=own + 1)
    run.write_status(state="done")
    run.write_results(results(cfg, {"own": own, "fitted": own + 1}, unreliable))
    return run.path


def stopped(runs_dir: Path, cfg: dict, **status: object) -> Path:
    """A run that is not done: new, or what its status says."""
    run = RunDirectory.create(runs_dir, run_id(cfg), cfg)
    if status:
        run.write_status(**status)
    return run.path
