"""A trained model, evaluated again with other settings than its run's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlae.config.compose import override, validate
from vlae.config.schema import FIXED_SECTIONS, fields
from vlae.experiment.build import check_posterior
from vlae.experiment.load import frozen_config, load
from vlae.experiment.prepare import load_images_to_score, use_threads
from vlae.experiment.results import write_evaluation
from vlae.experiment.scoring import score_again
from vlae.runs.directory import RunDirectory

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
    cfg = validate(override_evaluation(frozen_config(directory), overrides), to_run=False)
    use_threads(cfg)
    trained = load(str(directory.path), device=cfg.device)
    x = load_images_to_score(trained.preprocess, cfg, trained.device)
    check_posterior(cfg, trained.model, x)
    scores = score_again(trained, cfg, x)
    directory.settle()
    return write_evaluation(trained, cfg, scores, x)
