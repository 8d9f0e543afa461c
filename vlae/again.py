"""A trained model, evaluated again with other settings than its run's."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlae import config
from vlae.code import executed
from vlae.console import Reporter
from vlae.evaluate import unit_log_jacobian
from vlae.figures import check_arrays, save_evaluations
from vlae.files import check_inside, json_bytes, make_directory, write_atomically
from vlae.interruption import Interruption
from vlae.record import RunDirectory
from vlae.results import report
from vlae.scoring import score
from vlae.trained import check_posterior, images_to_score, load, test_set, use_threads

CHANGEABLE = (
    *config.fixed_keys("evaluate"),
    *("seed", "device", "num_threads", "dataset.root", "dataset.path", "dataset.url"),
)


def changed(container: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The run's configuration with overrides of what an evaluation may change; ConfigError for others.

    Its device is chosen anew: the one it was trained on says nothing about this machine.
    """
    return config.override({**container, "device": "auto"}, overrides, CHANGEABLE)


def evaluate_again(directory: RunDirectory, overrides: Sequence[str]) -> tuple[dict[str, Any], Path]:
    """Figures like those of results.json, and the file in RUN/evaluations/ that holds them.

    One file for each setting of ``evaluate`` and ``seed``: the same command replaces its own figures alone.
    """
    executed()
    container = changed(directory.config(), overrides)
    cfg = config.validate(container, to_run=False)
    use_threads(cfg)
    trained = load(str(directory.path), device=cfg.device)
    splits = config.build(cfg.dataset).to(trained.device)
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
