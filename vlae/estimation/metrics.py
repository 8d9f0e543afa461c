"""Scores of a test set, and its metrics: the ``test`` section of results.json and the arrays of the .npz beside it."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vlae.config.schema import ESTIMATORS
from vlae.estimation.estimators import arrays, metrics
from vlae.estimation.parts import Subject, results_below
from vlae.system.files import write_atomically


@dataclass
class Scores:
    """Everything that was measured of a model and its test set, in model space."""

    subject: Subject
    results: dict[str, Any] = field(default_factory=dict)
    """The ``Estimates`` of each part, by its key. Empty if the test set was not scored."""
    seconds: float = 0.0
    """Time of the evaluation over all attempts, with that of ``taken_over``."""
    taken_over: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By the key of a part: the ``run`` that measured some of it, how many ``images``, in how many ``seconds``."""

    def cost(self) -> dict[str, Any]:
        """Seconds by proposal and stage of its fit, and of each other estimator; None: it has measured nothing."""
        proposals = results_below(self.results, "proposals.")
        found: dict[str, Any] = {
            "seconds_by_proposal": {name: each.seconds for name, each in proposals.items()},
            "seconds_by_stage": {n: each.seconds_by_stage for n, each in proposals.items() if each.is_fitted},
        }
        for estimator in ESTIMATORS:
            if estimator not in ("importance", "gaps"):  # the gaps take the rest of the evaluation
                found[f"{estimator}_seconds"] = self._seconds(estimator)
        return found

    def _seconds(self, estimator: str) -> float | None:
        found = [each.seconds for key, each in self.results.items() if key.partition(".")[0] == estimator]
        return sum(found) if found else None


def test_set_metrics(scores: Scores) -> dict[str, Any]:
    """The ``test`` section of results.json, in nats per image. Empty if nothing was scored."""
    return metrics(scores.results, scores.subject) if scores.results else {}


def save_scores(path: Path, scores: Scores) -> None:
    """Write one number per image: those of each estimator's ``arrays``, and ``log_jacobian``.

    Log-likelihoods and ELBOs are those of results.json; ``log_jacobian`` is what preprocessing adds to the values
    of model space, see ``Preprocess.unit_log_jacobian``.
    """
    found = {"log_jacobian": scores.subject.log_jacobian, **arrays(scores.results, scores.subject)}
    buffer = io.BytesIO()
    numbers: dict[str, Any] = {name: values.numpy() for name, values in found.items()}
    np.savez(buffer, **numbers)
    write_atomically(path, buffer.getvalue())
