"""A trained model, evaluated again with other settings than its run's."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlae.config.compose import override, validate
from vlae.config.schema import FIXED_SECTIONS, fields
from vlae.config.targets import build
from vlae.estimation.metrics import save_scores
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
    *(key for key, _ in fields("evaluate") if key not in FIXED_SECTIONS),
    *("seed", "device", "num_threads", "dataset.root", "dataset.path", "dataset.url"),
)


def override_evaluation(container: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The run's configuration with overrides of the keys that an evaluation may change; ConfigError for others.

    Its device is chosen again, because this machine may lack the one it was trained on.
    """
    return override({**container, "device": "auto"}, overrides, CHANGEABLE)


def reevaluate(directory: RunDirectory, overrides: Sequence[str]) -> tuple[dict[str, Any], Path]:
    """Evaluate a trained model again. Returns results like those of results.json, and their file in RUN/evaluations/.

    Each setting of ``evaluate`` and ``seed`` has its own file: the same command replaces only its own results.
    Errors: ConfigError, DataError, RecordError; Interrupted by a signal.
    """
    executed()
    container = override_evaluation(directory.config(), overrides)
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
    save_scores(place / f"{name}.npz", scores, trained.preprocess.unit_log_jacobian(x))
    write_atomically(place / f"{name}.json", json_bytes(results))
    return results, place / f"{name}.json"
