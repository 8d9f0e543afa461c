"""A trained model, evaluated again with other settings than its run's."""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vlae import config, data, measurements
from vlae.console import Reporter, figure
from vlae.evaluate import Evaluation, evaluate, figures
from vlae.files import RecordError, json_bytes, make_directory, write_atomically
from vlae.interruption import Interruption
from vlae.record import RunDirectory
from vlae.seeding import generator
from vlae.trained import load

CHANGEABLE = ("evaluate.", "seed=", "num_threads=", "dataset.root=", "dataset.path=", "dataset.url=")


def changed(container: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The run's configuration with overrides of what an evaluation may change; ConfigError for others."""
    problems = [
        config.Problem(text.split("=")[0], f"cannot be changed by an evaluation; {', '.join(CHANGEABLE)} can")
        for text in overrides
        if "=" not in text or not text.startswith(CHANGEABLE)
    ]
    if problems:
        raise config.ConfigError(problems)
    try:
        merged = OmegaConf.merge(OmegaConf.create(container), OmegaConf.from_dotlist(list(overrides)))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise config.ConfigError([config.Problem("overrides", str(error))]) from error
    plain = OmegaConf.to_container(merged)
    assert isinstance(plain, dict)  # for the type checker: a container of a mapping
    return {str(key): value for key, value in plain.items()}


def evaluate_again(
    directory: RunDirectory, overrides: Sequence[str], device: str
) -> tuple[dict[str, Any], Path]:
    """Figures like those of results.json, and the file in RUN/evaluations/ that holds them.

    One file for each setting of ``evaluate`` and ``seed``: the same command replaces its own figures alone.
    """
    container = changed(directory.config(), overrides)
    cfg = config.validate(container)
    trained = load(str(directory.path), device=device)
    splits = data.load(cfg.dataset).to(trained.device)
    test = trained.preprocess.evaluation_set(
        splits.test, "test", generator(trained.device, cfg.seed, "test set")
    )
    x = test[: cfg.evaluate.num_images]
    with Interruption() as interruption, Reporter() as reporter:

        def report(evaluation: Evaluation) -> None:
            mean = evaluation.log_likelihood[: evaluation.done].mean().item()
            text = f"log-likelihood {figure(mean, None)} nats (model space)"
            reporter.advance(
                "evaluating image", evaluation.done, len(x), text, last=evaluation.done == len(x)
            )

        began = time.monotonic()
        evaluation = evaluate(
            trained.model,
            x,
            num_samples=cfg.evaluate.num_samples,
            memory_budget=cfg.evaluate.memory_budget,
            seed=cfg.seed,
            interruption=interruption,
            report=report,
        )
    results = trained.results
    if results is None:
        raise RecordError(f"{directory.path} has no results yet: finish the run first")
    results["test"] = figures(evaluation, trained.preprocess, x, cfg.evaluate.num_samples)
    results["cost"] = {**results["cost"], "evaluate_seconds": time.monotonic() - began}
    results["evaluate"], results["seed_of_evaluation"] = cfg.evaluate.model_dump(), cfg.seed
    results["environment"] = measurements.environment(trained.device)
    settings = {key: value for key, value in results["evaluate"].items() if key != "memory_budget"}
    name = hashlib.sha256(json_bytes({**settings, "seed": cfg.seed})).hexdigest()[:10]
    place = make_directory(directory.path / "evaluations")
    evaluation.save(place / f"{name}.npz")
    write_atomically(place / f"{name}.json", json_bytes(results))
    return results, place / f"{name}.json"
