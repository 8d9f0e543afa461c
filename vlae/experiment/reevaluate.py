"""A trained model, evaluated again with other settings than its run's."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlae.config.compose import fixed_keys, override, validate
from vlae.config.targets import build
from vlae.estimation.importance import unit_log_jacobian
from vlae.estimation.test_metrics import check_arrays, save_evaluations
from vlae.experiment.build import use_threads
from vlae.experiment.prepare import check_posterior, images_to_score, test_set
from vlae.experiment.results import report
from vlae.experiment.scoring import score
from vlae.experiment.trained_model import load
from vlae.runs.directory import RunDirectory
from vlae.runs.snapshot import executed
from vlae.system.console import Reporter
from vlae.system.files import check_inside, json_bytes, make_directory, write_atomically
from vlae.system.interruption import Interruption

CHANGEABLE = (
    *fixed_keys("evaluate"),
    *("seed", "device", "num_threads", "dataset.root", "dataset.path", "dataset.url"),
)


def changed(container: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The run's configuration with overrides of what an evaluation may change; ConfigError for others.

    Its device is chosen anew: the one it was trained on says nothing about this machine.
    """
    return override({**container, "device": "auto"}, overrides, CHANGEABLE)


def evaluate_again(directory: RunDirectory, overrides: Sequence[str]) -> tuple[dict[str, Any], Path]:
    """Figures like those of results.json, and the file in RUN/evaluations/ that holds them.

    One file for each setting of ``evaluate`` and ``seed``: the same command replaces its own figures alone.
    """
    executed()
    container = changed(directory.config(), overrides)
    cfg = validate(container, to_run=False)
    use_threads(cfg)
    trained = load(str(directory.path), device=cfg.device)
    splits = build(cfg.dataset).to(trained.device)
    x = images_to_score(test_set(trained.preprocess, splits, cfg), cfg)
    check_posterior(cfg, trained.model, x)
    with Interruption() as interruption, Reporter() as reporter:
        scores = score(trained, cfg, x, interruption, reporter, resumable=False)
    directory.settle()
    results = report(trained, cfg, scores, x)
    settings = cfg.evaluate.model_dump(exclude={"memory_budget"}) | {"seed": cfg.seed}
    results["evaluated_with"] = settings
    name = hashlib.sha256(json_bytes(settings)).hexdigest()[:10]
    place = make_directory(check_inside(directory.path, "evaluations"))
    log_jacobian = unit_log_jacobian(trained.preprocess, x)
    checks = check_arrays(scores, log_jacobian)
    save_evaluations(place / f"{name}.npz", scores.proposals, log_jacobian, checks)
    write_atomically(place / f"{name}.json", json_bytes(results))
    return results, place / f"{name}.json"
